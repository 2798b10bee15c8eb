#!/usr/bin/env bash
# Cityscapes, WideResNet38: label relaxation until epoch 100, then class-weighted cross entropy, learning rate restarted.
# Published hardware: 8 GPUs of 16 GB or more, 2 crops each, float16. Published mIoU: see README.md.
# Time and mIoU here: unmeasured. On one GPU, as many crops a step: NGPU=1 scripts/train_cityscapes_WideResNet38.sh --accumulate 8
# (batch norm then sees 2 crops at a time instead of 16). Differences from the published training: docs/results.md.
# GPUs without bfloat16 (such as the V100 of the published runs): add --fp16.
#
# --published_loss: the published code sums the losses of a batch and couples its images; its learning rate of 0.001 is for
# a loss of about four times the mean. Without the flag, use --lr 0.004.
# --cv 2: the fold that this network was published with; evaluate on the same (scripts/eval_cityscapes_WideResNet38.sh does).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" scripts/launch.py "${NGPU:-8}" train.py \
    --dataset cityscapes --cv 2 \
    --arch network.deepv3.DeepWV3Plus \
    --snapshot "${MAPILLARY_WEIGHTS:-logs/ckpt/mapillary_WideResNet38/best.pth}" \
    --lr 0.001 --lr_schedule scl-poly --poly_exp 1.0 --rescale 1.0 --repoly 1.5 --max_epoch 175 \
    --crop_size 896 --scale_min 0.5 --scale_max 2.0 --color_aug 0.25 --gblur \
    --class_uniform_pct 0.5 --class_uniform_tile 1024 --max_cu_epoch 150 \
    --coarse_boost_classes 14,15,16,3,12,17,4 \
    --jointwtborder --strict_bdr_cls 5,6,7,11,12,17,18 --rlx_off_epoch 100 --wt_bound 1.0 --published_loss \
    --bs_mult 2 --syncbn --sgd \
    --exp cityscapes_WideResNet38 "$@"
