#!/usr/bin/env bash
# Predict the KITTI test images with SEResNeXt50 for its benchmark server:
# scripts/submit_kitti_SEResNeXt50.sh <weights> <results folder> [more flags of eval.py]
# Tiles of 368, scales 1.5, 2 and 2.5, averaged with the mirrored image; each image keeps its own size.
# The result is <results folder>/kitti_test.zip, checked. Location of the data: --dataset_dir or KERBLINE_KITTI.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: $0 <weights> <results folder> [flags of eval.py]" >&2; exit 2; fi
ROOT="$(cd "$(dirname "$0")/.." && pwd)"
PYTHON="${PYTHON:-python}"
WEIGHTS="$1" RESULTS="$2"
shift 2

"$PYTHON" "$ROOT/eval.py" \
    --dataset kitti --split test \
    --arch network.deepv3.DeepSRNX50V3PlusD_m1 --snapshot "$WEIGHTS" \
    --inference_mode sliding --crop_size 368 --sliding_overlap 0.3333333333333333 --scales 1.5,2.0,2.5 \
    --dump_images --ckpt_path "$RESULTS" --exp_name kitti_test "$@"

# Names, sizes and values are checked before and after zipping.
PYTHONPATH="$ROOT" "$PYTHON" -m inference.submission "$RESULTS/kitti_test" --zip "$RESULTS/kitti_test.zip"
