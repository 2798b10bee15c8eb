#!/usr/bin/env bash
# Cityscapes, DINOv2-Small with the head of DPT, after the public log of UniMatch V2's supervised baseline
# (github.com/LiheYoung/UniMatch-V2, training-logs/table02-cityscapes_labeled_only_all_labels_dinov2_small.log): 83.5 mIoU on val
# after its last epoch, 83.8 at best, 20.5 hours on 4 GPUs. Time and mIoU here: unmeasured.
#
# From the log: 4 GPUs x 4 crops of 798, 360 epochs; learning rate 0.000005 for the trunk, 40 times that for the head.
# From that repository's supervised.py and dataset/semi.py: AdamW, weight decay 0.01, (1 - step / steps)^0.9; scales 0.5 to 2, mirrored,
# images drawn uniformly, no change of colours.
# Differences: plain cross entropy, where the log has the hardest pixels (threshold 0.7, at least 200000 of them); biases and
# norms are not decayed here.
# On one GPU, as many crops a step: NGPU=1 scripts/train_cityscapes_dinov2.sh --bs_mult 16, or --bs_mult 4 --accumulate 4;
# --checkpoint_activations saves memory. This project's methods: add --relax --class_uniform_pct 0.5, and with that --maxSkip 3.
# Evaluate as the log does: eval.py --inference_mode sliding --crop_size 798 --single_scale --no_flip
# TRUNK: dinov2_vits14_pretrain.pth; by default in pretrained_models/ (where to get it: pretrained_models/README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python}"

"$PYTHON" scripts/launch.py "${NGPU:-4}" train.py \
    --dataset cityscapes \
    --arch DinoV2SmallDPT --trunk_weights "${TRUNK:-imagenet}" \
    --adam --lr 0.0002 --trunk_lr 0.025 --weight_decay 0.01 --poly_exp 0.9 --max_epoch 360 \
    --crop_size 798 --scale_min 0.5 --scale_max 2.0 --color_aug 0 --no-gblur \
    --class_uniform_pct 0 --bs_mult 4 --val_interval 10 \
    --seed 0 --exp cityscapes_dinov2 "$@"
