#!/bin/sh
# From a folder of your own clips to generated video, and the comparisons of docs/real-clips.md on the way:
#   sh examples/real_clips.sh FOLDER [OUT]
# Small settings, minutes on a laptop: what the method does can be seen, the quality is not what more steps give.
set -eu
clips=${1:?usage: sh examples/real_clips.sh FOLDER [OUT]}
out=${2:-runs/real}
steps=40 # of every video autoencoder
here=$(dirname "$0")

common="-s data.path=$out/small -s data.size=48 -s data.frames=9 -s data.heldout_fraction=0.2
  -s training.threads=1 -s training.precision=bfloat16 -s training.tensorboard=false -s training.ema=0.95"
odvae="-s initial.path=$out/image -s autoencoder.hidden_size=16 -s training.steps=$steps -s training.batch_size=2
  -s training.learning_rate=5e-4 -s training.warmup=5 -s training.evaluate_every=20
  -s image_fraction=0 -s heldout_clips=8"

# What the folder gives, before anything is spent; then small copies, so that 4K is not decoded in every step.
kinolab data check "$clips" --size 48 --frames 9 --ratio 4x8
kinolab data shrink "$clips" --size 128 --out "$out/small"

# The image autoencoder, on frames.
# shellcheck disable=SC2086  # the settings are words
kinolab train image-folder --run "$out/image" $common -s "autoencoder.block_out_channels=[16,32,48,64]" \
  -s training.steps=260 -s training.learning_rate=2e-3 -s training.warmup=20 -s heldout_clips=8

# OD-VAE from it: three initialisations of one variant, and the other three variants from the tail.
for method in tail average random; do
  kinolab train odvae-folder --run "$out/$method" $common $odvae -s initial.method=$method
done
for variant in all3d half2d outer2d; do
  kinolab train odvae-folder --run "$out/$variant" $common $odvae -s autoencoder.variant=$variant
done

# Latents, a small Latte on them, and what it generates.
kinolab encode "$out/small" --size 48 --frames 9 --autoencoder "$out/tail" --out "$out/latents"
kinolab train latte-folder --run "$out/latte" -s data.path="$out/latents" -s data.heldout_fraction=0.2 \
  -s autoencoder="$out/tail" -s denoiser.hidden_size=96 -s denoiser.depth=4 -s denoiser.num_heads=3 \
  -s denoiser.input_size=6 -s denoiser.num_frames=3 -s denoiser.patch_size=1 -s training.steps=150 \
  -s training.batch_size=16 -s training.learning_rate=2e-3 -s training.warmup=20 -s training.evaluate_first=true \
  -s training.ema=0.98 -s training.threads=1 -s training.precision=bfloat16 \
  -s training.tensorboard=false
kinolab generate --model "$out/latte" --count 4 --out "$out/generated.mp4"

# A whole clip through the autoencoder, side by side with the original.
one=$(find "$out/small" -name '*.mp4' | sort | head -n 1)
kinolab reconstruct "$one" --autoencoder "$out/tail" --size 48 --upscale 3 --out "$out/reconstruction.mp4"

# The tables, and pictures of both.
python "$here/real_clips_tables.py" "$out"
