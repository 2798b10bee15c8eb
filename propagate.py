"""Propagate labels along video: python propagate.py --dataset NAME --dataset_dir DIR --propagate 3."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import PropagateConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(PropagateConfig)  # before heavy imports, so that --help answers at once

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from config import as_dict
from datasets.files import dataset_root, find_samples, load_spec
from datasets.frames import Record, find_propagated_samples
from datasets.labels import label_pixels
from datasets.legend import ClassShare, class_list, with_legend
from datasets.segmentation import load_sample
from datasets.specs.spec import PROPAGATED, DatasetSpec
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import Processes, lists_of_all, process_group, wait_for_all
from utils.files import natural_order, writable_folder
from utils.images import write_image
from utils.parallel import Stopwatch, as_finished, default_num_workers
from utils.text import counted, escape
from video.contact_sheet import VOID_COLOR, Cell, sheet
from video.flow import build_flow, frames_beyond
from video.flow_chain import StreetMotion
from video.pairs import Method, Propagation
from video.propagation import VOID_TESTS
from video.sequences import (
    SUMMARY,
    LabelledSequence,
    find_sequences,
    read_manifest,
    steps_table,
    write_manifest,
    write_summary,
)
from video.video_dataset import Source, find_classes, gather, plan, with_frames_of, write_classes

SHEET = "sheet.png"
MOST_REPORTED = 20  # skipped items printed one by one; the summary lists them all
SHEET_ROWS = 4  # labelled frames on the sheet
WRITE_PROTECTED = "is write-protected; choose a writable folder with --out."
SPLITS = ("train", "val", "trainval")


def main(config: PropagateConfig) -> int:
    """Make every pair. Returns 1 if something is missing or wrong; the rest is made all the same."""
    method, device = method_of(config)
    with process_group(device) as processes:
        if config.data.video and config.output.dry_run:
            return report_video_plan(config) if processes.is_main else 0
        spec, root, left_out = labelled_set(config, processes)
        out = Path(config.output.out or root)
        protected = not config.output.out and is_write_protected(root)
        if protected and not config.output.dry_run:
            raise PermissionError(f"{root} {WRITE_PROTECTED}")
        sequences, missing = find_labelled_sequences(config, spec, root, out)
        left_out += missing
        if processes.is_main:
            read_manifest(out / PROPAGATED)  # fails now, before the work, if it cannot be extended
        work = Propagation(spec, root, out, method)
        there = {s.pair.name: work.there(s) for s in sequences} if config.output.resume else {}
        if config.output.dry_run:
            return report_plan(sequences, there, left_out, out, protected=protected) if processes.is_main else 0
        if processes.is_main:
            writable_folder(out / PROPAGATED, "--out")
        wait_for_all()  # until every process has seen which pairs exist
        records, failed = propagate_all(work, sequences, there, processes, num_workers(config, device, processes))
        records, left_out = lists_of_all(records), left_out + lists_of_all(failed)
        if processes.is_main:
            write_results(config, work, sequences, records, left_out)
    return 1 if left_out and processes.is_main else 0  # torchrun stops all processes when one fails


def method_of(config: PropagateConfig) -> tuple[Method, torch.device]:
    """How to propagate, and the device to use. Raises ValueError for flags that contradict each other."""
    chosen = config.propagation
    keep = tuple(sorted({test.strip() for test in chosen.keep.split(",") if test.strip()}))
    if unknown := [test for test in keep if test not in VOID_TESTS]:
        raise ValueError(f"--keep {unknown[0]!r} is unknown. Choose from: {', '.join(VOID_TESTS)}.")
    # DIS and geometry run on the CPU only.
    device = resolve_device(config.device.device if chosen.flow in ("raft", "sdc") else "cpu")
    method = Method(chosen.flow, chosen.flow_weights, chosen.mode, keep, chosen.stride, str(device))
    if chosen.flow != "exact":
        try:
            build_flow(chosen.flow, weights=chosen.flow_weights, device="cpu")  # fails now, not in every process
        except ImportError as error:
            raise ValueError(str(error)) from error
    elif chosen.flow_weights:
        raise ValueError(f"--flow exact takes no --flow_weights, got {chosen.flow_weights}.")
    return method, device


def labelled_set(config: PropagateConfig, processes: Processes) -> tuple[DatasetSpec, Path, list[str]]:
    """The data set, its root, and what was skipped; for --video the main process first makes the set."""
    data = config.data
    if not data.video:
        if not data.dataset:
            raise ValueError("name a data set with --dataset, or your own video with --video and --labels.")
        if data.labels or data.classes:
            raise ValueError("--labels and --classes are only for --video; a data set has its own.")
        spec = load_spec(data.dataset, data.dataset_dir)
        return spec, dataset_root(spec, data.dataset_dir), []
    source, out = source_of(config)
    left_out: list[str] = []
    split_of(config)  # fails before any frame is decoded
    if processes.is_main:
        plan(source, out)  # fails before anything is written
        spec = write_classes(out, source.labels, data.classes, data.dataset)
        steps = config.propagation
        left_out, withdrawn = gather(
            source, out, spec, reach=steps.propagate + frames_beyond(steps.flow), stride=steps.stride,
            resume=config.output.resume,
        )
        report_withdrawn(withdrawn, source, out)
    wait_for_all()
    return with_frames_of(source, load_spec("folder", str(out))), out, left_out


def source_of(config: PropagateConfig) -> tuple[Source, Path]:
    """The video with its labels, and the root of the set to be made. Raises ValueError if a flag is missing."""
    data = config.data
    if data.dataset_dir:
        raise ValueError("--dataset_dir cannot be used with --video; --out is the root of the new set.")
    if not data.labels or not config.output.out:
        raise ValueError("--video needs --labels, the folder of its label files, and --out, a folder for the new set.")
    if config.propagation.flow == "exact":
        raise ValueError("--flow exact works only for drawn streets, not with --video.")
    for flag, path in (("--video", data.video), ("--labels", data.labels)):
        if not Path(path).exists():
            raise FileNotFoundError(f"{flag}: no such file or folder: {path}")
    read_manifest(Path(config.output.out) / PROPAGATED)  # fails now, not after the frames were decoded
    return Source(Path(data.video), Path(data.labels)), Path(config.output.out)


def is_write_protected(folder: Path) -> bool:
    """Whether nothing may be written to it."""
    return not folder.stat().st_mode & 0o222  # from the mode bits, since root may write everywhere


def split_of(config: PropagateConfig) -> str:
    """The split whose frames are propagated. Raises ValueError for a split that is not for training."""
    split = config.data.split or ("trainval" if config.data.video else "train")
    if split not in SPLITS:
        raise ValueError(f"--split {split!r}: labels are propagated for training only. Choose: {', '.join(SPLITS)}.")
    return split


def find_labelled_sequences(
    config: PropagateConfig, spec: DatasetSpec, root: Path, out: Path
) -> tuple[list[LabelledSequence], list[str]]:
    """The video around each labelled frame, and a message for each gap in it."""
    pairs = find_samples(spec, root, split_of(config), config.data.cv)
    chosen = config.propagation
    found, missing = find_sequences(
        spec, root, pairs, out, reach=chosen.propagate, stride=chosen.stride, beyond=frames_beyond(chosen.flow)
    )
    if chosen.flow == "exact":
        StreetMotion(root, found[0].pair.name)  # fails now for a set that was not drawn, not frame by frame
    masks = next(iter(found[0].made.values())).masks
    label_pixels(np.zeros((1, 1), np.uint8), masks, spec)  # fails now if no value means "no class"
    return found, missing


def num_workers(config: PropagateConfig, device: torch.device, processes: Processes) -> int:
    """One process per core; on a GPU one, which is enough to keep it busy."""
    if config.device.num_workers is not None:
        return config.device.num_workers
    return 1 if device.type == "cuda" else default_num_workers(processes)


def propagate_all(
    work: Propagation,
    sequences: Sequence[LabelledSequence],
    there: dict[str, list[Record]],
    processes: Processes,
    workers: int,
) -> tuple[list[Record], list[str]]:
    """Do this process's share. Returns the records of its pairs, including earlier ones, and what failed."""
    records: list[Record] = []
    failed: list[str] = []
    mine = []
    for sequence in sequences[processes.rank :: processes.world_size]:
        done = there.get(sequence.pair.name, [])
        records += done
        left = {step: pair for step, pair in sequence.made.items() if step not in {record["step"] for record in done}}
        if left:
            mine.append(replace(sequence, made=left))
    total, clock = sum(len(sequence.made) for sequence in mine), Stopwatch()
    workers = min(workers, len(mine))
    with tqdm(total=total, unit="pair", dynamic_ncols=True, disable=None if processes.is_main else True) as progress:
        for made in as_finished(work.make, mine, workers):
            records += made.records
            failed += [made.problem] if made.problem else []
            progress.update(len(made.records))
    if total:
        print(f"{clock.per_second(total):.2f} pairs/s on {counted(max(workers, 1), 'process', 'es')}", file=sys.stderr)
    return records, failed


