#!/usr/bin/env bash
# Mapillary Vistas, WideResNet38: the pre-training of the CVPR 2019 recipe (16 crops of 896 per step, 175 epochs).
# Published hardware: 8 GPUs of 16 GB or more, 2 crops each. Time and mIoU here: unmeasured.
# On one GPU, as many crops a step: NGPU=1 scripts/train_mapillary_WideResNet38.sh --accumulate 8
# (batch norm then sees 2 crops at a time instead of 16). Differences from the published training: docs/results.md.
# GPUs without bfloat16 (such as the V100 of the published runs): add --fp16.
#
# --published_loss: the published code sums the losses of a batch; its learning rate is for that sum.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" scripts/launch.py "${NGPU:-8}" train.py \
    --dataset mapillary \
    --arch network.deepv3.DeepWV3Plus \
    --trunk_weights "${TRUNK_WEIGHTS:-imagenet}" \
    --lr 0.02 --lr_schedule poly --poly_exp 1.0 --max_epoch 175 \
    --crop_size 896 --scale_min 0.5 --scale_max 2.0 --color_aug 0.25 --gblur \
    --class_uniform_pct 0.5 --class_uniform_tile 1024 \
    --img_wt_loss --wt_bound 6.0 --published_loss \
    --bs_mult 2 --syncbn --sgd \
    --exp mapillary_WideResNet38 "$@"
