#!/usr/bin/env bash
# CamVid (11 classes, 360x480) from scratch with the light network, designed for two CPU cores; a GPU is used if there is
# one. MINUTES=29 is a shorter run. Scores: docs/results.md.
#
# From scratch and in so little time, classes with a hundredth of the pixels are hardly learnt without some extra weight,
# hence --class_balance; at 0.5 they were found everywhere. Blur harms thin classes, hence --no-gblur. The network is still
# learning at the end, hence the high learning rate and the narrow range of scales (all in LOG.md). --max_minutes fits the
# schedule to the clock.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" train.py \
    --dataset camvid \
    --arch DeepMNV3V3PlusD_m1 \
    --adam --lr 0.012 --weight_decay 0.02 --poly_exp 0.9 --warmup_epochs 3 --ema 0.998 \
    --max_minutes "${MINUTES:-58}" --max_epoch 1000 --val_interval 12 --bs_mult_val 4 \
    --crop_size 240 --crop_width 320 --scale_min 0.7 --scale_max 1.6 --bs_mult 8 --color_aug 0.4 --no-gblur \
    --class_uniform_pct 0.5 --class_balance 0.15 \
    --seed 0 --exp camvid_light "$@"
