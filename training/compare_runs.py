"""Finished runs of train.py, read from their folders, and the groups of those that differ only in their seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from config import TrainConfig, as_dict
from training.run_log import CONFIG, read_metrics
from utils.command import one_line
from utils.flags import parse_command_line
from utils.text import counted, escape

NOT_RECORDED = "not recorded"
VALIDATION = "last validation"
FACTS = ("steps", "data", "commit", "processes", "numbers", "versions")  # see training/run_log.py
MEANS = {
    "mean_iou": "mIoU",
    "mean_accuracy": "mean accuracy",
    "pixel_accuracy": "pixel accuracy",
    "mean_boundary_iou": "mean boundary IoU",
    "mean_boundary_f": "mean boundary F-score",
}
PER_CLASS = ("iou", "boundary_iou", "boundary_f")
# Flags that change no result: names, places, and how fast the machine works.
NO_EFFECT = ("exp", "tb_tag", "ckpt", "tb_path", "seed", "resume", "index_dir", "cache_dir", "bs_mult_val",
             "dump_augmentation_images", "device", "num_workers")  # fmt: skip
# What determines results although no flag says so. Runs are told apart by it if all of them recorded it.
TOLD_APART = ("data", "processes", "numbers")


class Measure(NamedTuple):
    """What was measured. source: VALIDATION or eval/<folder>; class_name: "" for all classes together."""

    source: str
    class_name: str
    score: str


@dataclass(frozen=True)
class Run:
    """A finished run. flags: name -> value as text; facts: the same for FACTS and the flags of its evaluations.

    rows: those of metrics.jsonl; scores: from 0 to 1.
    """

    folder: Path
    seed: int
    flags: Mapping[str, str]
    facts: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    scores: Mapping[Measure, float]


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed. label: the flags in which it differs from other groups."""

    number: int
    label: str
    runs: Sequence[Run]

    def title(self) -> str:
        """Number, label and number of seeds."""
        return f"group {self.number} ({counted(len({run.seed for run in self.runs}), 'seed')}): {self.label}"

    def by_seed(self, measure: Measure) -> dict[int, float]:
        """The score of each seed."""
        return {run.seed: run.scores[measure] for run in self.runs if measure in run.scores}


def read_run(folder: Path) -> Run:
    """A run from its folder. Raises ValueError if it is none of train.py, is not finished, or is damaged."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is no run folder of train.py: it has no {CONFIG}.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if "loss" not in config:
            raise ValueError(f"{folder} is no run of train.py, but of another command.")
        rows = read_metrics(folder)
        progress = _progress(config["run"], rows)
        if progress:
            raise ValueError(f"{folder} is not finished: {progress}; it may still be running, or train.py --resume.")
        return _run(folder, config, rows)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is damaged ({type(error).__name__}: {one_line(error)}).") from error


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The groups, in the order of their first runs."""
    known = [name for name in TOLD_APART if all(run.facts[name] != NOT_RECORDED for run in runs)]
    without = (*NO_EFFECT, *(("dataset_dir",) if "data" in known else ()))  # a copy is the same data
    keys = [
        {name: value for name, value in run.flags.items() if name not in without}
        | {name: run.facts[name] for name in known}
        for run in runs
    ]
    names = [name for name in dict.fromkeys(name for key in keys for name in key)
             if len({key.get(name) for key in keys}) > 1]  # fmt: skip
    members: dict[tuple[str, ...], list[Run]] = {}
    for run, key in zip(runs, keys, strict=True):
        members.setdefault(tuple(key.get(name, NOT_RECORDED) for name in names), []).append(run)
    return [
        Group(number, ", ".join(_named(name, value, some[0]) for name, value in zip(names, key, strict=True))
              or f"{some[0].flags['arch']} on {some[0].flags['dataset']}", some)
        for number, (key, some) in enumerate(members.items(), start=1)
    ]  # fmt: skip


def _named(name: str, value: str, run: Run) -> str:
    if name == "data":
        return f"--dataset_dir {run.flags['dataset_dir']} (data {value})"
    return f"{'' if name in FACTS else '--'}{name} {value}"


def _progress(flags: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str | None:
    """How far an unfinished run has come; None for a finished one, which ends with a validation."""
    val = [row for row in rows if row["kind"] == "val"]
    if not val:
        return "no validation yet"
    last, minutes = val[-1], flags["max_minutes"]
    if flags["test_mode"] or last["epoch"] >= flags["max_epoch"]:
        return None
    if minutes and (last["minutes"] >= minutes if "minutes" in last else rows[-1] is last):
        return None
    spent = f", minute {last['minutes']:.0f} of {minutes:g}" if minutes and "minutes" in last else ""
    return f"last validated after epoch {last['epoch']} of {flags['max_epoch']}{spent}"


def _run(folder: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> Run:
    starts = config.pop("starts", None) or [{}]
    flags = {**_defaults(), **{name: value for group in config.values() for name, value in group.items()}}
    flags["arch"] = flags["arch"].split(".")[-1]
    steps = [row["step"] + 1 for row in rows if row["kind"] == "train"]
    facts = {"steps": str(max(steps)) if steps else NOT_RECORDED}
    for name in FACTS[1:]:
        facts[name] = ", then ".join(dict.fromkeys(_fact(start.get(name)) for start in starts))
    last = [row for row in rows if row["kind"] == "val"][-1]
    scores = {Measure(VALIDATION, "", name): last[name] for name in MEANS if name in last}
    scores |= {Measure(VALIDATION, key[4:], "iou"): value for key, value in last.items() if key.startswith("iou/")}
    for path in sorted(folder.glob("eval/*/metrics.json")):
        content, source = json.loads(path.read_text(encoding="utf-8")), f"eval/{path.parent.name}"
        scores |= {Measure(source, "", name): content.get(name) for name in MEANS}
        scores |= {Measure(source, class_name, name): of_class.get(name)
                   for class_name, of_class in content["classes"].items() for name in PER_CLASS}  # fmt: skip
        for name, value in content.get("settings", {}).get("inference", {}).items():
            facts[f"{source} --{name}"] = _shown(value)
    known = {measure: value for measure, value in scores.items() if value is not None and value == value}  # NaN is not
    return Run(folder, flags["seed"], {name: _shown(flags[name]) for name in flags}, facts, rows, known)


@cache
def _defaults() -> dict[str, Any]:
    """Of all flags: a run made before a flag existed did what the flag's default does."""
    return {name: value for group in as_dict(parse_command_line(TrainConfig, [])).values()
            for name, value in group.items()}  # fmt: skip


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return ("off", "on")[value]
    return f"{value:.10g}" if isinstance(value, float) else "none" if value in (None, "") else escape(value)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return NOT_RECORDED if value is None else str(value)
