"""Score a checkpoint on a split, or predict a split without labels: python eval.py --snapshot CHECKPOINT."""

from __future__ import annotations

from inference.settings import EvalConfig
from utils.flags import parse_command_line, parse_numbers

if __name__ == "__main__":
    CONFIG = parse_command_line(EvalConfig)  # before heavy imports, so that --help answers at once

import math
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from config import as_dict
from datasets.files import Sample, dataset_root, find_samples, load_spec
from datasets.segmentation import load_sample
from datasets.specs.spec import DatasetSpec, first_difference
from inference.confidence import (
    CONFIDENCE_COLUMNS,
    TemperatureFit,
    describe,
    on_grid,
    plot_reliability,
    summarise,
    unstack,
)
from inference.evaluation import PICTURES, ImageResult, evaluate_image, picture_paths, write_pictures
from inference.load import DEFAULT_DATASET, Model, load_model
from inference.pipeline import predict_all
from inference.predictor import Predictor
from inference.report import page_data, write_page, write_scores
from inference.results import choose_kinds
from network.blocks import Network
from network.checkpoint import load_checkpoint, save_checkpoint
from utils.command import run_command
from utils.distributed import Processes, lists_of_all, process_group, sum_over_processes, wait_for_all
from utils.files import fingerprint, writable_folder, write_csv, write_json
from utils.images import Uint8Array
from utils.metrics import scores_table
from utils.text import counted, escape

NUM_TEST_IMAGES = 2  # what --test_mode evaluates
WITHOUT_EFFECT = ("batch_size", "max_memory", "profile", "test_mode", "calibrate")  # on the result of an image


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, on which data, and where the results go."""

    config: EvalConfig
    model: Model
    spec: DatasetSpec
    root: Path
    predictor: Predictor
    fold: int | None
    samples: list[Sample]
    folder: Path

    @property
    def is_labelled(self) -> bool:
        """Whether the split has labels."""
        return self.samples[0].label_path is not None

    @property
    def kinds(self) -> list[str]:
        """Of the pictures to be written: those asked for, and, where there is no score, the prediction."""
        output = self.config.output
        chosen = {*(choose_kinds(output.outputs, PICTURES) if output.outputs else ())}
        chosen |= {kind for kind in PICTURES if output.dump_images and kind != "confidence"}
        chosen |= set() if self.is_labelled else {"pred"}
        return [kind for kind in PICTURES if kind in chosen and (kind != "diff" or self.is_labelled)]

    def fingerprint(self, sample: Sample) -> str:
        """Of everything that an image's result depends on: settings, checkpoint, image, labels and their meaning."""
        config, spec = self.config, self.spec
        inference = {key: value for key, value in as_dict(config.inference).items() if key not in WITHOUT_EFFECT}
        inference["scales"] = self.predictor.scales  # however they are spelt
        meaning = [list(spec.train_id_of_label_id().items()), list(spec.train_id_of_color().items()), sample.masks]
        settings = [self.model.arch, inference, self.kinds, meaning]
        files = (Path(config.model.snapshot), sample.image_path, sample.label_path)
        return fingerprint(settings, [file for file in files if file])

    def load_result(self, sample: Sample) -> ImageResult | None:
        """The image's result with the same settings; None if there is none, or if its pictures are missing."""
        if not all(path.is_file() for path in picture_paths(self.folder, sample.name, self.kinds).values()):
            return None
        return ImageResult.load(self.folder, sample.name, self.fingerprint(sample))


def main(config: EvalConfig) -> int:
    """Predict the split's images, each once; print and write the scores where there are labels."""
    model = load_model(**vars(config.model), find_spec=partial(load_spec, dataset_dir=config.data.dataset_dir))
    spec = find_spec(model, config)
    root = dataset_root(spec.name, config.data.dataset_dir)
    fold = choose_fold(config, model, spec)
    samples = choose_samples(config, spec, root, fold)
    how = config.inference
    predictor = model.predictor(
        config.device.device, flip=not how.no_flip,
        scales=(1.0,) if how.single_scale else parse_numbers(how.scales, "--scales", float, positive=True),
        tile=how.crop_size if how.inference_mode == "sliding" else None, overlap=how.sliding_overlap,
        batch_size=how.batch_size, max_memory=how.max_memory, bf16=how.bf16, compile=how.compile,
    )  # fmt: skip
    if how.calibrate:
        check_calibrates(config, model, spec, samples)
    folder = writable_folder(result_folder(config, spec, fold), "--ckpt_path")
    run = Evaluation(config, model, spec, root, predictor, fold, samples, folder)
    predictor.confidence = "confidence" in run.kinds

    with process_group(predictor.device) as processes:
        if how.calibrate:
            predictor.temperature *= calibrate(run, processes)
        results, speed = evaluate(run, processes)
        if processes.is_main:
            report(run, results, speed)
        wait_for_all()
    return 0


