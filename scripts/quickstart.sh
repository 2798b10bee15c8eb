#!/usr/bin/env bash
# From nothing to a segmented street photo within a minute, and to a network of one's own, trained and scored: five minutes on
# two CPU cores once the packages are installed; a GPU is used if there is one. A second run reuses what exists. A shorter
# trial, as a separate run: MINUTES=0.7 EXP=trial scripts/quickstart.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt

DATA="${DATA:-data/streets}"
EXP="${EXP:-quickstart}"
MINUTES="${MINUTES:-3.3}"
RUN="logs/ckpt/$EXP"
python="$VENV/bin/python"

echo "== 1 of 5: segmenting a street photo with the network in pretrained_models/"
"$python" demo.py --demo-image docs/photos/highway.jpg --save-dir "$RUN/photo"
echo "look at $RUN/photo/highway_overlay.png; for your own: $python demo.py --demo-image YOUR_PHOTO"

echo "== 2 of 5: drawing street scenes"
"$python" -m datasets.streets --root "$DATA"

# Training this short ends before it can overfit: little augmentation, and small classes get a little more weight. Few, small
# crops a step make enough steps on slow cores: poles are learnt in the second hundred.
echo "== 3 of 5: training for $MINUTES minutes"
"$python" train.py \
    --dataset streets --dataset_dir "$DATA" --arch DeepEffLite2V3PlusD_m1 --trunk_weights imagenet \
    --adam --lr 0.01 --weight_decay 0.02 --poly_exp 0.9 --warmup_epochs 50 \
    --max_minutes "$MINUTES" --max_epoch 1000 --val_interval 1000 --bs_mult_val 4 \
    --crop_size 144 --crop_width 192 --scale_min 0.9 --scale_max 1.1 --bs_mult 4 --color_aug 0 --no-gblur \
    --class_uniform_pct 0.6 --class_balance 0.2 --paste 0.5 --jaccard 0.5 \
    --exp "$EXP" --resume

echo "== 4 of 5: scoring on held-out streets"
"$python" eval.py \
    --snapshot "$RUN/best.pth" --dataset_dir "$DATA" --split test --inference_mode pooling --single_scale \
    --ckpt_path "$RUN/eval" --dump_images

echo "== 5 of 5: segmenting one of them"
picture="$(find "$DATA/test" -type f | LC_ALL=C sort | head -n 1)"
"$python" demo.py --demo-image "$picture" --snapshot "$RUN/best.pth" --save-dir "$RUN/demo"

"$python" - "$RUN" <<'PY'
import json
import sys

with open(f"{sys.argv[1]}/eval/streets_test/metrics.json", encoding="utf-8") as file:
    scores = json.load(file)
print(f"""
a real street photo        {sys.argv[1]}/photo/highway_overlay.png
mIoU on held-out streets   {scores['mean_iou']:.3f}
the segmented image        {sys.argv[1]}/demo
all held-out streets       {sys.argv[1]}/eval/streets_test/report.html (open it in a browser)
run folder                 {sys.argv[1]} (curves.png, samples/, best.pth)
TensorBoard                {sys.argv[1]}/tensorboard (pip install tensorboard; tensorboard --logdir logs/tb)
next                       python demo.py --demo-image YOUR_PHOTO --snapshot {sys.argv[1]}/best.pth""")
PY
