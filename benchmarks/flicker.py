"""How much the classes of a video flicker, with and without --temporal: python benchmarks/flicker.py VIDEO CHECKPOINT.

Flicker: share of the pixels visible in two consecutive frames whose class changes along the optical flow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo import Smoother, likeness
from inference.load import load_model
from inference.predictor import Predictor
from utils.images import Uint8Array
from utils.text import counted
from utils.video_io import open_video
from video.flow import dis_flow, warp_labels


def flicker(prediction: Uint8Array, before: Uint8Array, image: Uint8Array, image_before: Uint8Array) -> float:
    """Share of the pixels seen in both frames whose class [H, W] changed from the frame before. Images [H, W, 3]."""
    flow = dis_flow(image, image_before)
    seen = likeness(image, image_before, flow) > 0.5
    return float((prediction != warp_labels(before, flow))[seen].mean()) if seen.any() else 0.0


def main(path: str, snapshot: str, scale: float) -> None:
    model = load_model(snapshot)
    predictor = Predictor(
        model.net, len(model.classes), scales=(scale,), mean=model.checkpoint.mean, std=model.checkpoint.std
    )
    smoother = Smoother()
    before = None
    found: list[tuple[float, ...]] = []
    changed = []
    with open_video(path) as video:
        for _, image in video.frames:
            probabilities = predictor.probabilities(image)
            plain, smooth = (
                p.argmax(0).to("cpu").numpy().astype(np.uint8)
                for p in (probabilities, smoother(image, probabilities))
            )
            changed.append((plain != smooth).mean())
            if before is not None:
                plain_before, smooth_before, image_before = before
                pairs = ((plain, plain_before), (smooth, smooth_before))
                found.append(tuple(flicker(now, then, image, image_before) for now, then in pairs))
            before = (plain, smooth, image)
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