def check_calibrates(config: EvalConfig, model: Model, spec: DatasetSpec, samples: list[Sample]) -> None:
    """Raise ValueError where there are no labels to fit a temperature to, or where the file could not hold it."""
    if samples[0].label_path is None:
        raise ValueError(f"--calibrate needs labels; {spec.name} has none for {config.data.split}.")
    if not isinstance(model.net, Network) or model.checkpoint.arch is None:
        told = "is no checkpoint of this project, which could hold a temperature"
        raise ValueError(f"--calibrate: {config.model.snapshot} {told}.")


def calibrate(run: Evaluation, processes: Processes) -> float:
    """Fit the factor by which the temperature must change, and store the new one in the checkpoint."""
    snapshot, fit = Path(run.config.model.snapshot), TemperatureFit()
    own = run.samples[processes.rank :: processes.world_size]

    def add(_: Sample, probabilities: NDArray[np.float32], image: Uint8Array, labels: Uint8Array) -> None:
        fit.add(torch.from_numpy(probabilities), on_grid(torch.from_numpy(labels)))

    predict_all(
        own, lambda sample: load_sample(sample, run.spec), lambda image: on_grid(run.predictor.probabilities(image)),
        add, device=run.predictor.device, path_of=lambda sample: sample.image_path, total=len(own),
    )  # fmt: skip
    fit.sums = sum_over_processes(fit.sums.to(run.predictor.device)).cpu()
    factor, before, after = fit.best()
    if processes.is_main:
        checkpoint = load_checkpoint(snapshot)
        temperature = checkpoint.temperature * factor
        save_checkpoint(snapshot, replace(checkpoint, temperature=temperature))
        change = f"mean log-likelihood {before:.4f} -> {after:.4f}"
        print(f"temperature {temperature:.3g} stored in {escape(snapshot)}; {change}")
    wait_for_all()
    return factor


def evaluate(run: Evaluation, processes: Processes) -> tuple[list[ImageResult], dict[str, Any]]:
    """Predict this process's images and write the requested files. Returns the results of all images, and the speed."""
    own = run.samples[processes.rank :: processes.world_size]
    kept = {sample.name: run.load_result(sample) for sample in own} if run.config.output.resume else {}
    results = {name: result for name, result in kept.items() if result}
    missing = [sample for sample in own if sample.name not in results]

    def write(sample: Sample, prediction: Uint8Array, image: Uint8Array, labels: Uint8Array) -> None:
        for path in picture_paths(run.folder, sample.name).values():
            path.unlink(missing_ok=True)  # of an earlier evaluation: it would not belong to the new scores
        prediction, confidence = unstack(prediction)
        paths = picture_paths(run.folder, sample.name, run.kinds)
        write_pictures(paths, image, labels, prediction, run.spec.classes, confidence)
        result = evaluate_image(image, labels, prediction, run.spec.num_classes, confidence)
        result.save(run.folder, sample.name, run.fingerprint(sample))  # last: it marks the image as done
        results[sample.name] = result

    speed = predict_all(
        missing, partial(load_sample, spec=run.spec), run.predictor.predict, write, device=run.predictor.device,
        path_of=lambda sample: sample.image_path, total=len(missing),
        num_writers=max(1, run.config.output.num_workers or 1),
    )  # fmt: skip
    everyones = dict(lists_of_all(list(results.items())))
    return [everyones[sample.name] for sample in run.samples], speed


