#!/usr/bin/env bash
# Score SEResNeXt50 on Cityscapes: scripts/eval_cityscapes_SEResNeXt50.sh <weights> <results folder> [more flags of eval.py]
# Sliding tiles of 1024, overlap 1/3, scale 1, averaged with the mirrored image. CV=0, the default, is the fold that
# scripts/train_cityscapes_SEResNeXt50.sh holds out. To score published checkpoints, use the official split: CV=0.
set -euo pipefail
if [ $# -lt 2 ]; then echo "usage: $0 <weights> <results folder> [flags of eval.py]" >&2; exit 2; fi
ROOT="$(cd "$(dirname "$0")/.." && pwd)"
PYTHON="${PYTHON:-python}"
WEIGHTS="$1" RESULTS="$2"
shift 2

"$PYTHON" "$ROOT/eval.py" \
    --dataset cityscapes --split val --cv_split "${CV:-0}" \
    --arch network.deepv3.DeepSRNX50V3PlusD_m1 --snapshot "$WEIGHTS" \
    --inference_mode sliding --crop_size 1024 --sliding_overlap 0.3333333333333333 --scales 1.0 \
    --ckpt_path "$RESULTS" "$@"
