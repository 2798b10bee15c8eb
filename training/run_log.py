"""What a run leaves behind: its folder, metrics.jsonl, TensorBoard events, curves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from config import RunConfig
from datasets.files import Sample
from datasets.specs.spec import DatasetSpec
from network.checkpoint import versions
from utils.distributed import find_processes
from utils.files import atomic_path, json_text, writable_folder, write_json
from utils.images import Uint8Array, colorize, shrink, side_by_side, write_image
from utils.plots import new_plot

CONFIG_FILE, METRICS = "config.json", "metrics.jsonl"
LAST, PREVIOUS, BEST = "last.pth", "previous.pth", "best.pth"  # to resume from, the one before, that of the best score
LINK = "tensorboard"  # to the run's events


class RunLog:
    """The run folder and its logs. On processes other than the main one nothing is written or printed.

    Files: config.json, metrics.jsonl (one object per line), curves.png, samples/, augmentation/, and a link to the
    TensorBoard events. In a `with` statement it is closed at the end, and after Ctrl-C it says what is saved.
    steps: how many the optimizer has made; everything is logged at this number.
    """

    def __init__(self, folder: Path, tb_folder: Path, *, active: bool) -> None:
        self.folder = folder
        self.active = active
        self.steps = 0
        self._events: Any = None
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: list[Future[None]] = []
        if not active:
            return
        writable_folder(folder, "--ckpt")
        (folder / METRICS).touch()
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            print("tensorboardX is not installed: metrics.jsonl has everything, TensorBoard nothing.", file=sys.stderr)
            return
        self._events = SummaryWriter(str(tb_folder))
        if not (folder / LINK).exists():
            with contextlib.suppress(OSError):  # a file system without links
                (folder / LINK).symlink_to(os.path.relpath(tb_folder, folder), target_is_directory=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._events is not None:
            self._events.close()
        try:
            self.end_writing()
        except (OSError, ValueError):
            if error is None or isinstance(error, KeyboardInterrupt):  # else that comes first
                raise
        if isinstance(error, KeyboardInterrupt):
            last = self.folder / LAST
            self.say(f"stopped. {f'--resume continues from {last}' if last.is_file() else 'Nothing is saved'}.")

    def in_background(self, job: Callable[..., None], *arguments: Any) -> None:
        """Run `job` after those before; wait if two are not done. Raises what one of them raised."""
        self.end_writing(most=1)
        self._writing.append(self._writer.submit(job, *arguments))

    def end_writing(self, most: int = 0) -> None:
        """Wait until at most so many jobs are left. Raises what one of them raised."""
        while len(self._writing) > most or (self._writing and self._writing[0].done()):
            self._writing.pop(0).result()

    def say(self, text: str) -> None:
        """Print a line."""
        if self.active:
            print(text, flush=True)

    def rewind(self, epoch: int, *, is_due: bool) -> None:
        """Forget what was logged after `epoch` whole epochs and `steps`, and if it `is_due` also their score.

        A run that continues from there logs it again. `steps` becomes at least the number of those that are left.
        """
        if not self.active:
            return
        rows = read_metrics(self.folder)
        kept = [row for row in rows
                if row["epoch"] < epoch or (row["kind"] == "train" and row.get("step", self.steps) < self.steps)
                or (row["kind"] == "val" and row["epoch"] == epoch and not is_due)]  # fmt: skip
        with atomic_path(self.folder / METRICS) as path:
            path.write_text("".join(json_text(row) + "\n" for row in kept), encoding="utf-8")
        self.steps = max([self.steps, *(row["step"] + 1 for row in kept if row["kind"] == "train" and "step" in row)])

    def config(self, settings: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        """Keep the run's settings, and what it starts with (`record_start`); a resumed run has started before."""
        if not self.active:
            return
        before: list[Mapping[str, Any]] = []
        with contextlib.suppress(Exception):  # missing, or so damaged that anything may be raised
            found = json.loads((self.folder / CONFIG_FILE).read_text(encoding="utf-8")).get("starts", [])
            before = [earlier for earlier in found if earlier != start]
        write_json(self.folder / CONFIG_FILE, {**settings, "starts": [*before, start]})

    def scalars(self, kind: str, values: Mapping[str, float | None]) -> None:
        """Log numbers at the current step, e.g. `scalars("train", {"loss": 0.4})`.

        What is NaN or None, as a score without labels, is null in metrics.jsonl and left out of TensorBoard.
        """
        if not self.active:
            return
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json_text({"kind": kind, "step": self.steps, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if value is not None and isfinite(value):
                    self._events.add_scalar(f"{kind}/{name}", value, self.steps)

    def image(self, name: str, picture: Uint8Array) -> None:
        """Show a picture [H, W, 3] uint8 in TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, picture, self.steps, dataformats="HWC")


def run_folder(run: RunConfig) -> Path:
    """<ckpt>/<exp>, or <ckpt>/<exp>_<tb_tag>; with `--test_mode` a folder of its own."""
    parts = (run.exp, run.tb_tag, "test_mode" if run.test_mode else "")
    return Path(run.ckpt) / "_".join(part for part in parts if part)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics.jsonl, except a line that a crash or a full disk damaged."""
    rows = []
    for line in (folder / METRICS).read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and row.get("kind") and _is_number(row.get("epoch"))
            and all(value is None or _is_number(value) for name, value in row.items() if name != "kind")]  # fmt: skip


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def draw_curves(folder: Path) -> None:
    """Draw loss, learning rate and validation scores of metrics.jsonl into curves.png."""
    rows = read_metrics(folder)
    with new_plot(folder / "curves.png", (13, 3.6), dpi=110) as figure:
        for axis, kind, key, title in zip(
            figure.subplots(1, 3), ("train", "train", "val"), ("loss", "lr", "mean_iou"),
            ("training loss", "learning rate", "validation mIoU"), strict=True,
        ):  # fmt: skip
            found = [row for row in rows if row["kind"] == kind and row.get(key) is not None and isfinite(row[key])]
            epochs, values = [row["epoch"] for row in found], [row[key] for row in found]
            axis.plot(epochs, values, color="#26547c", marker="o" if kind == "val" else None, markersize=4)
            axis.set_title(f"{title}, best {max(values):.3f}" if kind == "val" and values else title)
            axis.set_xlabel("epoch")
            axis.set_xlim(0, 1.03 * max(row["epoch"] for row in rows))  # the same for all, also for a single point
            axis.grid(alpha=0.25)
            axis.set_ylim(bottom=0)


NUM_SAMPLES = 4  # images per scoring
NUM_KEPT = 12  # scorings of which they are kept
LARGEST_SAMPLE = 1536  # side in pixels: at 12 megapixels, those of a long training would fill a disk


def write_sample(log: RunLog, epoch: int, number: int, picture: Uint8Array) -> None:
    """Write picture [H, W, 3] as sample `number` of what the network does after `epoch` epochs.

    Of each sample the first, the latest and others evenly spread between them are kept, NUM_KEPT in all.
    """
    folder, picture = log.folder / "samples", shrink(picture, LARGEST_SAMPLE)
    write_image(folder / f"epoch{epoch:03d}_{number}.png", picture)
    log.image(f"sample{number}", picture)
    kept = sorted((int(path.stem[5:].split("_")[0]), path) for path in folder.glob(f"epoch*_{number}.png"))
    while len(kept) > NUM_KEPT:
        _, crowded = min((kept[i + 1][0] - kept[i - 1][0], i) for i in range(1, len(kept) - 1))
        kept.pop(crowded)[1].unlink(missing_ok=True)


def write_augmentation(log: RunLog, spec: DatasetSpec, images: Tensor, labels: Tensor) -> None:
    """Write crops [B, 3, H, W] uint8 next to their labels [B, H, W], in the main process only."""
    for number, pair in enumerate(zip(images, labels, strict=True)):
        if log.active:
            write_image(log.folder / "augmentation" / f"{number}.png", beside_labels(spec, *pair))


def as_picture(image: Tensor) -> Uint8Array:
    """[3, H, W] uint8 on any device -> [H, W, 3]."""
    picture: Uint8Array = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return picture


def beside_labels(spec: DatasetSpec, image: Tensor, *labels: Tensor) -> Uint8Array:
    """An image [3, H, W] uint8 and train ids [H, W], of the truth or predicted, side by side."""
    return side_by_side([as_picture(image), *(colorize(ids.numpy(), spec.palette) for ids in labels)])


def record_start(dtype: torch.dtype | None, data: str | None = None) -> dict[str, Any]:
    """What a training starts with. dtype: that of autocast, None for none; data: see `data_fingerprint`."""
    return {
        "commit": commit(Path(__file__).parent.parent),
        "data": data,
        "processes": find_processes().world_size,
        "numbers": str(dtype or torch.float32).removeprefix("torch."),
        "versions": versions(),
    }


def commit(folder: Path) -> str | None:
    """`git describe` of the checkout in `folder`, with -dirty if tracked files have changed; None if it is none."""
    # Without .git it may be a copy within another project's checkout.
    if not (folder / ".git").exists() or not shutil.which("git"):
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


def data_fingerprint(spec: DatasetSpec, *splits: Sequence[Sample]) -> str:
    """A hash of what the files of `splits` are called, of their sizes, and of what their labels mean.

    Not of their times and folders, so a copy is the same data; nor of their contents, which would have to be read.
    """
    meaning = (spec.class_names, [*spec.train_id_of_label_id().items()], [*spec.train_id_of_color().items()])
    files = [(sample.name, *(path.stat().st_size if path else 0 for path in (sample.image_path, sample.label_path)))
             for samples in splits for sample in samples]  # fmt: skip
    return hashlib.blake2b(repr((spec.name, meaning, files)).encode(), digest_size=4).hexdigest()