def report(run: Evaluation, results: list[ImageResult], speed: dict[str, Any]) -> None:
    """Print and write the scores and the page; for a split without labels, print where its predictions are."""
    config, data, folder, spec = as_dict(run.config), run.config.data, run.folder, run.spec
    num_images, names = counted(len(run.samples), "image"), [sample.name for sample in run.samples]
    suffix = f"_part{data.split_index}of{data.split_count}" if data.split_count > 1 else ""
    # What was really used, given or not.
    config["data"] |= {"dataset": spec.name, "dataset_dir": str(run.root.resolve()), "cv_split": run.fold}
    facts = {"settings": config, **({"speed": speed} if speed else {})}
    sure = [summarise(result.confidence) for result in results] if "confidence" in run.kinds else None
    diagram = folder / f"reliability{suffix}.png" if sure and run.is_labelled else None
    if sure:
        levels = np.sum([result.confidence for result in results], axis=0)
        found = summarise(levels)
        values = {**found._asdict(), "temperature": run.predictor.temperature}
        facts["confidence"] = {name: None if math.isnan(value) else value for name, value in values.items()}
        print(describe(found.mean, found.low))
        if diagram:
            plot_reliability(diagram, levels)
            print(f"calibration error {found.calibration_error:.1%} (temperature {run.predictor.temperature:.3g})")
    write_json(folder / "settings.json", config)
    overall: dict[str, Any] | None = None
    per_image: list[dict[str, Any]] = []
    if run.is_labelled:
        overall, per_image = write_scores(folder, suffix, names, results, facts, spec.class_names, sure)
        print(scores_table(overall))
        print(f"{num_images} of {spec.name} {data.split} in {escape(run.root)}; results: {escape(folder)}")
    else:
        if sure:
            lines = [(name, *one[:2]) for name, one in zip(names, sure, strict=True)]
            write_csv(folder / f"per_image{suffix}.csv", ("image", *CONFIDENCE_COLUMNS), lines)
        print(f"{num_images} predicted, not scored: {spec.name} has no labels for {data.split}")
        print(f"label ids: {escape(folder / 'pred')}")
    page = page_data(
        f"{spec.title}: {data.split}", f"{run.model.arch}, {Path(run.config.model.snapshot).name}", spec.classes,
        names, results, overall=overall, per_image=per_image, pictures=run.config.output.dump_images, facts=facts,
        confidence=sure, reliability=diagram,
    )  # fmt: skip
    write_page(folder / f"report{suffix}.html", page)
    print(f"report: {escape(folder / f'report{suffix}.html')}")
    for step, seconds in speed.get("s_per_image", {}).items() if run.config.inference.profile else ():
        print(f"{step:<16} {seconds:8.3f} s per image", file=sys.stderr)


def find_spec(model: Model, config: EvalConfig) -> DatasetSpec:
    """The data set to evaluate on. Raises ValueError if it is unknown or has other classes than the checkpoint."""
    spec = load_spec(config.model.dataset or model.checkpoint.dataset or DEFAULT_DATASET, config.data.dataset_dir)
    trained = tuple(seg_class.name for seg_class in model.classes)
    if spec.class_names != trained:
        difference = first_difference(trained, spec.class_names)
        raise ValueError(f"{config.model.snapshot} was trained on other classes than {spec.title} has: {difference}.")
    return spec


def choose_fold(config: EvalConfig, model: Model, spec: DatasetSpec) -> int | None:
    """`--cv_split`, else the fold that the checkpoint was trained with: it has trained on what other folds hold out."""
    data, trained = config.data, model.checkpoint.config.get("data", {})
    if data.cv_split is not None or data.split not in ("train", "val") or trained.get("dataset") != spec.name:
        return data.cv_split
    fold: int | None = trained.get("cv")
    if fold is not None:
        print(f"notice: fold {fold}, as {config.model.snapshot} was trained; --cv_split overrides", file=sys.stderr)
    return fold


def choose_samples(config: EvalConfig, spec: DatasetSpec, root: Path, fold: int | None) -> list[Sample]:
    """The images of the split, or the part of them that `--split_index` selects; only two with `--test_mode`."""
    data = config.data
    if data.split_index >= data.split_count:
        raise ValueError(f"--split_index {data.split_index} must be below --split_count {data.split_count}.")
    samples = find_samples(spec, root, data.split, fold)
    start, stop = (len(samples) * i // data.split_count for i in (data.split_index, data.split_index + 1))
    if start == stop:
        raise ValueError(f"--split_count {data.split_count} is too large for {counted(len(samples), 'image')}.")
    return samples[start:stop][: NUM_TEST_IMAGES if config.inference.test_mode else None]


def result_folder(config: EvalConfig, spec: DatasetSpec, fold: int | None) -> Path:
    """<--ckpt_path>/<--exp_name>; folds, checkpoints and `--test_mode` have folders of their own."""
    snapshot, output = Path(config.model.snapshot), config.output
    base = Path(output.ckpt_path) if output.ckpt_path else snapshot.parent / "eval"
    of_fold = "" if fold is None else f"_cv{fold}"
    of_snapshot = "" if output.ckpt_path or snapshot.stem == "best" else f"_{snapshot.stem}"
    name = output.exp_name or f"{spec.name}_{config.data.split}{of_fold}{of_snapshot}"
    return base / (f"{name}_test_mode" if config.inference.test_mode else name)


if __name__ == "__main__":
    run_command(main, CONFIG)
