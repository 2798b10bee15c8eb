"""Do propagated pairs help? Training on a few labelled frames, with and without the frames around them.

    python -m benchmarks.propagated_training --root data/few_streets
    python -m benchmarks.propagated_training --root data/few_camvid --camvid data/camvid
    python -m benchmarks.propagated_training --root data/few_imagenet --camvid data/camvid --updates 150 --imagenet

Streets: the middle frame of each street keeps its labels, the others become video. CamVid: the same with every tenth
frame of its val sequence, the only one with closely spaced frames; scored on the test images. The same short
schedule is trained on the labelled frames alone, with jointly propagated pairs, and with propagated labels for the
true frames, for several seeds. Finished parts are kept, so an interrupted run can be resumed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.trials import IMAGENET, QUIET, SCRATCH, Trial, in_epochs, make_parser

NUM_STREETS, FRAMES_PER_STREET = 24, 7  # 7: three frames on either side of the labelled one
CAMVID_EVERY = 10


def make_streets(root: Path) -> Path:
    """Streets below `root`, of which only the middle frames are labelled."""
    folder = root / "streets"
    if not folder.is_dir():
        unfinished = root / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "datasets.streets", "--root", unfinished,
             "--num_train", str(NUM_STREETS * FRAMES_PER_STREET), "--num_test", "91", "--num_val", "7",
             "--frames_per_sequence", str(FRAMES_PER_STREET)],
            **QUIET,
        )  # fmt: skip
        frames = sorted((unfinished / "train").glob("*.jpg"))
        middle = set(frames[FRAMES_PER_STREET // 2 :: FRAMES_PER_STREET])
        make_video(unfinished, [frame for frame in frames if frame not in middle])
        unfinished.rename(folder)
    return folder


def make_camvid(source: Path, root: Path) -> Path:
    """CamVid below `root`: every tenth frame of val for training, the others as video; and its test images."""
    folder = root / "camvid"
    if not folder.is_dir():
        unfinished = root / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        for split, own in (("train", "val"), ("test", "test")):
            shutil.copytree(source / own, unfinished / split)
            shutil.copytree(source / f"{own}annot", unfinished / f"{split}annot")
        frames = sorted((unfinished / "train").iterdir())
        labelled = set(frames[CAMVID_EVERY // 2 :: CAMVID_EVERY])
        for kind in ("", "annot"):  # training needs validation images, which have no effect here
            (unfinished / f"val{kind}").mkdir()
            some = sorted((unfinished / f"train{kind}").iterdir())[:4]
            for path in some:
                shutil.copy(path, unfinished / f"val{kind}")
        make_video(unfinished, [frame for frame in frames if frame not in labelled])
        unfinished.rename(folder)
    return folder


def make_video(root: Path, frames: list[Path]) -> None:
    """Turn training frames into video: remove their labels."""
    (root / "video" / "train").mkdir(parents=True)
    for frame in frames:
        (root / "trainannot" / f"{frame.stem}.png").unlink()
        frame.rename(root / "video" / "train" / frame.name)


def propagate(dataset: str, data: Path, out: Path, steps: int, stride: int, mode: str) -> Path:
    """Write propagated pairs of `data` to `out`."""
    subprocess.run(
        [sys.executable, "propagate.py", "--dataset", dataset, "--dataset_dir", data, "--propagate", str(steps),
         "--stride", str(stride), "--mode", mode, "--out", out, "--resume"],
        **QUIET,
    )  # fmt: skip
    return out


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="frames to propagate to on each side")
    parser.add_argument("--imagenet", action="store_true", help="from the ImageNet trunk instead of from scratch")
    arguments = parser.parse_args()
    root, steps = arguments.root, arguments.steps
    dataset = "camvid" if arguments.camvid else "streets"
    data = make_camvid(arguments.camvid, root) if arguments.camvid else make_streets(root)
    stride = 2 if arguments.camvid else 1  # the numbers of CamVid's frames are two apart
    ways: dict[str, list[str | Path]] = {"labelled frames alone": []}
    for mode in ("joint", "label"):
        pairs = propagate(dataset, data, root / mode, steps, stride, mode)
        ways[f"propagated, {mode}"] = ["--maxSkip", str(steps), "--propagated_dir", pairs]
    flags = (
        *(IMAGENET if arguments.imagenet else SCRATCH), "--warmup_epochs", "3", "--class_uniform_pct", "0.75",
        *in_epochs(arguments.updates, data),
    )  # fmt: skip
    Trial(root, dataset, data, flags, arguments.parallel).compare(ways, arguments.seeds)


if __name__ == "__main__":
    main()
