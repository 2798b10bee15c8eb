"""eval.py: scores that can be recomputed by hand, parts, interruption, several processes, splits without labels."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eval as evaluation
from datasets.specs.registry import DATASETS, dataset_spec
from inference.evaluation import ImageResult
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from network.deepv3 import build_network
from tests.conftest import ROOT
from utils.images import read_image, read_label_ids, write_image

CAMVID = dataset_spec("camvid")
NAMES = ("a", "b", "c", "d", "e")
FAST = ("--single_scale", "--no_flip", "--device", "cpu")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A CamVid of five small pictures, one of them in portrait format."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(NAMES):
        size = (48, 32) if i == 2 else (32, 48)
        write_image(tmp_path / "data" / "val" / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
        labels = rng.integers(0, 12, size, np.uint8)
        labels[labels == 7] = 0  # no Fence anywhere
        write_image(tmp_path / "data" / "valannot" / f"{name}.png", labels)
    return tmp_path / "data"


@pytest.fixture
def run(root, light_checkpoint, tmp_path, command):
    """Evaluate into tmp_path/out."""
    return lambda *flags: command(
        "eval", "--snapshot", light_checkpoint, "--dataset_dir", root, "--ckpt_path", tmp_path / "out", *FAST, *flags
    )


def metrics(tmp_path: Path, folder: str = "camvid_val", file: str = "metrics.json") -> dict:
    return json.loads((tmp_path / "out" / folder / file).read_text())


def test_scores_are_those_of_the_written_predictions(run, root, tmp_path):
    ended = run("--dump_images")
    assert ended.code == 0
    confusion = np.zeros((11, 11), int)
    for name in NAMES:
        truth = read_label_ids(root / "valannot" / f"{name}.png")
        guess = read_label_ids(tmp_path / "out" / "camvid_val" / "pred" / f"{name}.png")
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            if t != 11:  # void
                confusion[t, g] += 1
    found = metrics(tmp_path)
    assert found["confusion"] == confusion.tolist()
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    present = confusion.sum(1) > 0
    assert found["mean_iou"] == pytest.approx((confusion.diagonal() / union)[present].mean())
    assert found["absent"] == ["Fence"]
    assert found["classes"]["Fence"]["iou"] is None
    assert "Sky" in ended.out
    assert "Fence" in ended.out


def test_tables_are_written_per_class_and_per_image(run, tmp_path):
    run()
    folder = tmp_path / "out" / "camvid_val"
    per_class = list(csv.DictReader((folder / "per_class.csv").open()))
    per_image = list(csv.DictReader((folder / "per_image.csv").open()))
    assert [line["class"] for line in per_class] == list(CAMVID.class_names)
    assert [line["image"] for line in per_image] == list(NAMES)
    assert all(0 <= float(line["mean_iou"]) <= 1 for line in per_image)
    assert all(0 <= float(line["mean_boundary_f"]) <= 1 for line in per_image)
    found = metrics(tmp_path)
    for line in per_class:
        for key in ("iou", "precision", "recall", "f1", "boundary_iou", "boundary_f"):
            assert (float(line[key]) if line[key] else None) == found["classes"][line["class"]][key]
    assert not (folder / "pred").exists(), "pictures only where asked for"


def test_dumped_pictures_have_the_size_of_the_photo(run, root, tmp_path):
    run("--dump_images")
    for kind in ("rgb", "pred", "compose", "diff", "maps"):
        pictures = tmp_path / "out" / "camvid_val" / kind
        assert sorted(p.stem for p in pictures.iterdir()) == list(NAMES)
        assert read_image(pictures / "c.png").shape == (48, 32, 3)
    assert (read_image(tmp_path / "out" / "camvid_val" / "rgb" / "a.png") == read_image(root / "val" / "a.png")).all()


def test_pictures_of_an_earlier_run_do_not_stay_beside_other_scores(run, root, tmp_path):
    folder = tmp_path / "out" / "camvid_val"
    run("--dump_images")
    run("--dump_images", "--resume")
    assert len([path for path in folder.rglob("*.png") if path.is_file()]) == 5 * len(NAMES)
    write_image(root / "val" / "a.png", np.zeros((32, 48, 3), np.uint8))
    run("--dump_images", "--resume")
    assert (read_image(folder / "rgb" / "a.png") == 0).all()
    run("--crop_size", 40, "--resume")
    assert not [path for path in folder.rglob("*.png") if path.is_file()]


def test_resume_makes_again_what_is_gone(run, tmp_path):
    folder = tmp_path / "out" / "camvid_val"
    run("--dump_images")
    shutil.rmtree(folder / "pred")
    (folder / "diff" / "b.png").unlink()
    run("--dump_images", "--resume")
    assert sorted(path.stem for path in (folder / "pred").iterdir()) == list(NAMES)
    assert (folder / "diff" / "b.png").is_file()


def test_a_checkpoint_is_scored_on_the_fold_that_it_was_trained_with(tmp_path, command):
    root = tmp_path / "set"
    classes = [{"name": name, "color": [i, 0, 0]} for i, name in enumerate(CAMVID.class_names)]
    for i in range(6):
        write_image(root / "images" / f"{i}.png", np.zeros((32, 32, 3), np.uint8))
        write_image(root / "labels" / f"{i}.png", np.zeros((32, 32), np.uint8))
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    described = Checkpoint(
        state_dict=build_network("DeepMNV3V3PlusD_m1", 11).state_dict(), arch="DeepMNV3V3PlusD_m1", dataset="folder",
        classes=dataset_spec("folder", root).classes, config={"data": {"dataset": "folder", "cv": 1}},
    )  # fmt: skip
    save_checkpoint(tmp_path / "best.pth", described)
    flags = ("--snapshot", tmp_path / "best.pth", "--dataset_dir", root, *FAST)
    ended = command("eval", *flags, "--dump_images")
    assert "notice: fold 1" in ended.err
    checked = command("inference.submission", tmp_path / "eval/folder_val_cv1")
    assert "1 prediction of folder val" in checked.out, checked.err
    command("eval", *flags, "--cv_split", 0)
    images = {
        fold: [line["image"] for line in csv.DictReader((tmp_path / f"eval/folder_val_cv{fold}/per_image.csv").open())]
        for fold in (0, 1)
    }
    assert images == {0: ["0", "5"], 1: ["1"]}


def test_a_page_to_look_at_is_written_also_for_a_part_and_after_an_interruption(run, tmp_path):
    folder = tmp_path / "out" / "camvid_val"
    ended = run()
    assert f"report: {folder / 'report.html'}" in ended.out
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg") == len(NAMES)
    run("--resume")
    assert (folder / "report.html").read_text().count("data:image/jpeg") == len(NAMES)
    run("--split_index", 1, "--split_count", 2)
    assert (folder / "report_part1of2.html").is_file()


def test_sliding_pooling_scales_and_flip_run(run, tmp_path):
    assert run("--inference_mode", "pooling").code == 0
    whole = metrics(tmp_path)
    assert run("--inference_mode", "sliding", "--crop_size", 48).code == 0
    assert metrics(tmp_path)["confusion"] == whole["confusion"], "a tile as large as the image is the whole image"
    assert run("--inference_mode", "sliding", "--crop_size", 32, "--sliding_overlap", 0.5, "--batch_size", 2).code == 0
    assert sum(map(sum, metrics(tmp_path)["confusion"])) == sum(map(sum, whole["confusion"]))


def test_parts_add_up_to_the_whole(run, tmp_path):
    run()
    whole = np.array(metrics(tmp_path)["confusion"])
    for i in range(2):
        run("--split_index", i, "--split_count", 2)
    parts = [metrics(tmp_path, file=f"metrics_part{i}of2.json") for i in range(2)]
    assert sum(part["num_images"] for part in parts) == 5
    assert (sum(np.array(part["confusion"]) for part in parts) == whole).all()


def count_predictions(monkeypatch) -> list:
    """Every later call of a predictor adds an item to the list."""
    calls: list = []
    original = evaluation.Predictor.predict
    monkeypatch.setattr(evaluation.Predictor, "predict", lambda self, image: calls.append(1) or original(self, image))
    return calls


def test_resume_predicts_only_what_is_missing(run, tmp_path, monkeypatch):
    run()
    first = metrics(tmp_path)
    (tmp_path / "out" / "camvid_val" / "counts" / "b.npz").unlink()
    (tmp_path / "out" / "camvid_val" / "counts" / "d.npz").write_bytes(b"half a fi")
    calls = count_predictions(monkeypatch)
    assert run("--resume").code == 0
    assert len(calls) == 2
    assert metrics(tmp_path)["confusion"] == first["confusion"]
    run()
    assert len(calls) == 7, "without --resume everything is predicted anew"


def test_what_is_kept_of_an_image_may_be_damaged_anywhere(tmp_path):
    path = tmp_path / "counts" / "a.npz"
    counts = np.arange(9 * 16).reshape(9, 16)
    ImageResult(counts, np.zeros((3, 256), np.int64), (4, 3), b"photo", b"maps").save(tmp_path, "a", "mark")
    whole = path.read_bytes()
    kept = ImageResult.load(tmp_path, "a", "mark")
    assert kept is not None
    assert (kept.counts == counts).all()
    for size in range(0, len(whole), 50):
        path.write_bytes(whole[:size])
        assert ImageResult.load(tmp_path, "a", "mark") is None
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        ImageResult.load(tmp_path, "a", "mark")  # raises nothing; not every byte matters


def test_resume_with_other_settings_or_changed_labels_starts_anew(run, root, tmp_path, monkeypatch):
    run()
    calls = count_predictions(monkeypatch)
    run("--resume", "--crop_size", 32)
    assert len(calls) == 5
    write_image(root / "valannot" / "a.png", np.zeros((32, 48), np.uint8))
    run("--resume", "--crop_size", 32)
    assert len(calls) == 6


def test_resume_starts_anew_where_the_meaning_of_the_labels_has_changed(run, monkeypatch):
    run()
    calls = count_predictions(monkeypatch)
    monkeypatch.setitem(DATASETS, "camvid", replace(DATASETS["camvid"], ignored_ids=(11, 12)))
    assert run("--resume").code == 0
    assert len(calls) == 5


def test_a_split_without_labels_is_predicted_and_never_scored(run, root, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "camvid", replace(CAMVID, unlabelled=("test",)))
    (root / "val").rename(root / "test")
    ended = run("--split", "test")
    assert ended.code == 0
    folder = tmp_path / "out" / "camvid_test"
    assert sorted(p.stem for p in (folder / "pred").iterdir()) == list(NAMES)
    assert not list(folder.glob("metrics*"))
    assert not list(folder.glob("*.csv"))
    assert "not scored" in ended.out


def test_test_mode_evaluates_two_images_in_a_folder_of_its_own(run, tmp_path):
    run("--test_mode")
    assert metrics(tmp_path, "camvid_val_test_mode")["num_images"] == 2
    assert not (tmp_path / "out" / "camvid_val").exists()


def test_published_flags_are_accepted(run):
    flags = ("--mode", "fine", "--dataset_cls", "camvid", "--trunk", "resnet101", "--fixed_aspp_pool", "--dist_bn",
             "--profile", "--exp_name", "x", "-im", "pooling", "--test_mode")  # fmt: skip
    ended = run(*flags)
    assert ended.code == 0
    assert "s per image" in ended.err


def test_results_lie_beside_the_checkpoint_by_default(root, light_checkpoint, command):
    command("eval", "--snapshot", light_checkpoint, "--dataset_dir", root, *FAST, "--test_mode")
    assert (light_checkpoint.parent / "eval" / "camvid_val_light_test_mode" / "metrics.json").is_file()


def test_two_processes_write_what_one_writes(run, root, light_checkpoint, tmp_path):
    run("--dump_images")
    alone, together = tmp_path / "out" / "camvid_val", tmp_path / "two" / "camvid_val"
    arguments = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone",
        "eval.py", "--snapshot", light_checkpoint, "--dataset_dir", root, "--ckpt_path", tmp_path / "two", *FAST,
        "--dump_images",
    ]  # fmt: skip
    ended = subprocess.run(list(map(str, arguments)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("mean ") == 1, "one process prints"
    for table in ("per_class.csv", "per_image.csv"):
        assert (together / table).read_text() == (alone / table).read_text()
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, together))
    for key in ("speed", "settings"):
        del first[key], second[key]
    assert second == first
    files = [{p.relative_to(folder) for p in folder.rglob("*.*")} for folder in (alone, together)]
    assert files[0] == files[1]
    for picture in alone.rglob("*.png"):
        assert (together / picture.relative_to(alone)).read_bytes() == picture.read_bytes()
    assert second["num_images"] == 5


def test_an_image_that_cannot_be_read_ends_the_run_and_what_was_done_is_kept(run, root, tmp_path, monkeypatch):
    broken = root / "val" / "d.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:100])
    ended = run()
    assert ended.code == 1
    assert "d.png" in ended.err
    broken.write_bytes(content)
    calls = count_predictions(monkeypatch)
    assert run("--resume").code == 0
    assert len(calls) < 5


def test_a_result_that_cannot_be_written_ends_the_run(run, tmp_path):
    run("--dump_images")
    shutil.rmtree(tmp_path / "out" / "camvid_val" / "rgb")
    (tmp_path / "out" / "camvid_val" / "rgb").write_text("a file is in the way")
    ended = run("--dump_images")
    assert ended.code == 1
    assert "rgb" in ended.err


def test_how_much_of_the_time_the_network_worked_is_said(run, tmp_path):
    ended = run("--profile")
    assert "images/s; network busy" in ended.err
    speed = metrics(tmp_path)["speed"]
    assert 0 < speed["network_share"] <= 1
    assert set(speed["s_per_image"]) == {"read", "network", "score and write"}


# Agreement with the official scorer of Cityscapes


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """A small Cityscapes. The red channel of an image holds the train ids that are to be predicted."""
    spec, rng = dataset_spec("cityscapes"), np.random.default_rng(0)
    ids = [seg_class.label_ids[0] for seg_class in spec.classes]
    for city, number in (("frankfurt", 0), ("frankfurt", 1), ("lindau", 2), ("munster", 3)):
        truth = np.kron(rng.integers(0, 19, (8, 16), np.uint8), np.ones((8, 8), np.uint8))
        guess = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 19, truth.shape, np.uint8))
        written = np.array(ids, np.uint8)[truth]
        written[rng.random(truth.shape) < 0.1] = rng.choice(spec.ignored_ids)
        name = f"{city}/{city}_000000_00000{number}"
        image = np.stack([guess] * 3, axis=2)
        write_image(tmp_path / "cs" / "leftImg8bit" / "val" / f"{name}_leftImg8bit.png", image)
        write_image(tmp_path / "cs" / "gtFine" / "val" / f"{name}_gtFine_labelIds.png", written)
    return tmp_path / "cs"


@pytest.fixture
def cityscapes_checkpoint(tmp_path: Path) -> Path:
    spec = dataset_spec("cityscapes")
    net = build_network("DeepMNV3V3PlusD_m1", spec.num_classes)
    described = Checkpoint(
        state_dict=net.state_dict(), arch="DeepMNV3V3PlusD_m1", dataset="cityscapes", classes=spec.classes
    )
    save_checkpoint(tmp_path / "cs.pth", described)
    return tmp_path / "cs.pth"


def test_the_official_scorer_gives_the_same_scores(cityscapes, cityscapes_checkpoint, tmp_path, command, monkeypatch):
    official = pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", reason="needs cityscapesscripts"
    )
    monkeypatch.setattr(evaluation.Predictor, "predict", lambda _, image: torch.from_numpy(image[..., 0].copy()))
    ended = command("eval", "--snapshot", cityscapes_checkpoint, "--dataset_dir", cityscapes, "--dump_images",
                    "--ckpt_path", tmp_path / "out", *FAST)  # fmt: skip
    assert ended.code == 0

    truths = sorted(map(str, (cityscapes / "gtFine").rglob("*.png")))
    guesses = sorted(map(str, (tmp_path / "out" / "cityscapes_val" / "pred").rglob("*.png")))
    official.args.quiet, official.args.JSONOutput, official.args.evalInstLevelScore = True, False, False
    theirs = official.evaluateImgLists(guesses, truths, official.args)
    ours = metrics(tmp_path, "cityscapes_val")
    assert len(ours["classes"]) == 19
    for name, found in ours["classes"].items():
        assert found["iou"] == pytest.approx(theirs["classScores"][name], abs=1e-9)
    assert ours["mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)

    categories = [official.name2label[name].category for name in ours["classes"]]
    confusion = np.array(ours["confusion"])
    for category in set(categories):
        members = np.array([c == category for c in categories])
        hits, truth, guess = (confusion[rows][:, columns].sum() for rows, columns in (
            (members, members), (members, slice(None)), (slice(None), members)))  # fmt: skip
        assert hits / (truth + guess - hits) == pytest.approx(theirs["categoryScores"][category], abs=1e-9)


def test_confidence_is_in_tables_pictures_and_the_report(run, tmp_path):
    ended = run("--outputs", "confidence,compose")
    folder = tmp_path / "out" / "camvid_val"
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["compose", "confidence", "counts"]
    levels = np.concatenate([read_label_ids(folder / "confidence" / f"{name}.png").ravel() for name in NAMES])
    found = metrics(tmp_path)["confidence"]
    assert found["mean"] == pytest.approx(levels.mean() / 255)
    assert found["temperature"] == 1
    assert f"calibration error {found['calibration_error']:.1%}" in ended.out
    lines = list(csv.DictReader((folder / "per_image.csv").open()))
    assert np.mean([float(line["confidence"]) for line in lines]) == pytest.approx(found["mean"])
    assert (folder / "reliability.png").is_file()
    before = (folder / "per_image.csv").read_text()
    run("--outputs", "confidence,compose", "--resume")
    assert (folder / "per_image.csv").read_text() == before


def test_without_labels_confidence_is_a_table(run, root, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "camvid", replace(CAMVID, unlabelled=("test",)))
    shutil.copytree(root / "val", root / "test")
    run("--split", "test", "--outputs", "confidence")
    folder = tmp_path / "out" / "camvid_test"
    lines = list(csv.DictReader((folder / "per_image.csv").open()))
    assert [line["image"] for line in lines] == list(NAMES)
    assert all(0 < float(line["confidence_p5"]) <= float(line["confidence"]) <= 1 for line in lines)
    assert not (folder / "reliability.png").exists()


def test_a_temperature_is_stored_and_makes_random_guesses_less_sure(run, light_checkpoint, tmp_path):
    snapshot = shutil.copy(light_checkpoint, tmp_path / "light.pth")
    run("--outputs", "confidence", "--snapshot", snapshot)
    first, whole = metrics(tmp_path), load_checkpoint(snapshot)
    ended = run("--outputs", "confidence", "--snapshot", snapshot, "--calibrate")
    second, after = metrics(tmp_path), load_checkpoint(snapshot)
    assert f"temperature {after.temperature:.3g} stored" in ended.out
    assert after.temperature > 1, "the labels are noise"
    assert second["confusion"] == first["confusion"]
    assert second["confidence"]["calibration_error"] < first["confidence"]["calibration_error"]
    assert all((after.state_dict[key] == value).all() for key, value in whole.state_dict.items())
    run("--outputs", "confidence", "--snapshot", snapshot)
    assert metrics(tmp_path)["confidence"] == second["confidence"], "it is used from then on"


def test_a_temperature_needs_labels_and_a_file_that_can_hold_it(run, root, light_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "camvid", replace(CAMVID, unlabelled=("test",)))
    shutil.copytree(root / "val", root / "test")
    assert "needs labels" in run("--calibrate", "--split", "test").err
    bare = tmp_path / "bare.pth"
    torch.save(load_checkpoint(light_checkpoint).state_dict, bare)
    ended = run("--calibrate", "--snapshot", bare, "--arch", "DeepMNV3V3PlusD_m1", "--dataset", "camvid")
    assert "no checkpoint of this project" in ended.err
