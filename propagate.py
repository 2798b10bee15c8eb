"""Propagate labels along video: python propagate.py --dataset NAME --dataset_dir DIR --propagate 3."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import PropagateConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(PropagateConfig)  # before heavy imports, so that --help answers at once

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from config import as_dict
from datasets.files import dataset_root, find_samples, load_spec
from datasets.frames import Record
from datasets.labels import label_pixels
from datasets.specs.spec import PROPAGATED, DatasetSpec
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import Processes, lists_of_all, process_group, wait_for_all
from utils.files import natural_order, writable_folder, write_json
from utils.images import write_image
from utils.parallel import Stopwatch, as_finished, default_num_workers
from utils.text import counted, escape
from video.flow import build_flow, frames_beyond
from video.flow_chain import StreetFlow
from video.pairs import Method, PairMaker, draw_sheet
from video.propagation import VOID_TESTS
from video.sequences import LabelledSequence, find_sequences, steps_table, summarize_steps, write_manifest
from video.video_dataset import check_out, find_classes, make_dataset, match_labels

SUMMARY, SHEET = "summary.json", "sheet.png"
MOST_REPORTED = 20  # skipped items printed one by one; the summary lists them all


def main(config: PropagateConfig) -> int:
    """Make every pair. Returns 1 if something is missing or wrong; the rest is made all the same."""
    method, device = choose_method(config)
    with process_group(device) as processes:
        if config.data.video and config.output.dry_run:
            return report_video_plan(config) if processes.is_main else 0
        spec, root, left_out = open_dataset(config, processes)
        out = Path(config.output.out or root)
        sequences, missing = find_labelled_sequences(config, spec, root, out)
        left_out += missing
        maker = PairMaker(spec, root, out, method)
        records: list[Record] = []
        left = sequences
        if config.output.resume:
            found = [maker.find_done(sequence) for sequence in sequences]
            records, left = [record for done, _ in found for record in done], [rest for _, rest in found]
        if config.output.dry_run:
            return report_plan(left, len(records), left_out, out) if processes.is_main else 0
        if processes.is_main:
            writable_folder(out / PROPAGATED, "--out")
        wait_for_all()  # until every process has seen which pairs exist
        made, failed = make_pairs(maker, left, processes, num_workers(config, device, processes))
        records, left_out = records + lists_of_all(made), left_out + lists_of_all(failed)
        if processes.is_main:
            write_results(config, maker, sequences, records, left_out)
    return 1 if left_out and processes.is_main else 0  # torchrun stops all processes when one fails


def choose_method(config: PropagateConfig) -> tuple[Method, torch.device]:
    """How to propagate, and the device to use. Raises ValueError for flags that contradict each other."""
    chosen = config.propagation
    keep = tuple(sorted({test.strip() for test in chosen.keep.split(",") if test.strip()}))
    if unknown := [test for test in keep if test not in VOID_TESTS]:
        raise ValueError(f"--keep {unknown[0]!r} is unknown. Choose from: {', '.join(VOID_TESTS)}.")
    # DIS and geometry run on the CPU only.
    device = resolve_device(config.device.device if chosen.flow in ("raft", "sdc") else "cpu")
    if chosen.flow != "exact":
        build_flow(chosen.flow, weights=chosen.flow_weights)  # fails now, not in every process
    elif chosen.flow_weights:
        raise ValueError(f"--flow exact takes no --flow_weights, got {chosen.flow_weights}.")
    return Method(chosen.flow, chosen.flow_weights, chosen.mode, keep, chosen.stride, str(device)), device


def open_dataset(config: PropagateConfig, processes: Processes) -> tuple[DatasetSpec, Path, list[str]]:
    """The data set, its root, and what was skipped; for --video the main process first makes the set."""
    data, chosen = config.data, config.propagation
    left_out: list[str] = []
    if data.video:
        if processes.is_main:
            reach = chosen.propagate + frames_beyond(chosen.flow)
            left_out = make_dataset(*check_video(config), reach=reach, stride=chosen.stride)
        wait_for_all()
        return load_spec("folder", config.output.out), Path(config.output.out or ""), left_out
    if not data.dataset:
        raise ValueError("name a data set with --dataset, or your own video with --video and --labels.")
    if data.labels or data.classes:
        raise ValueError("--labels and --classes are only for --video; a data set has its own.")
    spec = load_spec(data.dataset, data.dataset_dir)
    return spec, dataset_root(spec.name, data.dataset_dir), left_out


def check_video(config: PropagateConfig) -> tuple[Path, Path, Path, dict[str, Any]]:
    """The video, its folder of labels, the root of the set to be made, and what the labels mean; nothing is written.

    Raises ValueError if a flag is missing or the root holds something else, FileNotFoundError without classes.
    """
    data = config.data
    if data.dataset_dir:
        raise ValueError("--dataset_dir cannot be used with --video; --out is the root of the new set.")
    if not data.labels or not config.output.out:
        raise ValueError("--video needs --labels, the folder of its label files, and --out, a folder for the new set.")
    if config.propagation.flow == "exact":
        raise ValueError("--flow exact only works for drawn streets, not with --video.")
    video, label_dir, out = Path(data.video), Path(data.labels), Path(config.output.out)
    check_out(out, video, resume=config.output.resume)
    return video, label_dir, out, find_classes(label_dir, data.classes, data.dataset)


def find_labelled_sequences(
    config: PropagateConfig, spec: DatasetSpec, root: Path, out: Path
) -> tuple[list[LabelledSequence], list[str]]:
    """The video around each labelled frame, and a message for each gap in it."""
    chosen, split = config.propagation, config.data.split or ("trainval" if config.data.video else "train")
    pairs = find_samples(spec, root, split, config.data.cv)
    found, missing = find_sequences(
        spec, root, pairs, out, reach=chosen.propagate, stride=chosen.stride, beyond=frames_beyond(chosen.flow)
    )
    if chosen.flow == "exact":
        StreetFlow(root, found[0].pair.name)  # fails now for a set that was not drawn, not frame by frame
    masks = next(iter(found[0].to_make.values())).masks
    label_pixels(np.zeros((1, 1), np.uint8), masks, spec)  # fails now if no value means "no class"
    return found, missing


def num_workers(config: PropagateConfig, device: torch.device, processes: Processes) -> int:
    """One process per core; on a GPU one, which is enough to keep it busy."""
    if config.device.num_workers is not None:
        return config.device.num_workers
    return 1 if device.type == "cuda" else default_num_workers(processes)


def make_pairs(
    maker: PairMaker, sequences: Sequence[LabelledSequence], processes: Processes, workers: int
) -> tuple[list[Record], list[str]]:
    """Do this process's share. Returns the records of its pairs, and what failed."""
    records: list[Record] = []
    failed: list[str] = []
    mine = [sequence for sequence in sequences if sequence.to_make][processes.rank :: processes.world_size]
    total, clock, workers = sum(len(sequence.to_make) for sequence in mine), Stopwatch(), min(workers, len(mine))
    with tqdm(total=total, unit="pair", dynamic_ncols=True, disable=None if processes.is_main else True) as progress:
        for made, problem in as_finished(maker, mine, workers):
            records += made
            failed += [problem] if problem else []
            progress.update(len(made))
    if total:
        print(f"{clock.per_second(total):.2f} pairs/s on {counted(max(workers, 1), 'process', 'es')}", file=sys.stderr)
    return records, failed


