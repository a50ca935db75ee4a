#!/bin/sh
# A video from an image model on your own clips, for docs/real-clips.md:
#   sh examples/real_image_model.sh FOLDER CLIP FROM TO ENCODER DECODER [OUT]
# FOLDER holds clips and captions (a table such as captions.csv). CLIP is one of them, FROM what it shows, TO what it shall
# show. ENCODER and DECODER are the two files of TAESD for FLUX.2, as in real_clips.sh. Small settings; run it again and it
# goes on, and with another CLIP it uses the models that are trained.
set -eu
usage="usage: sh examples/real_image_model.sh FOLDER CLIP FROM TO ENCODER DECODER [OUT]"
clips=${1:?$usage}
clip=${2:?$usage}
from=${3:?$usage}
to=${4:?$usage}
encoder=${5:?$usage}
decoder=${6:?$usage}
out=${7:-runs/real-image}
here=$(dirname "$0")

[ -e "$out/taef2" ] || kinolab convert "$encoder" "$decoder" --out "$out/taef2"
kinolab data shrink "$clips" --size 128 --out "$out/small"
kinolab encode "$out/small" --size 64 --frames 8 --fps 8 -s data.stride=4 -a "$out/taef2" --out "$out/latents" \
  --tasks "$here/real-video.yaml" --draws 2 --text minilm --precision bfloat16

train() {
  recipe=$1 name=$2
  shift 2
  go_on=
  [ -e "$out/$name" ] && go_on=--resume
  # shellcheck disable=SC2086  # nothing, or a word
  kinolab train "$here/$recipe.yaml" $go_on --run "$out/$name" -s autoencoder="$out/taef2" "$@"
}
train real-image image -s data.path="$out/latents"
train real-video video -s data.path="$out/latents" -s initial.path="$out/image"
train real-control control -s data.path="$out/small" -s initial.path="$out/image"

# What is made of the clip.
made="$out/$(basename "${clip%.*}")"
mkdir -p "$made"

# Image to video, from its first frame.
kinolab animate "$clip" --prompt "$from" --model "$out/video" --out "$made/animated.mp4"

# Tune-A-Video: the image model tuned on the clip, and the clip edited by it and by the image model alone.
[ -e "$made/tuned" ] || kinolab fit "$clip" --prompt "$from" --model "$out/image" --frames 8 --interval 4 --steps 100 \
  -s training.learning_rate=3e-4 --out "$made/tuned"
kinolab edit "$clip" --from "$from" --to "$to" --model "$made/tuned" --frames 8 \
  --out "$made/edit-tuned.mp4"
kinolab edit "$clip" --from "$from" --to "$to" --model "$out/image" --frames 8 --fps 8 --reach first_previous \
  --out "$made/edit-image.mp4"

# ControlVideo: the clip's lines, and other words.
kinolab data maps "$clip" --size 64 --frames 8 --out "$made/maps.mp4"
kinolab control "$clip" --prompt "$to" --model "$out/control" --frames 8 --fps 8 --out "$made/control.mp4"
