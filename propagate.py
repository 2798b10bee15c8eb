"""Propagate labels along video: python propagate.py --dataset NAME --dataset_dir DIR --propagate 3."""

from __future__ import annotations

from utils.flags import parse_command_line
from video.settings import PropagateConfig, PropagationConfig

if __name__ == "__main__":
    CONFIG = parse_command_line(PropagateConfig)  # before heavy imports, so that --help answers at once

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from config import as_dict
from datasets.files import dataset_root, find_samples, load_spec
from datasets.legend import draw_sheet
from datasets.segmentation import load_sample
from datasets.specs.spec import PROPAGATED, DatasetSpec
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import Processes, lists_of_all, process_group, wait_for_all
from utils.files import natural_order, writable_folder, write_json
from utils.images import write_image
from utils.parallel import default_num_workers, in_parallel
from utils.text import counted, escape
from video.flow import StreetFlow, build_flow
from video.pairs import LabelledSequence, PairMaker, find_sequences, write_manifest
from video.propagation import VOID_TESTS
from video.video_dataset import check_out, find_classes, make_dataset, match_labels

SUMMARY, SHEET = "summary.json", "sheet.png"
NUM_SHOWN = 12  # pairs on the sheet, evenly spread


def main(config: PropagateConfig) -> int:
    """Make every pair. Returns 1 if something is missing or wrong; the rest is made all the same."""
    chosen, output = config.propagation, config.output
    device = choose_device(chosen, config.device.device)
    with process_group(device) as processes:
        if config.data.video and output.dry_run:
            return report_video_plan(config) if processes.is_main else 0
        spec, root, left_out = open_dataset(config, processes)
        out = Path(output.out or root)
        split = config.data.split or ("trainval" if config.data.video else "train")
        sequences, missing = find_sequences(spec, root, find_samples(spec, root, split, config.data.cv), out, chosen)
        left_out += missing
        if chosen.flow == "exact":
            StreetFlow(root, sequences[0].labelled.name)  # fails now for a set that was not drawn, not frame by frame
        maker = PairMaker(spec, root, out, chosen, str(device))
        left = [maker.without_done(sequence) for sequence in sequences] if output.resume else sequences
        if output.dry_run:
            there = sum(len(whole.to_make) - len(rest.to_make) for whole, rest in zip(sequences, left, strict=True))
            return report_plan(left, there, left_out, out) if processes.is_main else 0
        if processes.is_main:
            writable_folder(out / PROPAGATED, "--out")
        wait_for_all()  # until every process has seen which pairs exist
        left_out += make_pairs(maker, left, processes, config.device.num_workers)
        if processes.is_main:
            write_outcome(config, maker, sequences, left_out)
    return 1 if left_out and processes.is_main else 0  # torchrun stops all processes when one fails


def choose_device(chosen: PropagationConfig, name: str) -> torch.device:
    """The device to use. Raises ValueError for --keep, or for --flow_weights that --flow does not fit."""
    if unknown := sorted(set(chosen.kept_tests) - set(VOID_TESTS)):
        raise ValueError(f"--keep {unknown[0]!r} is unknown. Choose from: {', '.join(VOID_TESTS)}.")
    if chosen.flow != "exact":
        build_flow(chosen.flow, weights=chosen.flow_weights)  # fails now, not in every process
    elif chosen.flow_weights:
        raise ValueError(f"--flow exact takes no --flow_weights, got {chosen.flow_weights}.")
    return resolve_device(name if chosen.flow in ("raft", "sdc") else "cpu")  # DIS and geometry run on the CPU only


def open_dataset(config: PropagateConfig, processes: Processes) -> tuple[DatasetSpec, Path, list[str]]:
    """The data set, its root, and what was skipped; for --video the main process first makes the set."""
    data, chosen = config.data, config.propagation
    left_out: list[str] = []
    if data.video:
        if processes.is_main:
            left_out = make_dataset(*check_video(config), reach=chosen.propagate, stride=chosen.stride)
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


def make_pairs(
    maker: PairMaker, sequences: Sequence[LabelledSequence], processes: Processes, workers: int | None
) -> list[str]:
    """Do this process's share, on one core per worker. Returns what failed in any process."""
    mine = [sequence for sequence in sequences if sequence.to_make][processes.rank :: processes.world_size]
    if workers is None:  # one is enough to keep a GPU busy
        workers = 1 if maker.device.startswith("cuda") else default_num_workers()
    problems = in_parallel(maker, mine, workers, title="propagate", unit="labelled frame")
    return lists_of_all([problem for problem in problems if problem])


def write_outcome(
    config: PropagateConfig, maker: PairMaker, sequences: Sequence[LabelledSequence], left_out: list[str]
) -> None:
    """Write manifest, summary and contact sheet; print the outcome and how to train on it."""
    folder, left_out = maker.out / PROPAGATED, sorted(left_out, key=natural_order)
    done = [found for sequence in sequences if (found := maker.find_done(sequence))]
    pairs = [pair for found in done for pair in found.values()]
    write_manifest(folder, maker.out)
    write_json(folder / SUMMARY, {"parameters": as_dict(config), "pairs": len(pairs), "left_out": left_out})
    print(f"{counted(len(pairs), 'pair')} of {counted(len(done), 'labelled frame')}: {escape(folder)}")
    if pairs:
        shown = [pairs[len(pairs) * i // NUM_SHOWN] for i in range(NUM_SHOWN)] if len(pairs) > NUM_SHOWN else pairs
        pictures = [load_sample(pair, maker.spec) for pair in shown]
        write_image(folder / SHEET, draw_sheet(pictures, maker.spec.classes, columns=2))
        dataset = f"--dataset {maker.spec.name} --dataset_dir {maker.root} --propagated_dir {maker.out}"
        most = max(abs(step) for found in done for step in found)
        print(escape(f"to train on them: python train.py {dataset} --maxSkip {most}"))
    report_skipped(left_out)


def report_plan(sequences: Sequence[LabelledSequence], num_there: int, left_out: list[str], out: Path) -> int:
    """Print what would be written. Returns the exit code that the run would have."""
    size = sum(len(sequence.to_make) * sequence.labelled.image_path.stat().st_size for sequence in sequences)
    pairs = counted(sum(len(sequence.to_make) for sequence in sequences), "pair")
    frames, folder = counted(len(sequences), "labelled frame"), escape(out / PROPAGATED)
    print(f"would write {pairs} of {frames} to {folder}, about {size / 1e6:,.0f} MB")
    if num_there:
        print(f"already there: {counted(num_there, 'pair')}")
    return report_skipped(left_out)


def report_video_plan(config: PropagateConfig) -> int:
    """The same for --video, of which less is known before its frames are decoded."""
    video, label_dir, out, _ = check_video(config)
    matched, left_out = match_labels(video, label_dir)
    frames, most = counted(len(matched), "labelled frame"), 2 * config.propagation.propagate * len(matched)
    print(f"would make a data set of {frames} in {escape(out)}, and write up to {counted(most, 'pair')} there")
    return report_skipped(left_out)


def report_skipped(left_out: Sequence[str]) -> int:
    """Report on standard error what was skipped. Returns the exit code: 1 if anything was."""
    for message in left_out:
        print(f"skipped: {escape(message)}", file=sys.stderr)
    return 1 if left_out else 0


if __name__ == "__main__":
    run_command(main, CONFIG)
