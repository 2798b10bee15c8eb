"""Compare trainings over several seeds: python -m training.compare RUN RUN ..., with run folders of train.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config import ErrorConfig, TrainConfig, as_dict
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """what to compare"""

    runs: Sequence[str] = option((), "run folders of train.py, such as logs/ckpt/*", "runs", required=True)
    out: str = option("comparison", "the results are OUT.csv and OUT.png; in a folder, comparison.csv and .png")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trainings: runs that differ only in their seed form a group, with means and spread of their scores."""

    runs: RunsConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(CompareConfig)  # before heavy imports, so that --help answers at once

import itertools
import json
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.run_log import CONFIG_FILE, read_metrics
from utils.command import one_line, run_command
from utils.files import writable_file, write_csv
from utils.plots import new_plot
from utils.text import counted, escape

NOT_RECORDED = "not recorded"
VALIDATION = "last validation"
MEANS = {
    "mean_iou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "mean_boundary_iou": "mean boundary IoU",
    "mean_boundary_f": "mean boundary F-score",
}
CLASS_SCORES = ("iou", "boundary_iou", "boundary_f")
# What may be a reason for other scores although no flag says so: the steps made, and what training/run_log.py records.
FACTS = ("steps", "data", "commit", "processes", "numbers", "versions")
# Flags that change no result: names, places, and how fast the machine works.
NO_EFFECT = ("exp", "tb_tag", "ckpt", "tb_path", "seed", "resume", "index_dir", "cache_dir", "bs_mult_val",
             "dump_augmentation_images", "device", "num_workers", "dataset_dir", "ckpt_minutes", "timeout")  # fmt: skip
CSV_HEADER = ("group", "flags", "source", "class", "score", "seeds", "mean", "std", "min", "max", "per_seed")


class Measure(NamedTuple):
    """What was measured. source: VALIDATION or eval/<folder>; class_name: "" for all classes together."""

    source: str
    class_name: str
    score: str


class Run(NamedTuple):
    """A finished run. flags, facts: name -> value as text; rows: of metrics.jsonl; scores: from 0 to 1."""

    folder: Path
    seed: int
    flags: Mapping[str, str]
    facts: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    scores: Mapping[Measure, float]


class Group(NamedTuple):
    """Runs that differ only in their seed. label: the flags in which it differs from other groups."""

    number: int
    label: str
    runs: Sequence[Run]

    def title(self) -> str:
        """Number, label and number of seeds."""
        return f"group {self.number} ({counted(len({run.seed for run in self.runs}), 'seed')}): {self.label}"

    def scores(self, measure: Measure) -> list[tuple[int, float]]:
        """Seed and score of each run that has the score."""
        return [(run.seed, run.scores[measure]) for run in self.runs if measure in run.scores]


