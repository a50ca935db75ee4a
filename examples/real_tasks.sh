#!/bin/sh
# Every task on a folder of your own clips, and new clips like them, for docs/tasks.md and docs/real-clips.md:
#   sh examples/real_tasks.sh FOLDER CLIP STILL ENCODER DECODER [OUT]
# CLIP is a clip of the folder to work on, STILL any picture or clip whose first frame is animated with it. ENCODER and
# DECODER are the two files of TAESD for FLUX.2, taef2_encoder.pth and taef2_decoder.pth, 2.7 MB each, from
# https://github.com/madebyollin/taesd (MIT): the autoencoder is trained already, and only the VDT is trained here.
# Small settings, minutes on a laptop: what the tasks do can be seen, the quality is not what more steps give.
set -eu
usage="usage: sh examples/real_tasks.sh FOLDER CLIP STILL ENCODER DECODER [OUT]"
clips=${1:?$usage}
clip=${2:?$usage}
still=${3:?$usage}
encoder=${4:?$usage}
decoder=${5:?$usage}
out=${6:-runs/real-tasks}
here=$(dirname "$0")

kinolab data shrink "$clips" --size 128 --out "$out/small"
[ -e "$out/taef2" ] || kinolab convert "$encoder" "$decoder" --out "$out/taef2"

# Latents with masks for every task, and one VDT for all of them: 700 steps. Both go on where they were stopped.
kinolab encode "$out/small" --size 64 --frames 17 -s data.stride=8 -a "$out/taef2" --out "$out/latents" \
  --tasks taesd-vdt-folder --draws 2 --precision bfloat16 --batch 4
go_on=
[ -e "$out/vdt" ] && go_on=--resume
kinolab train taesd-vdt-folder $go_on --run "$out/vdt" -s data.path="$out/latents" -s autoencoder="$out/taef2" \
  -s data.heldout_fraction=0.1 -s denoiser.hidden_size=160 -s denoiser.depth=4 -s denoiser.num_heads=4 \
  -s training.steps=700 -s training.batch_size=8 -s training.learning_rate=2e-3 -s training.warmup=20 \
  -s training.ema=0.97 -s training.threads=1 -s training.precision=bfloat16 -s training.tensorboard=false \
  -s training.evaluate_every=200 -s training.sample_every=1000 -s training.save_every=100

sh "$here/tasks.sh" "$out/vdt" "$clip" "$still" "$out/tasks"
kinolab generate --model "$out/vdt" --count 4 --out "$out/generated.mkv"
