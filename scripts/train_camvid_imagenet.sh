#!/usr/bin/env bash
# CamVid (11 classes, 360x480) with a light network whose trunk was trained on ImageNet, designed for two CPU cores; a GPU is
# used if there is one. MINUTES=30 is a shorter run. Scores: docs/results.md.
#
# The images are trained on enlarged, about 1.5 times, and the decoder reads the trunk at stride 2 (--refine): poles and signs
# are a few pixels wide. So evaluate at that scale: eval.py --scales 1.5. Where a GPU allows larger crops and scales, they
# bring three points more; docs/results.md has the flags ("five minutes of a GPU").
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" train.py \
    --dataset camvid \
    --arch DeepEffLite2V3PlusD_m1 --refine --trunk_weights imagenet \
    --adam --lr 0.006 --trunk_lr 0.3 --weight_decay 0.02 --poly_exp 0.9 --warmup_epochs 1 --ema 0.998 \
    --max_minutes "${MINUTES:-150}" --max_epoch 1000 --val_interval 5 --bs_mult_val 4 \
    --crop_size 320 --crop_width 416 --scale_min 0.9 --scale_max 2.2 --bs_mult 8 --color_aug 0.5 --no-gblur \
    --class_uniform_pct 0.5 --paste 0.5 --class_balance 0.15 --jaccard 0.5 \
    --seed 0 --exp camvid_imagenet "$@"
