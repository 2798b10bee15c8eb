"""Score a checkpoint on a split, or predict a split without labels: python eval.py --snapshot CHECKPOINT."""

from __future__ import annotations

from inference.settings import EvalConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(EvalConfig)  # before heavy imports, so that --help answers at once

import hashlib
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from config import as_dict
from datasets.files import Sample, dataset_root, find_samples, load_spec
from datasets.segmentation import load_sample
from datasets.specs.registry import NAMES
from datasets.specs.spec import DatasetSpec, first_difference
from inference.load import DEFAULT_DATASET, Model, build_model, eval_predictor
from inference.predictor import Predictor, errors_naming
from inference.report import page_data, write_page
from inference.results import (
    Kept,
    count,
    kept_file,
    label_channels,
    load_kept,
    pictures_of,
    remove_pictures,
    save_kept,
    small,
    write_pictures,
    write_prediction,
    write_scores,
)
from inference.settings import AS_IN_TRAINING
from utils.command import run_command
from utils.device import Arriving, DeviceQueue, resolve_device
from utils.distributed import Processes, process_group, sum_over_processes, wait_for_all
from utils.files import writable_folder, write_json
from utils.images import Uint8Array, read_image
from utils.metrics import NUM_COUNTS, Scores
from utils.parallel import Stopwatch, WriteBehind, read_ahead
from utils.text import counted, escape

NUM_TEST_IMAGES = 2  # what --test_mode evaluates
WITHOUT_EFFECT = ("batch_size", "max_memory", "profile", "test_mode")  # on the result of an image


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, on which data, and where the results go."""

    config: EvalConfig
    model: Model
    spec: DatasetSpec
    root: Path
    predictor: Predictor
    fold: int | None
    pairs: list[Sample]
    folder: Path

    @property
    def suffix(self) -> str:
        """Suffix of the file names of one part."""
        data = self.config.data
        return f"_part{data.split_index}of{data.split_count}" if data.split_count > 1 else ""

    @property
    def labelled(self) -> bool:
        """Whether the split has labels."""
        return self.pairs[0].label_path is not None


def main(config: EvalConfig) -> int:
    """Predict the split's images, each once; print and write the scores where there are labels."""
    device = resolve_device(config.device.device)
    model = build_model(config.model, partial(load_spec, dataset_dir=config.data.dataset_dir))
    spec = known_spec(model, config)
    root = dataset_root(spec.name, config.data.dataset_dir)
    fold = chosen_fold(config, model, spec)
    pairs = chosen_pairs(config, spec, root, fold)
    predictor = eval_predictor(model, config.inference, device)
    folder = writable_folder(result_folder(config, spec, fold), "--ckpt_path")
    run = Evaluation(config, model, spec, root, predictor, fold, pairs, folder)

    with process_group(device) as processes:
        counts, facts = evaluate(run, processes)
        counts = sum_over_processes(counts.to(device)).cpu()
        if processes.is_main:
            report(run, counts, facts)
        wait_for_all()
    return 0


def evaluate(run: Evaluation, processes: Processes) -> tuple[Tensor, dict[str, Any]]:
    """Predict this process's images and write the requested files.

    Returns counts [N, C, C + 7] int64 of all pairs, 0 for the images of other processes, and facts for the report.
    """
    num_classes = run.spec.num_classes
    counts = torch.zeros(len(run.pairs), num_classes, num_classes + NUM_COUNTS, dtype=torch.int64)
    missing = []
    for i in range(processes.rank, len(run.pairs), processes.world_size):
        kept = load_one(run, run.pairs[i]) if run.config.output.resume else None
        if kept is None:
            missing.append(i)
        else:
            counts[i] = torch.from_numpy(kept.counts)

    reading, network, writing = Stopwatch(), DeviceQueue(run.predictor.device), Stopwatch()
    with (
        WriteBehind(max(1, run.config.device.num_workers or 1)) as write_behind,
        tqdm(total=len(missing), unit="image", disable=None if processes.is_main else True) as progress,
    ):
        for i, sample in read_ahead(missing, lambda i: read(run, run.pairs[i], reading)):
            image, truth = sample.result()
            with network.working(), errors_naming(run.pairs[i].image_path):
                predicted = Arriving(run.predictor.labels(image))
            write_behind(write, run, run.pairs[i], image, truth, predicted, counts[i], writing)
            progress.update()
    facts: dict[str, Any] = {"settings": settings(run)}
    if missing:
        per_image = {"read": reading, "network": network, "score and write": writing}
        facts["speed"] = {
            "images_per_s": network.per_second(len(missing)),
            "network_share": network.share(),
            "s_per_image": {name: watch.seconds / len(missing) for name, watch in per_image.items()},
        }
    return counts, facts


