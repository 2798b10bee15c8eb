#!/usr/bin/env bash
# KITTI semantics, SEResNeXt50, fold 2, from the Cityscapes model.
# Published hardware: 8 GPUs, 2 crops each. Time and mIoU here: unmeasured.
# On one GPU, as many crops a step: NGPU=1 scripts/train_kitti_SEResNeXt50.sh --accumulate 8
# (batch norm then sees 2 crops at a time instead of 16). Differences from the published training: docs/results.md.
# GPUs without bfloat16 (such as the V100 of the published runs): add --fp16.
#
# --published_loss: the published code sums the losses of a batch; its learning rate is for that sum.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" scripts/launch.py "${NGPU:-8}" train.py \
    --dataset kitti --cv 2 \
    --arch network.deepv3.DeepSRNX50V3PlusD_m1 \
    --snapshot "${CITYSCAPES_WEIGHTS:-logs/ckpt/cityscapes_SEResNeXt50/best.pth}" \
    --lr 0.001 --lr_schedule poly --poly_exp 1.0 --max_epoch 90 \
    --crop_size 360 --scale_min 1.0 --scale_max 2.0 --color_aug 0.25 \
    --class_uniform_pct 0.5 --class_uniform_tile 300 \
    --img_wt_loss --wt_bound 1.0 --published_loss \
    --bs_mult 2 --syncbn --sgd \
    --exp kitti_SEResNeXt50 "$@"
