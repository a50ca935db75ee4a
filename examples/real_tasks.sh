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

# The shipped toy-world OD-VAE goes on with real clips: 200 steps of windows of five frames.
# shellcheck disable=SC2086  # the settings are words
kinolab train odvae-folder --run "$out/odvae" $quiet -s initial.path=world -s initial.method=weights \
  -s autoencoder.variant=outer2d -s autoencoder.hidden_size=24 -s data.path="$out/small" -s data.stride=8 \
  -s data.heldout_fraction=0.1 -s loss.squared_weight=16 -s image_fraction=0 -s window_frames=5 -s heldout_clips=8 \
  -s training.steps=200 -s training.batch_size=8 -s training.optimizer=muon -s training.learning_rate=1e-3 \
  -s training.warmup=20 -s training.ema=0.98 -s training.evaluate_first=false \
  -s training.evaluate_every=100 -s training.sample_every=200 -s training.save_every=100

# Latents with masks for every task, and one VDT for all of them: 300 steps.
kinolab encode "$out/small" --size 64 --frames 17 -s data.stride=4 -a "$out/odvae" --out "$out/latents" \
  --tasks vdt-folder --draws 4
# shellcheck disable=SC2086
kinolab train vdt-folder --run "$out/vdt" $quiet -s data.path="$out/latents" -s autoencoder="$out/odvae" \
  -s data.heldout_fraction=0.1 -s denoiser.hidden_size=192 -s denoiser.depth=4 -s denoiser.patch_size=1 \
  -s training.steps=300 -s training.warmup=20 -s training.ema=0.98 -s training.evaluate_every=100 \
  -s training.sample_every=300 -s training.save_every=100

sh "$here/tasks.sh" "$out/vdt" "$clip" "$still" "$out/tasks"
