#!/bin/sh
# Every task of one model on one clip, and a picture of all of them:
#   sh examples/tasks.sh MODEL CLIP STILL [OUT [SIZE]]
# SIZE is that of the model's clips, 64 by default: the box that is completed is the middle of them.
set -eu
usage="usage: sh examples/tasks.sh MODEL CLIP STILL [OUT [SIZE]]"
model=${1:?$usage}
clip=${2:?$usage}
still=${3:?$usage}
out=${4:-out/tasks}
from=$((${5:-64} / 4)) to=$((${5:-64} * 3 / 4))
here=$(dirname "$0")
mkdir -p "$out"

kinolab predict "$clip" --model "$model" --given 8 --out "$out/predict.mkv"
kinolab predict "$clip" --model "$model" --given 8 --past --out "$out/past.mkv"
kinolab interpolate "$clip" --model "$model" --frames 17 --every 4 --out "$out/interpolate.mkv"
kinolab animate "$still" --model "$model" --out "$out/animate.mkv"
kinolab animate "$clip" "$still" --model "$model" --out "$out/two-images.mkv"
kinolab complete "$clip" --model "$model" --frames 17 --box $from,$from,$to,$to --keep exact --out "$out/complete.mkv"
kinolab extend "$out/predict.mkv" --model "$model" --frames 41 --out "$out/extend.mkv"
kinolab extend "$out/predict.mkv" --model "$model" --frames 33 --loop --out "$out/loop.mkv"

python "$here/tasks_picture.py" "$out" "$clip"
