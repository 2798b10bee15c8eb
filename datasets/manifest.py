"""What is written next to propagated pairs: one line for each in manifest.jsonl, and summary.json of the last run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.records import Record
from utils.files import atomic_path, write_json
from utils.numbering import natural_order

MANIFEST = "manifest.jsonl"
SUMMARY = "summary.json"


def read_manifest(folder: Path) -> list[Record]:
    """The records in the manifest in `folder`; [] if there is none. Raises ValueError if it is not ours."""
    path = folder / MANIFEST
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except ValueError as error:
        raise ValueError(f"{path}: not a manifest of this project ({error}); move it elsewhere.") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not isinstance(record.get("image"), str):
            raise ValueError(f'{path}: not a manifest of this project (line {number}: no "image"); move it elsewhere.')
    return records


def write_manifest(folder: Path, records: Iterable[Record], root: Path) -> None:
    """Write `records` to the manifest in `folder`; earlier ones stay if their image, below `root`, exists."""
    lines = {record["image"]: record for record in read_manifest(folder) if (root / record["image"]).is_file()}
    lines |= {record["image"]: record for record in records}
    with atomic_path(folder / MANIFEST) as temporary:
        text = "".join(json.dumps(lines[image]) + "\n" for image in sorted(lines, key=natural_order))
        temporary.write_text(text, encoding="utf-8")


def write_summary(
    folder: Path, records: Sequence[Record], parameters: Mapping[str, Any], left_out: Sequence[str]
) -> None:
    """Write the parameters of a run, its results for each step, and what was skipped."""
    content = {"parameters": parameters, "pairs": len(records), "steps": by_step(records), "left_out": list(left_out)}
    write_json(folder / SUMMARY, content)


def by_step(records: Iterable[Record]) -> list[dict[str, Any]]:
    """For each step, smallest first: number of pairs, and the means of their shares and difference."""
    groups: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        groups[record["step"]].append(record)
    return [
        {
            "step": step,
            "pairs": len(group),
            "no_class": _mean(record["no_class"] for record in group),
            "void": {test: _mean(record["void"][test] for record in group) for test in group[0]["void"]},
            "difference": _mean(record["difference"] for record in group),
        }
        for step, group in sorted(groups.items())
    ]


def steps_table(records: Iterable[Record]) -> str:
    """`by_step` as a table."""
    steps = by_step(records)
    tests = list(steps[0]["void"]) if steps else []
    lines = ["step   pairs  no class %  " + "".join(f"{test + ' %':>12}" for test in tests) + "  difference"]
    for found in steps:
        shares = "".join(f"{100 * found['void'][test]:12.1f}" for test in tests)
        difference = "-" if found["difference"] is None else f"{found['difference']:.1f}"
        lines.append(
            f"{found['step']:+4d}  {found['pairs']:6d}  {100 * found['no_class']:10.1f}  {shares}  {difference:>10}"
        )
    return "\n".join(lines)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if known else None
