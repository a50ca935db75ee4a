#!/bin/sh
# Every task on a folder of your own clips, from the clips to the pictures of docs/tasks.md:
#   sh examples/real_tasks.sh FOLDER CLIP STILL [OUT]
# CLIP is a clip of the folder to work on, STILL any picture or clip whose first frame is animated with it.
# Small settings, minutes on a laptop: what the tasks do can be seen, the quality is not what more steps give.
set -eu
usage="usage: sh examples/real_tasks.sh FOLDER CLIP STILL [OUT]"
clips=${1:?$usage}
clip=${2:?$usage}
still=${3:?$usage}
out=${4:-runs/real-tasks}
here=$(dirname "$0")
quiet="-s training.tensorboard=false -s training.precision=bfloat16"

kinolab data shrink "$clips" --size 96 --out "$out/small"

# The shipped toy-world OD-VAE goes on with real clips: 300 steps of windows of five frames.
# shellcheck disable=SC2086  # the settings are words
kinolab train toy-odvae-sharp --run "$out/odvae" $quiet -s name=real-odvae -s initial.path=world \
  -s data.kind=folder -s data.path="$out/small" -s data.frames=17 -s data.size=64 -s data.stride=8 \
  -s data.heldout_fraction=0.1 -s loss.chroma_weight=0 -s heldout_clips=8 -s window_frames=5 \
  -s training.steps=300 -s training.batch_size=8 -s training.learning_rate=1e-3 -s training.warmup=20 \
  -s training.evaluate_every=100 -s training.sample_every=300 -s training.save_every=100

# Latents with masks for every task, and one VDT for all of them: 400 steps.
kinolab encode "$out/small" --size 64 --frames 17 -s data.stride=4 -a "$out/odvae" --out "$out/latents" \
  --tasks vdt-folder --draws 4
# shellcheck disable=SC2086
kinolab train vdt-folder --run "$out/vdt" $quiet -s data.path="$out/latents" -s autoencoder="$out/odvae" \
  -s data.heldout_fraction=0.1 -s denoiser.hidden_size=192 -s denoiser.depth=4 -s denoiser.patch_size=1 \
  -s training.steps=400 -s training.warmup=20 -s training.ema=0.98 -s training.evaluate_every=100 \
  -s training.sample_every=400 -s training.save_every=100

sh "$here/tasks.sh" "$out/vdt" "$clip" "$still" "$out/tasks"
