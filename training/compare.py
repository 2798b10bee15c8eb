"""Compare trainings over several seeds: python -m training.compare RUN RUN ..., with run folders of train.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config import ErrorConfig, TrainConfig, as_dict, short_name
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """what to compare"""

    runs: Sequence[str] = option((), "run folders of train.py, such as logs/ckpt/*", "runs", required=True)
    out: str = option("comparison", "the table is also written to OUT.csv; in a folder, to comparison.csv")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trainings: runs that differ only in their seed form a group, with means and spread of their scores."""

    runs: RunsConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(CompareConfig)  # before heavy imports, so that --help answers at once

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from training.run_log import CONFIG_FILE, read_metrics
from utils.command import one_line, run_command
from utils.files import writable_file, write_csv
from utils.metrics import TOTALS
from utils.text import counted, escape, format_table

NOT_RECORDED = "not recorded"
VALIDATION = "last validation"
CLASS_SCORES = ("iou", "boundary_iou", "boundary_f")
# Flags that change no result: names, places, and how fast the machine works.
NO_EFFECT = ("exp", "tb_tag", "ckpt", "tb_path", "seed", "resume", "index_dir", "cache_dir", "bs_mult_val",
             "dump_augmentation_images", "device", "num_workers", "dataset_dir", "ckpt_minutes", "timeout")  # fmt: skip
CSV_HEADER = ("group", "flags", "source", "class", "score", "seeds", "mean", "std", "min", "max", "per_seed")

Measure = tuple[str, str, str]  # VALIDATION or eval/<folder>; class, "" for all together; name of the score


class Run(NamedTuple):
    """A finished run. flags, facts: name -> value as text; scores: from 0 to 1."""

    folder: Path
    seed: int
    flags: Mapping[str, str]
    facts: Mapping[str, str]
    scores: Mapping[Measure, float]


def main(config: CompareConfig) -> int:
    """Print the groups, what else differs, and the scores; write OUT.csv."""
    out = Path(config.runs.out)
    path = out / "comparison.csv" if out.is_dir() else out.with_name(f"{out.name}.csv")
    writable_file(path, "--out")
    runs = read_runs(config.runs.runs)
    groups = group_runs(runs)
    for number, (label, members) in enumerate(groups.items(), start=1):
        print(f"group {number} ({counted(len({run.seed for run in members}), 'seed')}): {label}")
        for run in members:
            data = run.facts.get("data", NOT_RECORDED)
            print(f"  {escape(run.folder)}: seed {run.seed}; steps {run.facts['steps']}; data {data}")
    for name in dict.fromkeys(name for run in runs for name in run.facts):
        found = dict.fromkeys(run.facts[name] for run in runs if name in run.facts)
        if len(found) > 1:  # other scores may come from there although no flag differs
            print(f"warning: {name}: not the same in all runs: {'; '.join(found)}", file=sys.stderr)
    tables, lines = tabulate_scores(groups)
    for source, rows in tables.items():
        print(f"\n{source}, in percent: mean ± standard deviation (lowest to highest) of the seeds")
        print(format_table(rows))
    write_csv(path, CSV_HEADER, lines)
    print(f"\nwrote {escape(path)}")
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
        flags["arch"] = short_name(flags["arch"])
        rows = read_metrics(folder)
        last = next((row for row in reversed(rows) if row["kind"] == "val"), {"epoch": 0})
        over = flags["max_minutes"] and last.get("minutes", 0) >= flags["max_minutes"]
        if not last["epoch"] or not (flags["test_mode"] or over or last["epoch"] >= flags["max_epoch"]):
            raise ValueError(f"{folder} is not finished: its last validation is that of epoch {last['epoch']}.")
        facts = {"steps": str(max((row["step"] + 1 for row in rows if row["kind"] == "train"), default=0))}
        facts |= {name: _as_text(value) for name, value in starts[-1].items() if value is not None}
        scores = {(VALIDATION, "", name): last.get(name) for name in TOTALS}
        scores |= {(VALIDATION, key[4:], "iou"): value for key, value in last.items() if key.startswith("iou/")}
        for path in sorted(folder.glob("eval/*/metrics.json")):
            content, source = json.loads(path.read_text(encoding="utf-8")), f"eval/{path.parent.name}"
            scores |= {(source, "", name): content.get(name) for name in TOTALS}
            scores |= {(source, class_name, name): of_class.get(name)
                       for class_name, of_class in content["classes"].items() for name in CLASS_SCORES}  # fmt: skip
            for name, value in content.get("settings", {}).get("inference", {}).items():
                facts[f"{source} --{name}"] = _as_text(value)
        known = {measure: value for measure, value in scores.items() if value is not None}
        return Run(folder, flags["seed"], {name: _as_text(flags[name]) for name in flags}, facts, known)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is no run folder of train.py, or damaged ({one_line(error)}).") from error


def group_runs(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ in nothing but their seed, by the flags in which they differ from others."""
    names = [name for name in dict.fromkeys(name for run in runs for name in run.flags)
             if name not in NO_EFFECT and len({run.flags.get(name) for run in runs}) > 1]  # fmt: skip
    groups: dict[str, list[Run]] = {}
    for run in runs:
        differences = ", ".join(f"--{name} {run.flags.get(name, NOT_RECORDED)}" for name in names)
        alone = f"--arch {run.flags['arch']} --dataset {run.flags['dataset']}"
        groups.setdefault(differences or alone, []).append(run)
    return groups


def tabulate_scores(groups: Mapping[str, Sequence[Run]]) -> tuple[dict[str, list[list[str]]], list[list[object]]]:
    """The table of each source, a column per group, and the lines of the CSV, which has the classes' other scores too.

    Scores are from 0 to 1 in the CSV, as eval.py writes them.
    """
    known = dict.fromkeys(measure for runs in groups.values() for run in runs for measure in run.scores)
    head = ["", *(f"group {number + 1}" for number in range(len(groups)))]
    tables: dict[str, list[list[str]]] = {}
    lines: list[list[object]] = []
    for measure in sorted(known, key=lambda m: (m[0] != VALIDATION, m[0], bool(m[1]))):
        source, class_name, score = measure
        cells = []
        for number, (label, runs) in enumerate(groups.items(), start=1):
            found = [(run.seed, run.scores[measure]) for run in runs if measure in run.scores]
            values = [value for _, value in found]
            cells.append(_spread([100 * value for value in values], len(runs)))
            if values:
                std = statistics.stdev(values) if len(values) > 1 else None  # with n - 1
                spread = (len(dict(found)), statistics.fmean(values), std, min(values), max(values))
                lines.append([number, label, *measure, *spread, " ".join(f"{seed}:{v:.6g}" for seed, v in found)])
        if score == "iou" or not class_name:
            tables.setdefault(source, [head]).append([escape(class_name) or TOTALS[score], *cells])
    return tables, lines


def _spread(values: Sequence[float], num_runs: int) -> str:
    """Mean ± standard deviation (lowest to highest)."""
    if not values:
        return "-"
    few = f", in {len(values)} of {num_runs} runs" if len(values) < num_runs else ""
    if len(values) == 1:
        return f"{values[0]:.2f} (one seed){few}"
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return f"{mean:.2f} ± {std:.2f} ({min(values):.2f} to {max(values):.2f}){few}"


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return ("off", "on")[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value:.10g}" if isinstance(value, float) else "none" if value in (None, "") else escape(value)


if __name__ == "__main__":
    run_command(main, CONFIG)
