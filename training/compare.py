"""Compare trainings over several seeds: python -m training.compare RUN RUN ..., with run folders of train.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config import ErrorConfig
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """what to compare"""

    runs: Sequence[str] = option((), "run folders of train.py, such as logs/ckpt/*", "runs", required=True)
    out: str = option(
        "comparison", "the results are OUT.csv and OUT.png; if OUT is a folder, comparison.csv and .png in it"
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trainings: runs that differ only in their seed form a group, with means and spread of their scores."""

    runs: RunsConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(CompareConfig)  # before heavy imports, so that --help answers at once

import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from training.compare_plot import write_plot
from training.compare_runs import FACTS, MEANS, NOT_RECORDED, VALIDATION, Group, Measure, Run, group_runs, read_run
from utils.command import run_command
from utils.files import writable_file, write_csv
from utils.text import counted, display_width, escape, padded

CSV_HEADER = ("group", "flags", "source", "class", "score", "seeds", "mean", "std", "min", "max", "per_seed")


@dataclass(frozen=True)
class Spread:
    """How values of several runs lie. std: the standard deviation with n - 1, None for a single value."""

    mean: float
    std: float | None
    low: float
    high: float
    count: int

    def percent(self) -> str:
        """As text: mean ± standard deviation (lowest to highest)."""
        if self.std is None:
            return f"{100 * self.mean:.2f} (one seed)"
        return f"{100 * self.mean:.2f} ± {100 * self.std:.2f} ({100 * self.low:.2f} to {100 * self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), std, min(values), max(values), len(values))


def main(config: CompareConfig) -> int:
    """Print the groups, what else differs, and the scores; write OUT.csv and OUT.png."""
    csv, png = output_files(config.runs.out)
    groups = group_runs(read_runs(config.runs.runs))
    for group in groups:
        print(describe(group))
    for text in warnings(groups):
        print(f"warning: {escape(text)}", file=sys.stderr)
    measured = measures(groups)
    for source in dict.fromkeys(measure.source for measure in measured):
        print(f"\n{source}, in percent: mean ± standard deviation (lowest to highest) of the seeds")
        rows = table(groups, [measure for measure in measured if measure.source == source])
        print("\n".join(aligned([["", *(f"group {group.number}" for group in groups)], *rows])))
    if not any(measure.class_name for measure in measured):
        print(f"scores of each class: {NOT_RECORDED}; eval.py writes them into the run folder")
    write_csv(csv, CSV_HEADER, csv_lines(groups, measured))
    write_plot(png, groups)
    print(f"\nwrote {escape(csv)} and {escape(png)}")
    return 0


def output_files(out: str) -> tuple[Path, Path]:
    """The CSV and the PNG that `--out` stands for: a beginning of file names, or a folder."""
    base = Path(out) / "comparison" if out.endswith("/") or Path(out).is_dir() else Path(out)
    name = base.stem if base.suffix in (".csv", ".png") else base.name
    files = base.with_name(f"{name}.csv"), base.with_name(f"{name}.png")
    for file in files:
        writable_file(file, "--out")
    return files


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


def describe(group: Group) -> str:
    """What a group is, and where its runs are."""
    seeds = ", ".join(str(run.seed) for run in group.runs)
    facts = [f"{name} {' / '.join(dict.fromkeys(run.facts[name] for run in group.runs))}" for name in FACTS[:3]]
    folders = " ".join(escape(run.folder) for run in group.runs)
    return f"{group.title()}\n  seed {seeds}; {'; '.join(facts)}\n  {folders}"


def warnings(groups: Sequence[Group]) -> Iterator[str]:
    """What, besides flags and seed, may be a reason for different scores."""
    runs = [run for group in groups for run in group.runs]
    for run in runs:
        if missing := [name for name, value in run.facts.items() if value == NOT_RECORDED]:
            yield f"{run.folder}: {NOT_RECORDED}: {', '.join(missing)}"
    for name in dict.fromkeys(name for run in runs for name in run.facts):
        found = [dict.fromkeys(run.facts.get(name, NOT_RECORDED) for run in group.runs) for group in groups]
        recorded = {value for values in found for value in values} - {NOT_RECORDED}
        if len(recorded) > 1:
            where = (f"group {group.number}: {', '.join(values)}" for group, values in zip(groups, found, strict=True))
            yield f"{name}: not the same in all runs. {'; '.join(where)}"
        elif name == "commit" and any(value.endswith("-dirty") for value in recorded):
            yield f"commit {recorded.pop()}: files were changed after it, so runs may differ in their code"
    for group in groups:
        seeds = [run.seed for run in group.runs]
        for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            yield f"group {group.number}: {counted(seeds.count(seed), 'run')} with seed {seed}; each is counted"


def measures(groups: Sequence[Group]) -> list[Measure]:
    """All that was measured in any run: the validation first, and of each source the means first."""
    found = dict.fromkeys(measure for group in groups for run in group.runs for measure in run.scores)
    return sorted(found, key=lambda measure: (measure.source != VALIDATION, measure.source, bool(measure.class_name)))


def table(groups: Sequence[Group], measured: Sequence[Measure]) -> Iterator[list[str]]:
    """The means, each with its differences from the first group, then the IoU of each class; a column per group."""
    for measure in measured:
        if not measure.class_name:
            yield [MEANS[measure.score], *(_cell(group, measure) for group in groups)]
            if len(groups) > 1:
                yield ["  minus group 1, same seed", "", *(_apart(group, groups[0], measure) for group in groups[1:])]
        elif measure.score == "iou":  # the others are only in the CSV
            yield [measure.class_name, *(_cell(group, measure) for group in groups)]


def csv_lines(groups: Sequence[Group], measured: Sequence[Measure]) -> Iterator[Sequence[object]]:
    """One line per measure and group; scores from 0 to 1, as eval.py writes them."""
    for measure in measured:
        for group in groups:
            found = [(run.seed, run.scores[measure]) for run in group.runs if measure in run.scores]
            if found:
                of = spread([value for _, value in found])
                each = " ".join(f"{seed}:{value:.6g}" for seed, value in found)
                seeds = len({seed for seed, _ in found})
                yield group.number, group.label, *measure, seeds, of.mean, of.std, of.low, of.high, each


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in which the columns begin at the same place."""
    widths = [max(display_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(group: Group, measure: Measure) -> str:
    values = [run.scores[measure] for run in group.runs if measure in run.scores]
    if not values:
        return "-"
    few = f", in {len(values)} of {len(group.runs)} runs" if len(values) < len(group.runs) else ""
    return spread(values).percent() + few


def _apart(group: Group, first: Group, measure: Measure) -> str:
    before, now = first.by_seed(measure), group.by_seed(measure)
    values = [now[seed] - before[seed] for seed in now if seed in before]
    if not values:
        return "-"
    of = spread(values)
    return f"{100 * of.mean:+.2f}" + ("" if of.std is None else f" ± {100 * of.std:.2f}")


if __name__ == "__main__":
    run_command(main, CONFIG)