def main(config: CompareConfig) -> int:
    """Print the groups, what else differs, and the scores; write OUT.csv and OUT.png."""
    out = Path(config.runs.out)
    out = out / "comparison" if out.is_dir() else out
    csv, png = (out.with_name(out.name + suffix) for suffix in (".csv", ".png"))
    for file in (csv, png):
        writable_file(file, "--out")
    groups = group_runs(read_runs(config.runs.runs))
    for group in groups:
        print(group.title())
        for run in group.runs:
            print(f"  {escape(run.folder)}: seed {run.seed}; steps {run.facts['steps']}; data {run.facts['data']}")
    for name in dict.fromkeys(name for group in groups for run in group.runs for name in run.facts):
        found = [dict.fromkeys(run.facts.get(name, NOT_RECORDED) for run in group.runs) for group in groups]
        if len({value for values in found for value in values} - {NOT_RECORDED}) > 1:
            where = (f"group {group.number}: {', '.join(values)}" for group, values in zip(groups, found, strict=True))
            print(f"warning: {name}: not the same in all runs. {'; '.join(where)}", file=sys.stderr)
    known = dict.fromkeys(measure for group in groups for run in group.runs for measure in run.scores)
    measures = sorted(known, key=lambda m: (m.source != VALIDATION, m.source, bool(m.class_name)))
    for source in dict.fromkeys(measure.source for measure in measures):
        print(f"\n{source}, in percent: mean ± standard deviation (lowest to highest) of the seeds")
        rows = [["", *(f"group {group.number}" for group in groups)]]
        rows += [
            [escape(measure.class_name) or MEANS[measure.score], *(_spread(group, measure) for group in groups)]
            for measure in measures
            if measure.source == source and (measure.score == "iou" or not measure.class_name)
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    write_csv(csv, CSV_HEADER, csv_lines(groups, measures))
    plot_curves(png, groups)
    print(f"\nwrote {escape(csv)} and {escape(png)}")
    return 0


def read_runs(names: Sequence[str]) -> list[Run]:
    """The runs that can be compared, each once; says which others are left out and why."""
    runs = []
    for folder in {Path(name).resolve(): Path(name) for name in names}.values():
        try:
            runs.append(read_run(folder))
        except ValueError as error:
            print(f"left out: {escape(error)}", file=sys.stderr)
    if not runs:
        raise ValueError("no finished run is left to compare; give run folders of train.py, such as logs/ckpt/*.")
    return runs


def read_run(folder: Path) -> Run:
    """A run from its folder. Raises ValueError if it is none of train.py, is not finished, or is damaged."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        if "loss" not in config:
            raise ValueError(f"{folder} is no run of train.py, but of another command.")
        starts = config.pop("starts", None) or [{}]
        # A run made before a flag existed did what the flag's default does.
        groups = [*as_dict(parse_command_line(TrainConfig, [])).values(), *config.values()]
        flags = {name: value for group in groups for name, value in group.items()}
        flags["arch"] = flags["arch"].split(".")[-1]
        rows = read_metrics(folder)
        last = next((row for row in reversed(rows) if row["kind"] == "val"), {"epoch": 0})
        over = flags["max_minutes"] and last.get("minutes", 0) >= flags["max_minutes"]
        if not last["epoch"] or not (flags["test_mode"] or over or last["epoch"] >= flags["max_epoch"]):
            raise ValueError(f"{folder} is not finished: its last validation is that of epoch {last['epoch']}.")
        facts = {"steps": str(max((row["step"] + 1 for row in rows if row["kind"] == "train"), default=NOT_RECORDED))}
        for name in FACTS[1:]:
            facts[name] = ", then ".join(dict.fromkeys(_as_text(start.get(name) or NOT_RECORDED) for start in starts))
        scores = {Measure(VALIDATION, "", name): last.get(name) for name in MEANS}
        scores |= {Measure(VALIDATION, key[4:], "iou"): value for key, value in last.items() if key.startswith("iou/")}
        for path in sorted(folder.glob("eval/*/metrics.json")):
            content, source = json.loads(path.read_text(encoding="utf-8")), f"eval/{path.parent.name}"
            scores |= {Measure(source, "", name): content.get(name) for name in MEANS}
            scores |= {Measure(source, class_name, name): of_class.get(name)
                       for class_name, of_class in content["classes"].items() for name in CLASS_SCORES}  # fmt: skip
            for name, value in content.get("settings", {}).get("inference", {}).items():
                facts[f"{source} --{name}"] = _as_text(value)
        known = {measure: value for measure, value in scores.items() if value is not None}
        return Run(folder, flags["seed"], {name: _as_text(flags[name]) for name in flags}, facts, rows, known)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no run folder of train.py, or damaged ({one_line(error)}).") from error


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Groups of runs that differ in nothing but their seed, in the order of their first run."""
    names = [name for name in dict.fromkeys(name for run in runs for name in run.flags)
             if name not in NO_EFFECT and len({run.flags.get(name) for run in runs}) > 1]  # fmt: skip
    members: dict[str, list[Run]] = {}
    for run in runs:
        differences = ", ".join(f"--{name} {run.flags.get(name, NOT_RECORDED)}" for name in names)
        alone = f"--arch {run.flags['arch']} --dataset {run.flags['dataset']}"
        members.setdefault(differences or alone, []).append(run)
    return [Group(number, label, some) for number, (label, some) in enumerate(members.items(), start=1)]


def _spread(group: Group, measure: Measure) -> str:
    """Mean ± standard deviation (lowest to highest) in percent."""
    values = [100 * value for _, value in group.scores(measure)]
    if not values:
        return "-"
    few = f", in {len(values)} of {len(group.runs)} runs" if len(values) < len(group.runs) else ""
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed){few}"
    std = statistics.stdev(values)  # with n - 1
    return f"{statistics.fmean(values):.2f} ± {std:.2f} ({min(values):.2f} to {max(values):.2f}){few}"


def csv_lines(groups: Sequence[Group], measures: Sequence[Measure]) -> Iterator[Sequence[object]]:
    """One line per measure and group; scores from 0 to 1, as eval.py writes them."""
    for measure, group in itertools.product(measures, groups):
        found = group.scores(measure)
        if values := [value for _, value in found]:
            std = statistics.stdev(values) if len(values) > 1 else None
            each = " ".join(f"{seed}:{value:.6g}" for seed, value in found)
            spread = (len(dict(found)), statistics.fmean(values), std, min(values), max(values))
            yield group.number, group.label, *measure, *spread, each


def plot_curves(path: Path, groups: Sequence[Group]) -> None:
    """Validation mIoU and training loss over epochs: mean and range of each group over the epochs all its runs have."""
    with new_plot(path, (13, 4 + 0.25 * len(groups)), dpi=110) as figure:
        for axis, kind, key, factor, title in zip(
            figure.subplots(1, 2), ("val", "train"), ("mean_iou", "loss"), (100, 1),
            ("validation mIoU in percent", "training loss (of different losses not comparable)"), strict=True,
        ):  # fmt: skip
            lines = []
            for group in groups:
                runs = [{row["epoch"]: factor * row[key] for row in run.rows
                         if row["kind"] == kind and row.get(key) is not None} for run in group.runs]  # fmt: skip
                epochs = sorted(set.intersection(*map(set, runs)))
                values = np.array([[points[epoch] for epoch in epochs] for points in runs])
                lines += axis.plot(epochs, values.mean(0), marker=".")
                axis.fill_between(epochs, values.min(0), values.max(0), alpha=0.18, color=lines[-1].get_color())
            axis.set_title(f"{title}; line: mean, band: lowest to highest seed", loc="left")
            axis.set_xlabel("epoch")
            axis.set_xlim(left=0)
            axis.grid(alpha=0.25)
        labels = [textwrap.fill(group.title(), 140, subsequent_indent="    ") for group in groups]
        figure.legend(lines, labels, loc="outside upper left", frameon=False)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return ("off", "on")[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value:.10g}" if isinstance(value, float) else "none" if value in (None, "") else escape(value)


if __name__ == "__main__":
    run_command(main, CONFIG)