def read(run: Evaluation, pair: Sample, reading: Stopwatch) -> tuple[Uint8Array, Uint8Array | None]:
    """An image and its train ids; None if it has no labels."""
    with reading.working():
        return load_sample(pair, run.spec) if pair.label_path else (read_image(pair.image_path), None)


def write(
    run: Evaluation, pair: Sample, image: Uint8Array, truth: Uint8Array | None, predicted: Arriving, counts: Tensor,
    writing: Stopwatch,
) -> None:
    """Score one image into `counts` [C, C + 7] and write the requested files, last the one that marks it as done.

    Label ids are always written if there is no truth, since they are then the result.
    """
    labels = predicted.array()
    with writing.working():
        classes, dump_images = run.model.classes, run.config.output.dump_images
        counts.copy_(torch.from_numpy(count(truth, labels, run.spec.num_classes)))
        channels = label_channels(truth, labels)
        remove_pictures(run.folder, pair.name)
        if truth is None or dump_images:
            write_prediction(run.folder, pair.name, labels, run.spec.classes)  # the ids of the data set's own files
        if dump_images:
            write_pictures(run.folder, pair.name, image, truth, labels, channels, classes)
        kept = Kept(counts.numpy(), (labels.shape[1], labels.shape[0]), *small(image, channels))
        save_kept(kept_file(run.folder, pair.name), kept, fingerprint(run, pair))


def settings(run: Evaluation) -> dict[str, Any]:
    """All flags, with the data set, folder and fold that were really used."""
    flags = as_dict(run.config)
    used = {"dataset": run.spec.name, "dataset_dir": str(run.root.resolve()), "cv_split": run.fold}
    return {**flags, "data": {**flags["data"], **used}}


def load_one(run: Evaluation, pair: Sample) -> Kept | None:
    """What was kept of an image with the same settings; None if nothing was, or if its pictures are missing."""
    wanted = pictures_of(run.folder, pair.name, labelled=run.labelled, dumped=run.config.output.dump_images)
    if not all(path.is_file() for path in wanted):
        return None
    return load_kept(kept_file(run.folder, pair.name), fingerprint(run, pair))


def report(run: Evaluation, counts: Tensor, facts: dict[str, Any]) -> None:
    """Print and write the scores and the page; for a split without labels, print where its predictions are."""
    data, folder = run.config.data, run.folder
    write_json(folder / "settings.json", facts["settings"])
    names = [pair.name for pair in run.pairs]
    overall: Scores | None = None
    per_image: list[Scores] = []
    if run.labelled:
        overall, per_image = write_scores(folder, run.suffix, names, counts, facts, run.spec.class_names)
        print(f"{overall.table()}\n{about_scores(run.predictor)}")
    about = f"{run.model.arch}, {Path(run.config.model.snapshot).name}"
    kept = [load_one(run, pair) for pair in run.pairs]
    page = page_data(
        f"{run.spec.title}: {data.split}", about, run.model.classes, names, kept, overall=overall, per_image=per_image,
        confusion=counts.sum(0)[:, : run.spec.num_classes], pictures=run.config.output.dump_images, facts=facts,
    )  # fmt: skip
    write_page(folder / f"report{run.suffix}.html", page)
    if run.labelled:
        images = f"{counted(len(names), 'image')} of {run.spec.name} {data.split}"
        print(f"{images} in {escape(run.root)}; results: {escape(folder)}")
    else:
        print(f"{counted(len(names), 'image')} predicted, not scored: {run.spec.name} has no labels for {data.split}")
        print(f"label ids: {escape(folder / 'pred')}")
    print(f"report: {escape(folder / f'report{run.suffix}.html')}")
    if "speed" in facts:
        print_speed(facts["speed"], run.config.inference.profile)


def about_scores(predictor: Predictor) -> str:
    """How images were processed, and the flags that process them as train.py does, if these are others."""
    tile, scales = predictor.tile, ", ".join(f"{scale:g}" for scale in predictor.scales)
    shown, flip = f"tiles of {tile}" if tile else "whole images", "with flip" if predictor.flip else "no flip"
    how = f"scored on {shown}, scale {scales}, {flip}"
    is_as_in_training = (tile, predictor.scales, predictor.flip) == (None, (1.0,), False)
    return how if is_as_in_training else f"{how}; train.py scores as with {AS_IN_TRAINING}"


