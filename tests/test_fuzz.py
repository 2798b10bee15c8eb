"""Damaged files: whatever is in a file that a user gives, its reader gives a result or the one clear error."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from config import RunConfig
from datasets.class_positions import PositionsPlan, find_positions
from datasets.files import Sample, find_samples, load_spec
from datasets.frames import PAIR_NOTE, record_of
from datasets.loaders import DecodedCache
from datasets.specs.class_table import read_spec
from datasets.specs.registry import dataset_spec
from inference.settings import SubmissionInputConfig
from inference.submission import complete_options
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.checkpoints import find_start
from training.run_log import RunLog, read_metrics
from utils.command import USER_ERRORS
from utils.images import image_size, read_image, read_label_colors, read_label_ids, write_image
from video.pairs import write_manifest
from video.video_dataset import check_out

CLASSES = {"classes": [{"name": "road", "color": [1, 2, 3], "ids": [0]}, {"name": "car", "color": "#040506"}]}
SECONDS = 3600  # of the long form, for all readers together


@dataclasses.dataclass
class Reader:
    """seeds: whole contents of `path`. read: what is done with it. names_file: its errors name the file."""

    path: Path
    seeds: list[bytes]
    read: Callable[[], object]
    names_file: bool = True


def encoded(folder: Path) -> list[bytes]:
    """Small pictures in all formats."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    made = []
    for suffix in ("png", "jpg", "webp", "tif", "bmp", "gif", "ppm", "jp2"):
        Image.fromarray(noise).save(folder / f"a.{suffix}")
        Image.fromarray(noise[..., 0]).save(folder / f"b.{suffix}")
        made += [(folder / f"{name}.{suffix}").read_bytes() for name in "ab"]
    Image.fromarray(noise[..., 0] % 4).convert("P").save(folder / "p.png")
    Image.fromarray(noise).save(folder / "e.jpg", exif=Image.Exif())
    return [*made, (folder / "p.png").read_bytes(), (folder / "e.jpg").read_bytes()]


def pictures(folder: Path, read: Callable[[Path], object]) -> Reader:
    path = folder / "file.png"
    return Reader(path, encoded(folder), lambda: read(path))


def classes(folder: Path) -> Reader:
    seeds = [json.dumps(CLASSES).encode(), b"[" * 2000, json.dumps({**CLASSES, "masks": "ids", "title": 3}).encode()]
    return Reader(folder / "classes.json", seeds, lambda: read_spec(folder))


def lists(folder: Path) -> Reader:
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    (folder / "val.txt").write_text("b\n")
    for name in "ab":
        write_image(folder / "images" / f"{name}.png", np.zeros((2, 2, 3), np.uint8))
        write_image(folder / "labels" / f"{name}.png", np.zeros((2, 2), np.uint8))

    def read() -> None:
        for sample in find_samples(load_spec("folder", str(folder)), folder, "train"):
            assert sample.image_path.resolve().is_relative_to(folder.resolve())

    seeds = [b"a\n", b"images/a.png\n# no\n", b"../../etc/passwd\n", b"/etc/passwd\n"]
    return Reader(folder / "train.txt", seeds, read)


def checkpoint(folder: Path, name: str) -> Reader:
    path = folder / name
    kept = Checkpoint(
        state_dict={"a.weight": torch.ones(3, 2), "a.bias": torch.zeros(3)}, arch="a", dataset="camvid",
        classes=dataset_spec("camvid").classes, training={"optimizer": {"state": {}, "param_groups": []}, "crops": 3},
    )  # fmt: skip
    save_checkpoint(path, kept)
    save_file({"a": torch.ones(2)}, folder / "plain.safetensors")
    return Reader(path, [path.read_bytes(), (folder / "plain.safetensors").read_bytes()], lambda: load_checkpoint(path))


def resumed(folder: Path) -> Reader:
    """last.pth, damaged, and previous.pth whole."""
    whole = checkpoint(folder / "run", "previous.pth").seeds[0]
    run = RunConfig(ckpt=str(folder), exp="run", resume=True)
    return Reader(folder / "run/last.pth", [whole], lambda: find_start(run), names_file=False)


def metrics(folder: Path) -> Reader:
    row = {"epoch": 0.5, "step": 1, "loss": 1.0, "lr": 0.1, "mean_iou": 0.5}
    seed = "".join(json.dumps({"kind": kind, **row}) + "\n" for kind in ("train", "val")).encode()
    log = RunLog(folder, folder / "tb", active=True)

    def read() -> None:
        log.rewind(1, is_due=True)
        for row in read_metrics(folder):
            assert row["epoch"] < 1 or row["kind"] == "train"
            assert all(isinstance(value, (int, float, type(None))) for key, value in row.items() if key != "kind")

    return Reader(folder / "metrics.jsonl", [seed, b'{"kind": 1, "epoch": "x"}\n' + seed], read)


def config(folder: Path) -> Reader:
    log = RunLog(folder, folder / "tb", active=True)

    def read() -> None:
        log.config({"run": {}}, {"data": "a"})
        assert json.loads((folder / "config.json").read_text())["starts"][-1] == {"data": "a"}

    return Reader(folder / "config.json", json_seeds({"starts": [{"data": "b"}]}, {"starts": 3}), read)


