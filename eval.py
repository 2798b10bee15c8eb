"""Score a checkpoint on a split, or predict a split without labels: python eval.py --snapshot CHECKPOINT."""

from __future__ import annotations

from config import EvalConfig
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(EvalConfig)  # before PyTorch is imported, so that --help answers at once

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from config import as_dict
from datasets.index import Pair, dataset_root, find_pairs, load_spec
from datasets.registry import NAMES
from datasets.segmentation import load_pair
from datasets.spec import DatasetSpec
from inference.build import DEFAULT_DATASET, Model, eval_predictor, load_model
from inference.predictor import Predictor
from inference.report import load_counts, save_counts, write_pictures, write_prediction, write_scores
from utils.command import run_command
from utils.device import resolve_device
from utils.distributed import process_group, sum_over_processes, wait_for_all
from utils.files import writable_folder
from utils.images import Uint8Array, read_image
from utils.metrics import ConfusionMatrix

NUM_TEST_IMAGES = 2  # what --test_mode evaluates
STEPS = ("read", "predict", "score and write")
WITHOUT_EFFECT = ("batch_size", "profile", "test_mode")  # on an image's result


def main(config: EvalConfig) -> int:
    """Predict the split's images, each once; print and write the scores where there are labels."""
    device = resolve_device(config.device.device)
    model = load_model(config.model, partial(load_spec, dataset_dir=config.data.dataset_dir))
    spec = known_spec(model, config)
    pairs = chosen_pairs(config, spec)
    predictor = eval_predictor(model, config.inference, device)
    folder = writable_folder(result_folder(config, spec), "--ckpt_path")

    with process_group(device) as me:
        seconds: Counter[str] = Counter()
        matrices = torch.zeros(len(pairs), spec.num_classes, spec.num_classes, dtype=torch.int64)
        mine = range(me.rank, len(pairs), me.count)
        for i in tqdm(mine, unit="image", disable=None if me.is_main else True):
            matrices[i] = evaluate_image(pairs[i], predictor, model, spec, config, folder, seconds)
        matrices = sum_over_processes(matrices.to(device)).cpu()
        if me.is_main:
            report(config, spec, pairs, matrices, folder)
            if config.inference.profile:
                print_profile(seconds, len(mine))
        wait_for_all()
    return 0


def evaluate_image(
    pair: Pair, predictor: Predictor, model: Model, spec: DatasetSpec, config: EvalConfig, folder: Path,
    seconds: Counter[str],
) -> Tensor:
    """Predict one image and write what is asked for; its confusion matrix [C, C] int64, all 0 without labels."""
    counts_file = folder / "counts" / f"{pair.name}.npz"
    mark = fingerprint(config, pair)
    if config.output.resume:
        kept = load_counts(counts_file, mark)
        if kept is not None:
            return torch.from_numpy(kept)

    start = time.perf_counter()
    image, truth = load_pair(pair, spec) if pair.labels else (read_image(pair.image), None)
    loaded = time.perf_counter()
    labels = predictor.labels(image).cpu()
    predicted = time.perf_counter()
    confusion = ConfusionMatrix(spec.num_classes, spec.ignore_label)
    if truth is not None:
        confusion.update(torch.from_numpy(truth), labels)
    write_images(config, folder, pair, model, image, truth, labels.numpy())
    save_counts(counts_file, confusion.matrix.numpy(), mark)
    times = (loaded - start, predicted - loaded, time.perf_counter() - predicted)
    seconds.update(dict(zip(STEPS, times, strict=True)))
    return confusion.matrix


def write_images(
    config: EvalConfig, folder: Path, pair: Pair, model: Model, image: Uint8Array, truth: Uint8Array | None,
    labels: Uint8Array,
) -> None:
    """Write label ids where there is no truth, for they are the result then, and all pictures with `--dump_images`."""
    if truth is None or config.output.dump_images:
        write_prediction(folder, pair.name, labels, model.classes)
    if config.output.dump_images:
        write_pictures(folder, pair.name, image, truth, labels, model.classes)


def report(config: EvalConfig, spec: DatasetSpec, pairs: Sequence[Pair], matrices: Tensor, folder: Path) -> None:
    """Print and write the scores; of a split without labels, say where its predictions are."""
    if pairs[0].labels is None:
        print(f"{len(pairs)} images predicted, not scored: {spec.name} has no labels for {config.data.split}")
        print(f"label ids are in {folder / 'pred'}")
        return
    data = config.data
    suffix = f"_part{data.split_index}of{data.split_count}" if data.split_count > 1 else ""
    overall = write_scores(folder, suffix, [p.name for p in pairs], matrices, as_dict(config), spec.class_names)
    print(overall.table())
    print(f"{len(pairs)} images of {spec.name} {data.split}; the results are in {folder}")


def known_spec(model: Model, config: EvalConfig) -> DatasetSpec:
    """The data set to evaluate on. Raises ValueError where it is not known or has other classes than the checkpoint."""
    name = config.model.dataset or model.checkpoint.dataset or DEFAULT_DATASET
    if name not in NAMES:
        raise ValueError(f"{config.model.snapshot} is for data set {name!r}, unknown here.")
    spec = load_spec(name, config.data.dataset_dir)
    if spec.class_names != tuple(seg_class.name for seg_class in model.classes):
        raise ValueError(f"{config.model.snapshot}: its classes are not those that {spec.title} has today.")
    return spec


def chosen_pairs(config: EvalConfig, spec: DatasetSpec) -> list[Pair]:
    """The images of the split, or the part of them that `--split_index` means, or two with `--test_mode`."""
    data = config.data
    if data.split_index >= data.split_count:
        raise ValueError(f"--split_index {data.split_index} must be below --split_count {data.split_count}.")
    pairs = find_pairs(spec, dataset_root(spec, data.dataset_dir), data.split, data.cv_split)
    cuts = [len(pairs) * i // data.split_count for i in (data.split_index, data.split_index + 1)]
    part = pairs[cuts[0] : cuts[1]]
    if not part:
        raise ValueError(f"--split_count {data.split_count}: there are only {len(pairs)} images.")
    return part[:NUM_TEST_IMAGES] if config.inference.test_mode else part


def result_folder(config: EvalConfig, spec: DatasetSpec) -> Path:
    """<--ckpt_path>/<--exp_name>; trial runs have a folder of their own."""
    base = Path(config.output.ckpt_path) if config.output.ckpt_path else Path(config.model.snapshot).parent / "eval"
    name = config.output.exp_name or f"{spec.name}_{config.data.split}"
    return base / (f"{name}_test_mode" if config.inference.test_mode else name)


def fingerprint(config: EvalConfig, pair: Pair) -> str:
    """Changes with everything an image's result depends on: settings, checkpoint file, image, labels."""
    files = [Path(config.model.snapshot), pair.image, *([pair.labels] if pair.labels else [])]
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    inference = {key: value for key, value in as_dict(config.inference).items() if key not in WITHOUT_EFFECT}
    settings = [as_dict(config.model), inference, config.output.dump_images, stamps]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def print_profile(seconds: Counter[str], num_images: int) -> None:
    """Seconds per image of each step, on this process."""
    for step in STEPS:
        print(f"{step:<16} {seconds[step] / num_images:8.3f} s per image", file=sys.stderr)


if __name__ == "__main__":
    run_command(partial(main, CONFIG), debug=CONFIG.device.debug)
