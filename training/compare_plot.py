"""The picture of a comparison: learning curves over each other, and the IoU of each class."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.compare_runs import VALIDATION, Group, Measure, Run
from utils.plots import drawable, new_plot

# Of Okabe and Ito: distinguishable also for the colour-blind. After the last, lines are dashed.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES, MARKERS = ("-", "--", ":"), "osD^v"
WIDTH, LEGEND_WIDTH = 13.0, 140  # inches, characters


def write_plot(path: Path, groups: Sequence[Group]) -> None:
    """Validation mIoU and training loss over epochs: mean and range of each group; below, the IoU of each class."""
    from matplotlib.ticker import MaxNLocator

    source, names = _classes(groups)
    heights = [4.0, 0.5 + (0.16 + 0.07 * len(groups)) * len(names)][: 2 if names else 1]
    rows: Any = [["mIoU", "loss"], ["classes"] * 2][: len(heights)]
    with new_plot(path, (WIDTH, sum(heights) + 0.25 * len(groups)), dpi=110) as figure:
        axes = figure.subplot_mosaic(rows, height_ratios=heights)
        drawn = [_draw_curve(axes["mIoU"], group, "val", "mean_iou", 100.0) for group in groups]
        for group in groups:
            _draw_curve(axes["loss"], group, "train", "loss", 1.0)
        axes["mIoU"].set_title("validation mIoU in percent; line: mean, band: lowest to highest seed", loc="left")
        axes["loss"].set_title("training loss (of different losses not comparable)", loc="left")
        for axis in (axes["mIoU"], axes["loss"]):
            axis.set_xlabel("epoch")
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if names:
            _draw_classes(axes["classes"], groups, source, names)
        for axis in axes.values():
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        labels = [textwrap.fill(group.title(), LEGEND_WIDTH, subsequent_indent="    ") for group in groups]
        labels = [drawable(label, label.encode("ascii", "replace").decode()) for label in labels]
        figure.legend(drawn, labels, loc="outside upper left", frameon=False)


def _style(group: Group) -> dict[str, Any]:
    turn, color = divmod(group.number - 1, len(COLORS))
    return {"color": COLORS[color], "linestyle": LINES[turn % len(LINES)]}


def _draw_curve(axis: Any, group: Group, kind: str, key: str, factor: float) -> Any:
    """Each run, thin, and over the epochs that all runs of the group have, their mean and range. Returns the line."""
    curves = [_curve(run, kind, key, factor) for run in group.runs]
    marker = MARKERS[(group.number - 1) % len(MARKERS)] if kind == "val" else None
    for epochs, values in curves:
        axis.plot(epochs, values, marker=marker, markersize=3, linewidth=0.6, alpha=0.35, color=_style(group)["color"])
    shared = [epochs for epochs, _ in curves if len(epochs)]
    if not shared:
        return axis.plot([], [], marker=marker, **_style(group))[0]
    grid = np.unique(np.concatenate(shared))
    grid = grid[(grid >= max(epochs[0] for epochs in shared)) & (grid <= min(epochs[-1] for epochs in shared))]
    values = np.stack([np.interp(grid, epochs, numbers) for epochs, numbers in curves if len(epochs)])
    if len(values) > 1:
        axis.fill_between(grid, values.min(0), values.max(0), alpha=0.18, color=_style(group)["color"], linewidth=0)
    return axis.plot(grid, values.mean(0), marker=marker, markersize=5, linewidth=1.8, **_style(group))[0]


def _curve(run: Run, kind: str, key: str, factor: float) -> tuple[np.ndarray, np.ndarray]:
    points = {row["epoch"]: factor * row[key] for row in run.rows if row["kind"] == kind and row.get(key) is not None}
    epochs = sorted(points)
    return np.array(epochs, float), np.array([points[epoch] for epoch in epochs], float)


def _classes(groups: Sequence[Group]) -> tuple[str, list[str]]:
    """The source that has scores of classes, the validation if possible, and the names."""
    found = [measure for group in groups for run in group.runs for measure in run.scores if measure.class_name]
    source = min((measure.source for measure in found), key=lambda name: name != VALIDATION, default=VALIDATION)
    return source, list(dict.fromkeys(measure.class_name for measure in found if measure.source == source))


def _draw_classes(axis: Any, groups: Sequence[Group], source: str, names: Sequence[str]) -> None:
    for group in groups:
        color, marker = _style(group)["color"], MARKERS[(group.number - 1) % len(MARKERS)]
        for row, name in enumerate(names):
            measure = Measure(source, name, "iou")
            values = [100 * run.scores[measure] for run in group.runs if measure in run.scores]
            if values:
                place = row + 0.7 * ((group.number - 0.5) / len(groups) - 0.5)
                axis.hlines(place, min(values), max(values), color=color, linewidth=2)
                axis.plot(np.mean(values), place, marker, markersize=4, color=color)
    axis.set_yticks(range(len(names)), [drawable(name, f"class {row + 1}") for row, name in enumerate(names)])
    axis.set_ylim(len(names) - 0.5, -0.5)  # the first class at the top
    axis.set_xlim(left=-1)  # points at 0 are whole
    title = f"IoU of each class in percent, {source}; point: mean, bar: lowest to highest seed"
    axis.set_title(title, loc="left")
