"""How much the classes of a video flicker, with and without --temporal: python benchmarks/flicker.py VIDEO CHECKPOINT.

Flicker: share of the pixels visible in two consecutive frames whose class changes along the optical flow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from inference.load import load_model
from inference.predictor import Predictor
from inference.temporal import Smoother, flicker
from utils.text import counted
from utils.video_io import opened_video


def main(path: str, snapshot: str, scale: float) -> None:
    model = load_model(snapshot)
    predictor = Predictor(
        model.net, len(model.classes), scales=(scale,), mean=model.checkpoint.mean, std=model.checkpoint.std
    )
    smoother = Smoother()
    before = None
    found: list[tuple[float, float]] = []
    changed = []
    with opened_video(path) as video:
        for _, image in video.frames:
            probabilities = predictor.probabilities(image)
            plain, smooth = (
                p.argmax(0).to("cpu").numpy().astype(np.uint8)
                for p in (probabilities, smoother(image, probabilities))
            )
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            changed.append((plain != smooth).mean())
            if before is not None:
                found.append((flicker(plain, before[0], grey, before[2]), flicker(smooth, before[1], grey, before[2])))
            before = (plain, smooth, grey)
    if not found:
        sys.exit(f"{path}: {counted(len(changed), 'frame')} could be read; flicker needs two.")
    plain, smooth = np.array(found).T
    print(f"{len(found) + 1} frames; flicker in percent: median (5th to 95th percentile)")
    for name, values in (("each frame alone", plain), ("--temporal", smooth)):
        low, middle, high = 100 * np.percentile(values, (5, 50, 95))
        print(f"{name:<18} {middle:.2f} ({low:.2f} to {high:.2f})")
    print(f"ratio of the medians {np.median(smooth) / np.median(plain):.2f}; labels changed by smoothing "
          f"{100 * np.mean(changed):.2f} % of the pixels")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python benchmarks/flicker.py VIDEO CHECKPOINT [SCALE]")
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) == 4 else 1.0)
