#!/usr/bin/env bash
# Predict the Cityscapes test split with SEResNeXt50 for its benchmark server:
# scripts/submit_cityscapes_SEResNeXt50.sh <weights> <results folder> [more flags of eval.py]
# Scales 0.5, 1 and 2, averaged with the mirrored image. pred/ holds label ids, as the server expects.
# The result is <results folder>/cityscapes_test.zip, checked. Location of the data: --dataset_dir or KERBLINE_CITYSCAPES.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: $0 <weights> <results folder> [flags of eval.py]" >&2; exit 2; fi
ROOT="$(cd "$(dirname "$0")/.." && pwd)"
PYTHON="${PYTHON:-python}"
WEIGHTS="$1" RESULTS="$2"
shift 2

"$PYTHON" "$ROOT/eval.py" \
    --dataset cityscapes --split test \
    --arch network.deepv3.DeepSRNX50V3PlusD_m1 --snapshot "$WEIGHTS" \
    --inference_mode sliding --crop_size 1024 --sliding_overlap 0.3333333333333333 --scales 0.5,1.0,2.0 \
    --dump_images --ckpt_path "$RESULTS" --exp_name cityscapes_test "$@"

# Names, sizes and values are checked before and after zipping.
PYTHONPATH="$ROOT" "$PYTHON" -m inference.submission "$RESULTS/cityscapes_test" --zip "$RESULTS/cityscapes_test.zip"