def settings_of_eval(folder: Path) -> Reader:
    path = folder / "settings.json"
    seeds = json_seeds({"data": {"dataset": "camvid"}}, {"data": [1]})
    return Reader(path, seeds, lambda: complete_options(SubmissionInputConfig(path=str(folder)), path))


def source_of_video(folder: Path) -> Reader:
    seeds = json_seeds({"video": str((folder / "film.mp4").resolve())}, {"video": 3})
    return Reader(folder / "source.json", seeds, lambda: check_out(folder, folder / "film.mp4", resume=True))


def json_seeds(*values: object) -> list[bytes]:
    return [*(json.dumps(value).encode() for value in values), b"[1]", b"{}", b"[" * 3000]


def notes(folder: Path) -> Reader:
    from utils.images import write_png

    path = folder / "labels.png"
    write_image(folder / "image.png", np.zeros((2, 2, 3), np.uint8))
    seeds = []
    for text in ('{"image": "image.png", "stride": 2}', '{"image": 3}', '{"stride": "2"}', "[" * 3000, "{", "[]"):
        write_png(path, np.zeros((2, 2), np.uint8), {PAIR_NOTE: text})
        seeds.append(path.read_bytes())

    def read() -> None:
        record = record_of(Sample("a", folder / "image.png", path))
        assert record is None or isinstance(record["image"], str)
        write_manifest(folder, folder)

    return Reader(path, seeds, read)


def camvid_sample(folder: Path) -> Sample:
    write_image(folder / "image.png", np.zeros((4, 6, 3), np.uint8))
    write_image(folder / "labels.png", np.zeros((4, 6), np.uint8))
    return Sample("a", folder / "image.png", folder / "labels.png")


def cache(folder: Path) -> Reader:
    sample, kept = camvid_sample(folder), DecodedCache(folder / "cache", dataset_spec("camvid"))
    kept.fill([sample], num_workers=0)
    path, _ = kept.paths_of(sample)

    def read() -> None:
        image, labels = kept.load(sample)
        assert (image.shape, labels.shape, image.dtype) == ((4, 6, 3), (4, 6), np.uint8)

    return Reader(path, [path.read_bytes()], read)


def positions(folder: Path) -> Reader:
    sample = camvid_sample(folder)
    plan = PositionsPlan([sample], dataset_spec("camvid"), folder, 8, 0)
    find_positions(plan, folder / "index", num_workers=0)
    (path,) = (folder / "index").iterdir()

    def read() -> None:
        found = find_positions(plan, folder / "index", num_workers=0)
        assert (found.table.shape[1], found.pixels.shape) == (4, (1, 11))

    return Reader(path, [path.read_bytes()], read)


READERS: dict[str, Callable[[Path], Reader]] = {
    "photo": lambda folder: pictures(folder, read_image),
    "size": lambda folder: pictures(folder, image_size),
    "ids": lambda folder: pictures(folder, read_label_ids),
    "colors": lambda folder: pictures(folder, read_label_colors),
    "colors or ids": lambda folder: pictures(folder, partial(read_label_ids, or_colors=True)),
    "classes.json": classes,
    "list": lists,
    "checkpoint": lambda folder: checkpoint(folder, "a.pth"),
    "safetensors": lambda folder: checkpoint(folder, "a.safetensors"),
    "resume": resumed,
    "metrics.jsonl": metrics,
    "config.json": config,
    "settings.json": settings_of_eval,
    "source.json": source_of_video,
    "note": notes,
    "cache": cache,
    "class positions": positions,
}

CHANGES = st.tuples(
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4)), max_size=6),
    st.one_of(st.just(None), st.integers(0, 1 << 16)),
)


def change(content: bytes, overwritten: list[tuple[int, bytes]], cut: int | None) -> bytes:
    changed = bytearray(content)
    for place, data in overwritten:
        start = place % (len(changed) + 1)
        changed[start : start + len(data)] = data
    return bytes(changed if cut is None else changed[: cut % (len(changed) + 1)])


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("num_examples", [25, pytest.param(None, marks=pytest.mark.slow)], ids=["short", "long"])
def test_a_damaged_file_gives_a_result_or_the_clear_error(tmp_path, name, num_examples):
    (tmp_path / "run").mkdir()
    reader = READERS[name](tmp_path)
    end, tried = time.monotonic() + SECONDS / len(READERS), []

    @settings(max_examples=num_examples or 10_000, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(st.sampled_from(reader.seeds), st.binary(max_size=200)), CHANGES)
    def read(seed, changes):
        if num_examples is None and time.monotonic() > end:
            return
        tried.append(1)
        reader.path.write_bytes(change(seed, *changes))
        try:
            reader.read()
        except USER_ERRORS as error:
            assert not reader.names_file or str(tmp_path) in str(error)  # the reader's own, which names the file

    read()
    while num_examples is None and time.monotonic() < end:
        read()
    print(f"{name}: {len(tried)} files")
