#!/bin/sh
# From a folder of your own clips to video autoencoders that begin from a released one, for docs/real-clips.md:
#   sh examples/real_clips.sh FOLDER ENCODER DECODER [OUT]
# ENCODER and DECODER are the two files of TAESD for FLUX.2, taef2_encoder.pth and taef2_decoder.pth, 2.7 MB each, from
# https://github.com/madebyollin/taesd (MIT). Small settings, minutes on a laptop; resumable: run it again.
set -eu
usage="usage: sh examples/real_clips.sh FOLDER ENCODER DECODER [OUT]"
clips=${1:?$usage}
encoder=${2:?$usage}
decoder=${3:?$usage}
out=${4:-runs/real}
here=$(dirname "$0")

# What the folder gives, before anything is spent; then small copies, so that 4K is not decoded in every step.
kinolab data check "$clips" --size 64 --frames 17 --ratio 8
kinolab data shrink "$clips" --size 128 --out "$out/small"

# The released image autoencoder, as it is.
[ -e "$out/taef2" ] || kinolab convert "$encoder" "$decoder" --out "$out/taef2"

# Inflated to a DP-VAE, as it is; and to a causal video autoencoder in three ways, of which the tail's goes on for 120 steps.
[ -e "$out/dpvae" ] || kinolab inflate "$encoder" "$decoder" --to dpvae --out "$out/dpvae" -s variant=outer2d \
  -s "key_frames={rule: scene}"
common="-s data.path=$out/small -s data.heldout_fraction=0.2 -s data.stride=8 -s data.in_memory=true
  -s heldout_clips=8 -s training.ema=0.97 -s training.threads=1 -s training.precision=bfloat16
  -s training.tensorboard=false -s training.save_every=20"
gentle="-s initial.path=$out/taef2 -s image_fraction=0 -s window_frames=9 -s training.batch_size=2
  -s training.learning_rate=6e-5 -s training.warmup=10"
train() {
  recipe=$1 name=$2
  shift 2
  go_on=
  [ -e "$out/$name" ] && go_on=--resume
  # shellcheck disable=SC2086  # the settings are words
  kinolab train "$recipe" $go_on --run "$out/$name" $common "$@"
}
# shellcheck disable=SC2086
{
  train taesd-video-folder average $gentle -s initial.method=average -s training.steps=1
  train taesd-video-folder random $gentle -s initial.method=random -s training.steps=1
  train taesd-video-folder video $gentle -s training.steps=120 -s training.evaluate_every=60 -s training.sample_every=120
}

# Beside them, what as little training gives without released weights: an image autoencoder from nothing.
train image-folder own-image -s "autoencoder.block_out_channels=[16,32,48,64]" -s training.steps=260 \
  -s training.learning_rate=2e-3 -s training.warmup=20

# All of them on the same held-out windows of 17 frames, and a picture.
for name in own-image taef2 video dpvae; do
  kinolab evaluate reconstruction "$out/$name" "$out/small" --out "$out/$name.json" --batch 2 -s samples=8 \
    -s minimum=2 -s heldout_fraction=0.2 -s "metrics=[psnr, ssim, flicker, warp, detail]"
done
python "$here/real_clips_tables.py" "$out"
