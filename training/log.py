"""What a run leaves behind: its folder, metrics.jsonl, TensorBoard events, curves."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from config import RunConfig
from utils.files import atomic_path, json_text, writable_folder, write_json
from utils.numbering import first_free
from utils.plots import new_plot

CONFIG, METRICS = "config.json", "metrics.jsonl"
LAST, BEST = "last.pth", "best.pth"  # the checkpoint to resume from, and the one with the best score
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
        if not active:
            return
        writable_folder(folder, "--ckpt")
        self._metrics = (folder / METRICS).open("a", encoding="utf-8")
        self._events = _tensorboard_writer(tb_folder)
        if self._events is not None and not (folder / LINK).exists():
            with contextlib.suppress(OSError):  # a file system without links
                (folder / LINK).symlink_to(os.path.relpath(tb_folder, folder), target_is_directory=True)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            last = self.folder / LAST
            kept = f"{last} holds the last finished epoch; continue with --resume"
            self.say(f"stopped. {kept if last.is_file() else 'No epoch was finished'}.")
        self.close()

    def say(self, text: str) -> None:
        """Print a line."""
        if self.active:
            print(text, flush=True)

    def rewind(self, epoch: int, *, is_due: bool) -> None:
        """Forget what was logged after `epoch` whole epochs, and if it `is_due` also their score.

        A run that continues from there logs it again. `steps` becomes at least the number of those that are left.
        """
        if not self.active:
            return
        rows = read_metrics(self.folder)
        kept = [row for row in rows if row["epoch"] < epoch or (_is_score(row, epoch) and not is_due)]
        self._metrics.close()
        with atomic_path(self.folder / METRICS) as path:
            path.write_text("".join(json_text(row) + "\n" for row in kept), encoding="utf-8")
        self._metrics = (self.folder / METRICS).open("a", encoding="utf-8")
        self.steps = max([self.steps, *(row["step"] + 1 for row in kept if row["kind"] == "train" and "step" in row)])

    def config(self, settings: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        """Keep the run's settings, and what it starts with (training/record.py); a resumed run has started before."""
        if not self.active:
            return
        before: list[Mapping[str, Any]] = []
        with contextlib.suppress(OSError, ValueError):
            before = json.loads((self.folder / CONFIG).read_text(encoding="utf-8")).get("starts", [])
        starts = [*(earlier for earlier in before if earlier != start), start]
        write_json(self.folder / CONFIG, {**settings, "starts": starts})

    def scalars(self, kind: str, values: Mapping[str, float]) -> None:
        """Log numbers at the current step, e.g. `scalars("train", {"loss": 0.4})`.

        What is NaN, as a score without labels, becomes null in metrics.jsonl and is left out of TensorBoard.
        """
        if not self.active:
            return
        self._metrics.write(json_text({"kind": kind, "step": self.steps, **values}) + "\n")
        self._metrics.flush()
        if self._events is not None:
            for name, value in values.items():
                if math.isfinite(value):
                    self._events.add_scalar(f"{kind}/{name}", value, self.steps)

    def image(self, name: str, picture: Any) -> None:
        """Show a picture [H, W, 3] uint8 in TensorBoard."""
        if self._events is not None:
            self._events.add_image(name, picture, self.steps, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the files."""
        if self.active:
            self._metrics.close()
            if self._events is not None:
                self._events.close()


def run_folder(run: RunConfig) -> Path:
    """<ckpt>/<exp>, or <ckpt>/<exp>_<tb_tag>; with `--test_mode` a folder of its own."""
    parts = (run.exp, run.tb_tag, "test_mode" if run.test_mode else "")
    return Path(run.ckpt) / "_".join(part for part in parts if part)


def free_run_folder(folder: Path) -> Path:
    """`folder` itself, or `folder-2`, `-3`, … if it already holds a run: a run never overwrites another."""
    return Path(first_free(str(folder), lambda name: (Path(name) / METRICS).exists()))


def tensorboard_folder(tb_path: str, run: Path, *, is_resumed: bool) -> Path:
    """<tb_path>/<name of the run>; numbered if that belongs to another run, the same as before if a run is resumed."""
    linked = run / LINK
    if is_resumed and linked.is_symlink():
        return linked.resolve()
    return Path(first_free(str(Path(tb_path) / run.name), lambda name: Path(name).exists()))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's metrics.jsonl, except a line that a crash or a full disk damaged."""
    rows = []
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and {"kind", "epoch"} <= row.keys()]


def draw_curves(folder: Path) -> None:
    """Draw loss, learning rate and validation scores of metrics.jsonl into curves.png."""
    metrics = read_metrics(folder)
    train = [m for m in metrics if m["kind"] == "train"]
    val = [m for m in metrics if m["kind"] == "val" and m["mean_iou"] is not None and math.isfinite(m["mean_iou"])]
    with new_plot(folder / "curves.png", (13, 3.6), dpi=110) as figure:
        axes = figure.subplots(1, 3)
        for axis, rows, key, title in (
            (axes[0], train, "loss", "training loss"),
            (axes[1], train, "lr", "learning rate"),
            (axes[2], val, "mean_iou", "validation mIoU"),
        ):
            axis.plot(
                [row["epoch"] for row in rows],
                [row[key] for row in rows],
                color="#26547c",
                marker="." if key == "mean_iou" else None,
            )
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.set_xlim(0, 1.03 * max(row["epoch"] for row in metrics))  # the same for all, also for a single point
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        if val:
            best = max(val, key=lambda row: row["mean_iou"])
            axes[2].set_ylim(0, max(1.15 * best["mean_iou"], 0.01))  # room for the number above the curve
            axes[2].annotate(
                f"{best['mean_iou']:.3f}",
                (best["epoch"], best["mean_iou"]),
                textcoords="offset points",
                xytext=(0, 6),
                ha="center",
            )

def _is_score(row: Mapping[str, Any], epoch: int) -> bool:
    return row["kind"] == "val" and row["epoch"] == epoch


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        print("tensorboardX is not installed: no TensorBoard events; metrics.jsonl has everything.", file=sys.stderr)
        return None
    return SummaryWriter(str(folder))