def known_spec(model: Model, config: EvalConfig) -> DatasetSpec:
    """The data set to evaluate on. Raises ValueError if it is unknown or has other classes than the checkpoint."""
    name = config.model.dataset or model.checkpoint.dataset or DEFAULT_DATASET
    if name not in NAMES:
        raise ValueError(
            f"{config.model.snapshot} was trained on {name!r}, which is not a known data set; name one with --dataset: "
            f"{', '.join(NAMES)}."
        )
    spec = load_spec(name, config.data.dataset_dir)
    trained = tuple(seg_class.name for seg_class in model.classes)
    if spec.class_names != trained:
        raise ValueError(
            f"{config.model.snapshot} was trained on other classes than {spec.title} has now: "
            f"{first_difference(trained, spec.class_names)}. Evaluate it on data with the classes it was trained on."
        )
    return spec


def chosen_fold(config: EvalConfig, model: Model, spec: DatasetSpec) -> int | None:
    """`--cv_split`, else the fold that the checkpoint was trained with: it has trained on what other folds hold out."""
    data, trained = config.data, model.checkpoint.config.get("data", {})
    if data.cv_split is not None or data.split not in ("train", "val") or trained.get("dataset") != spec.name:
        return data.cv_split
    fold: int | None = trained.get("cv")
    if fold is not None:
        print(f"notice: fold {fold}, as {config.model.snapshot} was trained; --cv_split overrides", file=sys.stderr)
    return fold


def chosen_pairs(config: EvalConfig, spec: DatasetSpec, root: Path, fold: int | None) -> list[Sample]:
    """The images of the split, or the part of them that `--split_index` selects; only two with `--test_mode`."""
    data = config.data
    if data.split_index >= data.split_count:
        raise ValueError(f"--split_index {data.split_index} must be below --split_count {data.split_count}.")
    pairs = find_samples(spec, root, data.split, fold)
    cuts = [len(pairs) * i // data.split_count for i in (data.split_index, data.split_index + 1)]
    part = pairs[cuts[0] : cuts[1]]
    if not part:
        there = counted(len(pairs), "image")
        raise ValueError(f"--split_count {data.split_count} is too large: the split has {there}.")
    return part[:NUM_TEST_IMAGES] if config.inference.test_mode else part


def result_folder(config: EvalConfig, spec: DatasetSpec, fold: int | None) -> Path:
    """<--ckpt_path>/<--exp_name>; runs with `--test_mode` have a folder of their own.

    The default name contains fold and checkpoint, so that those do not share results.
    """
    snapshot, output = Path(config.model.snapshot), config.output
    base = Path(output.ckpt_path) if output.ckpt_path else snapshot.parent / "eval"
    of_fold = "" if fold is None else f"_cv{fold}"
    of_snapshot = "" if output.ckpt_path or snapshot.stem == "best" else f"_{snapshot.stem}"
    name = output.exp_name or f"{spec.name}_{config.data.split}{of_fold}{of_snapshot}"
    return base / (f"{name}_test_mode" if config.inference.test_mode else name)


def fingerprint(run: Evaluation, pair: Sample) -> str:
    """A hash of everything that an image's result depends on: settings, checkpoint, image, labels and their meaning."""
    config, spec = run.config, run.spec
    files = [Path(config.model.snapshot), pair.image_path, *([pair.label_path] if pair.label_path else [])]
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    inference = {key: value for key, value in as_dict(config.inference).items() if key not in WITHOUT_EFFECT}
    inference["scales"] = run.predictor.scales
    meaning = [list(spec.train_id_of_label_id().items()), list(spec.train_id_of_color().items()), pair.masks]
    settings = [run.model.arch, inference, config.output.dump_images, stamps, meaning]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def print_speed(speed: dict[str, Any], profile: bool) -> None:
    """Print this process's images per second and how busy its network was; with `--profile` the time of each step."""
    share = f"network busy {100 * speed['network_share']:.0f} % of the time"
    print(f"{speed['images_per_s']:.2f} images/s; {share}", file=sys.stderr)
    if profile:
        for step, seconds in speed["s_per_image"].items():
            print(f"{step:<16} {seconds:8.3f} s per image", file=sys.stderr)


if __name__ == "__main__":
    run_command(main, CONFIG)