def write_results(
    config: PropagateConfig,
    work: Propagation,
    sequences: Sequence[LabelledSequence],
    records: list[Record],
    left_out: list[str],
) -> None:
    """Write manifest, summary and contact sheet; print the outcome and how to train on it."""
    folder = work.out / PROPAGATED
    records.sort(key=lambda record: (natural_order(record["from"]), record["step"]))
    left_out = sorted(left_out, key=natural_order)
    write_manifest(folder, records, work.out)
    write_summary(folder, records, as_dict(config), left_out)
    if records:
        write_sheet(folder / SHEET, work.spec, sequences, records)
        print(steps_table(records))
    frames = counted(len({r["from"] for r in records}), "labelled frame")
    print(f"{counted(len(records), 'pair')} of {frames}: {escape(folder)}")
    if records and (command := training_command(config, work, max(abs(record["step"]) for record in records))):
        print(f"to train on them: {escape(command)}")
    report_skipped(left_out)


def training_command(config: PropagateConfig, work: Propagation, reach: int) -> str:
    """A command that trains on pairs up to step `reach`, or the last that training frames have; "" if none."""
    chosen = config.data
    fold = [] if chosen.cv is None else ["--cv", str(chosen.cv)]
    ways = {"train": fold, "trainval": ["--train_split", "trainval"]}
    for split in {"val": (), "trainval": ("trainval",)}.get(chosen.split or "", tuple(ways)):
        if skip := usable_steps(work, split, chosen.cv, reach):
            other = [] if work.out == work.root else ["--propagated_dir", str(work.out)]
            command = ["python", "train.py", "--dataset", work.spec.name, "--dataset_dir", str(work.root), "--arch"]
            command += ["DeepMNV3V3PlusD_m1", "--crop_size", "320", "--maxSkip", str(skip), *other, *ways[split]]
            return shlex.join(command)
    return ""


