"""What do label relaxation and class-uniform sampling bring, with careful and with careless labels?

    python -m benchmarks.methods --root data/methods --camvid data/camvid
    python -m benchmarks.methods --root data/methods_noisy --camvid data/camvid --pixels 2
    python -m benchmarks.methods --root data/methods_streets --pixels 2

Trains the same short schedule with cross entropy, with either method and with both, for several seeds, from the
ImageNet trunk, and scores each on the test images. Without --camvid it draws streets, whose labels are exact. With
--pixels the *training* labels are smoothly displaced, like careless outlines. Finished parts are kept, so an
interrupted run can be resumed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.trials import IMAGENET, Trial, in_epochs, make_parser

SMOOTHNESS = 4.0  # pixels; distance along a border over which its displacement stays similar
# Pole, SignSymbol, Pedestrian, Bicyclist: not relaxed, as thin classes are not in the paper.
RELAX = ["--relax", "--strict_bdr_cls", "2,6,9,10"]
UNIFORM = ["--class_uniform_pct", "0.5"]
CHANCE = ["--class_uniform_pct", "0"]
WAYS: dict[str, list[str | Path]] = {
    "cross entropy": [*CHANCE],
    "relaxation": [*CHANCE, *RELAX],
    "class-uniform": [*UNIFORM],
    "both": [*UNIFORM, *RELAX],
}


def displaced(labels: NDArray[np.uint8], pixels: float, generator: np.random.Generator) -> NDArray[np.uint8]:
    """`labels` [H, W], displaced by `pixels` (standard deviation in each direction)."""
    height, width = labels.shape
    noise = generator.standard_normal((2, height, width)).astype(np.float32)
    shift = [cv2.GaussianBlur(plane, (0, 0), SMOOTHNESS) for plane in noise]
    shift = [plane * (pixels / plane.std()) for plane in shift]
    rows, columns = np.indices(labels.shape, dtype=np.float32)
    return cv2.remap(labels, columns + shift[0], rows + shift[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def make_data(root: Path, camvid: Path | None, pixels: float) -> Path:
    """CamVid, or streets below `root`; a copy with displaced training labels if `pixels` is not 0."""
    if camvid and not pixels:
        return camvid
    folder = root / f"labels_{pixels:g}px"
    if folder.is_dir():
        return folder
    unfinished = root / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    if camvid:
        shutil.copytree(camvid, unfinished)
    else:
        subprocess.run([sys.executable, "-m", "datasets.streets", "--root", unfinished], check=True)
    changed = total = 0
    for number, path in enumerate(sorted((unfinished / "trainannot").glob("*.png")) if pixels else ()):
        labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        noisy = displaced(labels, pixels, np.random.default_rng((0, number)))
        changed, total = changed + int((noisy != labels).sum()), total + labels.size
        path.unlink()  # a copy may be read-only
        cv2.imwrite(str(path), noisy)
    if total:
        print(f"displaced by {pixels:g} pixels: {changed / total:.1%} of the training labels are wrong", flush=True)
    unfinished.rename(folder)
    return folder


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--pixels", type=float, default=0.0, help="standard deviation of the labels' displacement")
    arguments = parser.parse_args()
    data = make_data(arguments.root, arguments.camvid, arguments.pixels)
    flags = (*IMAGENET, "--warmup_epochs", "1", *in_epochs(arguments.updates, data))
    dataset = "camvid" if arguments.camvid else "streets"
    Trial(arguments.root, dataset, data, flags, arguments.parallel).compare(WAYS, arguments.seeds)


if __name__ == "__main__":
    main()