def write_results(
    config: PropagateConfig,
    maker: PairMaker,
    sequences: Sequence[LabelledSequence],
    records: list[Record],
    left_out: list[str],
) -> None:
    """Write manifest, summary and contact sheet; print the outcome and how to train on it."""
    folder = maker.out / PROPAGATED
    records.sort(key=lambda record: (natural_order(record["from"]), record["step"]))
    left_out = sorted(left_out, key=natural_order)
    steps = summarize_steps(records)
    write_manifest(folder, maker.out)
    summary = {"parameters": as_dict(config), "pairs": len(records), "steps": steps, "left_out": left_out}
    write_json(folder / SUMMARY, summary)
    if records:
        write_image(folder / SHEET, draw_sheet(maker.spec, sequences, records))
        print(steps_table(steps))
    frames = counted(len({record["from"] for record in records}), "labelled frame")
    print(f"{counted(len(records), 'pair')} of {frames}: {escape(folder)}")
    if records:
        print(f"to train on them: {escape(training_command(config, maker, steps))}")
    report_skipped(left_out)


def training_command(config: PropagateConfig, maker: PairMaker, steps: Sequence[dict[str, Any]]) -> str:
    """A command that trains on the pairs of all `steps`."""
    elsewhere = [] if maker.out == maker.root else ["--propagated_dir", str(maker.out)]
    fold = [] if config.data.cv is None else ["--cv", str(config.data.cv)]
    split = ["--train_split", "trainval"] if config.data.split in ("val", "trainval") else fold
    command = ["python", "train.py", "--dataset", maker.spec.name, "--dataset_dir", str(maker.root)]
    command += ["--arch", "DeepMNV3V3PlusD_m1", "--crop_size", "320"]
    return shlex.join([*command, "--maxSkip", str(max(abs(found["step"]) for found in steps)), *elsewhere, *split])


def report_plan(sequences: Sequence[LabelledSequence], num_there: int, left_out: list[str], out: Path) -> int:
    """Print what would be written. Returns the exit code that the run would have."""
    size = sum(len(sequence.to_make) * sequence.pair.image_path.stat().st_size for sequence in sequences)
    pairs = counted(sum(len(sequence.to_make) for sequence in sequences), "pair")
    frames, folder = counted(len(sequences), "labelled frame"), escape(out / PROPAGATED)
    print(f"would write {pairs} of {frames} to {folder}, about {size / 1e6:,.0f} MB")
    if num_there:
        print(f"already there: {counted(num_there, 'pair')}")
    report_skipped(left_out, at_most=len(left_out))
    return 1 if left_out else 0


def report_video_plan(config: PropagateConfig) -> int:
    """The same for --video, of which less is known before its frames are decoded."""
    video, label_dir, out, _ = check_video(config)
    matched, left_out = match_labels(video, label_dir)
    frames, most = counted(len(matched), "labelled frame"), 2 * config.propagation.propagate * len(matched)
    print(f"would make a data set of {frames} in {escape(out)}, and write up to {counted(most, 'pair')} there")
    report_skipped(left_out, at_most=len(left_out))
    return 1 if left_out else 0


def report_skipped(left_out: Sequence[str], at_most: int = MOST_REPORTED) -> None:
    """Report on standard error what was skipped."""
    for message in left_out[:at_most]:
        print(f"skipped: {escape(message)}", file=sys.stderr)
    if len(left_out) > at_most:
        print(f"skipped: {len(left_out) - at_most} more; {SUMMARY} lists them all", file=sys.stderr)


if __name__ == "__main__":
    run_command(main, CONFIG)