def usable_steps(work: Propagation, split: str, cv: int | None, reach: int) -> int:
    """The largest --maxSkip up to `reach` with which train.py finds pairs around the frames of `split`; 0: none."""
    try:
        pairs = find_samples(work.spec, work.root, split, cv)
    except FileNotFoundError:  # a fold of few frames may leave none to train on
        return 0
    for skip in range(reach, 0, -1):
        with suppress(FileNotFoundError):
            find_propagated_samples(work.spec, work.root, pairs, skip, work.out)
            return skip
    return 0


def write_sheet(path: Path, spec: DatasetSpec, sequences: Sequence[LabelledSequence], records: list[Record]) -> None:
    """Draw a few labelled frames, spread over the set, each between pairs made from it, above a legend."""
    done = {(record["from"], record["step"]): record for record in records}
    counts = Counter(name for name, _ in done)
    most = max(counts.values())
    shown = [s for s in sequences if counts[s.pair.name] == most]  # so that equal steps are aligned
    num_rows = min(SHEET_ROWS, len(shown))
    rows = []
    for sequence in (shown[len(shown) * i // num_rows] for i in range(num_rows)):
        name = sequence.pair.name
        steps = sorted(step for step in sequence.made if (name, step) in done)
        middle = len(steps) // 4
        pairs = {0: (sequence.pair, escape(name.split("/")[-1]))}
        for step in (steps[0], steps[middle], steps[-1 - middle], steps[-1]):
            pairs[step] = sequence.made[step], f"{step:+d}, no class {100 * done[name, step]['no_class']:.0f} %"
        rows.append([Cell(title, *load_sample(pair, spec)) for _, (pair, title) in sorted(pairs.items())])
    occurring = frozenset(np.unique(np.concatenate([cell.labels.ravel() for row in rows for cell in row])).tolist())
    legend = [*class_list(spec.classes, occurring), ClassShare(spec.ignore_label, "no class", VOID_COLOR, 0, 0.0)]
    write_image(path, with_legend(sheet(rows, spec.palette), legend, percents=False))


def report_plan(
    sequences: Sequence[LabelledSequence],
    there: dict[str, list[Record]],
    left_out: list[str],
    out: Path,
    *,
    protected: bool,
) -> int:
    """Print what would be written. Returns the exit code that the run would have."""
    num_pairs, num_there = sum(len(s.made) for s in sequences), sum(map(len, there.values()))
    size = sum(len(s.made) * s.pair.image_path.stat().st_size for s in sequences) * (1 - num_there / num_pairs)
    print(
        f"would write {counted(num_pairs - num_there, 'pair')} of {counted(len(sequences), 'labelled frame')} "
        f"to {escape(out / PROPAGATED)}, "
        f"about {size / 1e6:,.0f} MB; {shutil.disk_usage(existing(out)).free / 1e6:,.0f} MB free"
    )
    if num_there:
        print(f"already there: {counted(num_there, 'pair')}")
    report_skipped(left_out, at_most=len(left_out))
    if protected:
        print(f"but {out} {WRITE_PROTECTED}", file=sys.stderr)
    return 1 if left_out or protected else 0


def report_video_plan(config: PropagateConfig) -> int:
    """The same for --video, of which less is known before its frames are decoded."""
    source, out = source_of(config)
    split_of(config)
    find_classes(out, source.labels, config.data.classes, config.data.dataset)
    num_labelled, left_out = plan(source, out)
    most = 2 * config.propagation.propagate * num_labelled
    labelled = counted(num_labelled, "labelled frame")
    print(f"would make a data set of {labelled} in {escape(out)}, and write up to {counted(most, 'pair')} there")
    report_skipped(left_out, at_most=len(left_out))
    return 1 if left_out else 0


def report_skipped(left_out: Sequence[str], at_most: int = MOST_REPORTED) -> None:
    """Report on standard error what was skipped."""
    for message in left_out[:at_most]:
        print(f"skipped: {escape(message)}", file=sys.stderr)
    if len(left_out) > at_most:
        print(f"skipped: {len(left_out) - at_most} more; {SUMMARY} lists them all", file=sys.stderr)


def report_withdrawn(names: Sequence[str], source: Source, out: Path) -> None:
    """Report on standard error which labels of an earlier run are no longer used."""
    if names:
        more = f" and {len(names) - MOST_REPORTED} more" if len(names) > MOST_REPORTED else ""
        print(
            f"notice: removed from {out}, since {source.labels} no longer has usable labels for them: "
            f"{escape(', '.join(names[:MOST_REPORTED]))}{more}",
            file=sys.stderr,
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return folder if folder.exists() else existing(folder.resolve().parent)


if __name__ == "__main__":
    run_command(main, CONFIG)
