"""demo.py and demo_folder.py, from the command line to the files they leave."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import demo_folder
from datasets.legend import plot_shares_over_time
from datasets.specs.registry import dataset_spec
from Pixel_percentage import find_masks
from tests.conftest import ROOT
from utils.images import colorize, read_image, read_label_ids, write_image

CAMVID = dataset_spec("camvid")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.jpg"
    rng = np.random.default_rng(0)
    write_image(path, rng.integers(0, 256, (40, 64, 3), np.uint8))
    return path


def test_demo_writes_mask_overlay_and_ids_and_prints_shares(photo, light_checkpoint, tmp_path, command):
    ended = command("demo", "--demo-image", photo, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code == 0
    out = tmp_path / "out"
    ids = read_label_ids(out / "photo_ids.png")
    assert ids.shape == (40, 64)
    assert ids.max() < 11
    assert (read_image(out / "photo_color.png")[:40, :64] == colorize(ids, CAMVID.palette)).all()
    assert read_image(out / "photo_overlay.png").shape == (40, 64, 3)
    percents = [float(line.split()[-1]) for line in ended.out.splitlines()[1:] if not line.startswith("wrote")]
    assert sum(percents) == pytest.approx(100)
    for kind in ("color", "overlay", "ids"):
        assert f"wrote {out / f'photo_{kind}.png'}" in ended.out


def test_demo_again_replaces_its_own_results_and_no_others(photo, light_checkpoint, tmp_path, command):
    twin = photo.with_suffix(".png")
    write_image(twin, read_image(photo))
    for source in (photo, photo, twin):
        command("demo", "--demo-image", source, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("*_ids.png")) == ["photo-2_ids.png", "photo_ids.png"]


def test_demo_beside_the_input_never_overwrites_it(photo, light_checkpoint, command):
    source = photo.with_name("x_color.png")
    write_image(source, read_image(photo))
    before = source.read_bytes()
    write_image(photo.with_name("x.png"), read_image(photo))
    for name in ("x_color.png", "x.png"):
        image = photo.with_name(name)
        ended = command("demo", "--demo-image", image, "--snapshot", light_checkpoint, "--save-dir", photo.parent)
        assert ended.code == 0
    assert source.read_bytes() == before


def test_demo_folder_mirrors_sub_folders_and_keeps_names_apart(photo, light_checkpoint, tmp_path, command):
    folder = photo.parent
    for name in ("photo.png", "sub/photo.jpg", "sub/deeper/b.bmp"):
        write_image(folder / name, read_image(photo))
    (folder / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    ended = command("demo_folder", "--demo-folder", folder, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 0
    results = sorted(p.relative_to(out).as_posix() for p in out.rglob("*_ids.png"))
    assert results == ["photo_jpg_ids.png", "photo_png_ids.png", "sub/deeper/b_ids.png", "sub/photo_ids.png"]
    assert len([p for p in out.rglob("*") if p.is_file()]) == 14, "three for each, the table and its picture"
    assert "4 of 4 images done" in ended.out


def test_demo_folder_goes_on_after_an_unreadable_picture_and_tells_in_the_end(
    photo, light_checkpoint, tmp_path, command
):
    (photo.parent / "a_broken.jpg").write_bytes(photo.read_bytes()[:400])
    (photo.parent / "text.png").write_text("no picture")
    out = tmp_path / "out"
    ended = command("demo_folder", "--demo-folder", photo.parent, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 1
    assert "1 of 3 images done" in ended.out
    left_out = [line for line in ended.err.splitlines() if line.startswith("skipped")]
    assert len(left_out) == 2
    assert "a_broken.jpg" in left_out[0]
    assert sorted(p.name for p in out.glob("*.png")) == ["photo_color.png", "photo_ids.png", "photo_overlay.png"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures in a folder and its sub-folder."""
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png", "c.jpg", "sub/d.png", "sub/e.png"):
        write_image(tmp_path / "photos" / name, rng.integers(0, 256, (32, 40, 3), np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def run_folder(photos, light_checkpoint, tmp_path, command):
    """Segment `photos`, or what is named instead, into tmp_path/out."""
    return lambda *flags, folder=photos: command(
        "demo_folder", "--demo-folder", folder, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", *flags
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["a", "b"]),
        ("**/*.png", ["a", "b", "sub/d", "sub/e"]),
        ("*/?.*", ["sub/d", "sub/e"]),
        ("[bc].*", ["b", "c"]),
        ("**", ["a", "b", "c", "sub/d", "sub/e"]),
        ("**/sub/**/[ad].*", ["sub/d"]),
    ],
)
def test_a_pattern_chooses_pictures_and_results_mirror_the_folder_before_it(
    photos, run_folder, tmp_path, pattern, found
):
    assert run_folder(folder=photos / pattern).code == 0
    out = tmp_path / "out"
    assert sorted(p.relative_to(out).as_posix().removesuffix("_ids.png") for p in out.rglob("*_ids.png")) == found


def test_a_quoted_home_folder_is_found(photos, run_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert "2 of 2 images done" in run_folder(folder="~/photos/*.png").out
    assert "5 of 5 images done" in run_folder(folder="~/photos").out


def test_linked_folders_are_gone_through_and_those_that_lead_back_are_not(photos, run_folder, tmp_path):
    write_image(tmp_path / "elsewhere" / "f.png", read_image(photos / "a.png"))
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    for name in ("here", "sub/up", "sub/back", "linked/round"):
        (photos / name).symlink_to(photos)
    for folder in (photos, photos / "**"):
        assert "6 of 6 images done" in run_folder(folder=folder).out
    assert (tmp_path / "out" / "linked" / "f_ids.png").is_file()


def test_the_shares_of_every_picture_are_a_table(photos, run_folder, tmp_path):
    (photos / "broken.png").write_text("no picture")
    assert run_folder().code == 1
    lines = list(csv.DictReader((tmp_path / "out" / "class_shares.csv").open()))
    assert [line.pop("image") for line in lines] == ["a.png", "b.png", "c.jpg", "sub/d.png", "sub/e.png"]
    ids = read_label_ids(tmp_path / "out" / "sub" / "e_ids.png")
    for train_id, name in enumerate(CAMVID.class_names):
        assert float(lines[4][name]) == pytest.approx(100 * (ids == train_id).mean(), abs=0.01)


def test_resume_segments_only_what_is_missing_or_was_made_otherwise(photos, run_folder, tmp_path, monkeypatch):
    run_folder()
    table = (tmp_path / "out" / "class_shares.csv").read_text()
    (tmp_path / "out" / "b_overlay.png").unlink()
    write_image(photos / "a.png", np.zeros((32, 40, 3), np.uint8))
    calls: list = []
    original = demo_folder.Predictor.predict
    monkeypatch.setattr(demo_folder.Predictor, "predict", lambda self, image: calls.append(1) or original(self, image))
    ended = run_folder("--resume")
    assert "5 of 5 images done" in ended.out
    assert len(calls) == 2
    assert (tmp_path / "out" / "class_shares.csv").read_text().splitlines()[2:] == table.splitlines()[2:]
    run_folder("--resume")
    assert len(calls) == 2
    run_folder("--resume", "--flip")
    assert len(calls) == 7, "other settings, other results"
    run_folder("--flip")
    assert len(calls) == 12, "without --resume everything is done anew"


def test_resume_knows_its_settings_however_they_are_spelt(run_folder, light_checkpoint, monkeypatch):
    run_folder("--scales", "1", "--classes", "Car,road")
    monkeypatch.setattr(demo_folder.Predictor, "predict", lambda *_: pytest.fail("all is done"))
    monkeypatch.chdir(light_checkpoint.parent)
    flags = ("--scales", "1.00", "--classes", "Road, car", "--dataset", "camvid", "--arch", "DeepMNV3V3PlusD_m1")
    for snapshot in (light_checkpoint.name, f"../{light_checkpoint.parent.name}/{light_checkpoint.name}"):
        ended = run_folder("--resume", *flags, "--snapshot", snapshot)
        assert "5 of 5 images done" in ended.out


def test_two_processes_share_a_folder_and_write_each_result_once(photos, run_folder, light_checkpoint, tmp_path):
    (photos / "broken.png").write_text("no picture")
    (photos / "sub" / "broken.png").write_text("no picture")
    alone = run_folder()
    arguments = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone",
        "demo_folder.py", "--demo-folder", photos, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "two",
        "--device", "cpu",
    ]  # fmt: skip
    ended = subprocess.run(list(map(str, arguments)), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stdout.count("5 of 7 images done") == 1
    left_out = [line for line in ended.stderr.splitlines() if line.startswith("skipped: ")]
    assert sorted(left_out) == sorted(line for line in alone.err.splitlines() if line.startswith("skipped: "))
    assert len(left_out) == 2
    files = [{p.relative_to(folder) for p in folder.rglob("*.*")} for folder in (tmp_path / "out", tmp_path / "two")]
    assert files[0] == files[1]
    for file in files[0]:
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_picture_too_large_for_the_memory_allowed_is_named(run_folder, photos):
    ended = run_folder("--flip", "--max_memory", "1e-6")
    assert ended.code == 1
    assert f"skipped: {photos / 'a.png'}: --max_memory" in ended.err


@pytest.mark.parametrize("too_much", [lambda: torch.empty(2**55), lambda: np.empty(2**55)])
def test_a_picture_for_which_memory_is_too_small_is_left_out_and_the_others_are_done(
    run_folder, photos, monkeypatch, too_much
):
    write_image(photos / "large.png", np.zeros((40, 50, 3), np.uint8))
    original = demo_folder.Predictor.predict

    def predict(self, image):
        return too_much() if image.shape[0] == 40 else original(self, image)

    monkeypatch.setattr(demo_folder.Predictor, "predict", predict)
    ended = run_folder()
    assert "5 of 6 images done" in ended.out
    assert f"skipped: {photos / 'large.png'}: too large for the device's memory" in ended.err


def results(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize(("outputs", "kinds"), [("ids", ["ids"]), (" Overlay,ids,ids", ["ids", "overlay"])])
def test_only_the_outputs_asked_for_are_made(
    photo, run_folder, light_checkpoint, tmp_path, command, outputs, kinds, monkeypatch
):
    if "overlay" not in kinds:
        for drawing in ("highlight", "overlay", "with_legend", "colorize"):
            monkeypatch.setattr(f"inference.results.{drawing}", lambda *_: pytest.fail("nothing is to be drawn"))
    assert run_folder("--outputs", outputs).code == 0
    names = ["a", "b", "c", "sub/d", "sub/e"]
    wanted = [f"{name}_{kind}.png" for name in names for kind in kinds]
    assert results(tmp_path / "out") == sorted([*wanted, "class_shares.csv", "class_shares.png"])
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "one", "--outputs", outputs)
    assert command("demo", "--demo-image", photo, *flags).code == 0
    assert results(tmp_path / "one") == [f"photo_{kind}.png" for kind in kinds]


def test_resume_goes_by_the_outputs_asked_for(run_folder, tmp_path, monkeypatch):
    run_folder("--outputs", "overlay")
    table = (tmp_path / "out" / "class_shares.csv").read_text()
    (tmp_path / "out" / "class_shares.csv").unlink()
    calls: list = []
    original = demo_folder.Predictor.predict
    monkeypatch.setattr(demo_folder.Predictor, "predict", lambda self, image: calls.append(1) or original(self, image))
    run_folder("--outputs", "overlay", "--resume")
    assert (len(calls), (tmp_path / "out" / "class_shares.csv").read_text()) == (0, table)
    run_folder("--resume")
    assert len(calls) == 5, "ids and colours are missing"
    run_folder("--outputs", "ids", "--resume")
    assert len(calls) == 5


def test_outputs_that_there_are_not_are_told_before_any_work(run_folder, photo, light_checkpoint, command):
    for wrong in ("ids,colour", " , "):
        told = f"error: --outputs {wrong!r} must list some of: color, overlay, ids, confidence."
        assert told in run_folder("--outputs", wrong).err
    flags = ("--snapshot", light_checkpoint, "--outputs")
    for source in (("--demo-image", photo), ("--demo-video", "x.mp4")):
        assert "--outputs 'id' must list" in command("demo", *source, *flags, "id").err
    refused = command("demo", "--demo-video", "x.mp4", *flags, "ids").err
    assert "--outputs works only with images" in refused and "demo_folder.py" in refused


def test_the_picture_of_the_shares_is_no_input(run_folder, photos, light_checkpoint, command):
    flags = ("--demo-folder", photos, "--snapshot", light_checkpoint, "--save-dir", photos)
    for _ in range(2):
        ended = command("demo_folder", *flags)
        assert "5 of 5 images done" in ended.out and "skipped" not in ended.out
    assert (photos / "class_shares.png").is_file()
    assert photos / "class_shares.png" not in find_masks(photos)


def test_shares_are_drawn_over_time_in_the_colours_of_the_classes(tmp_path):
    shares = [[100.0, 0, 0]] * 1000 + [[0.0, 50, 50]] * 1000
    classes, (first, second, third) = CAMVID.classes[1:4], CAMVID.palette[1:4]
    plot_shares_over_time(tmp_path / "all.png", shares, classes, range(2001))
    drawn = read_image(tmp_path / "all.png")
    height, width = drawn.shape[:2]
    color_at = lambda x, y: tuple(drawn[int(y * height), int(x * width)])  # noqa: E731
    assert color_at(0.2, 0.2) == color_at(0.2, 0.7) == first
    assert (color_at(0.7, 0.2), color_at(0.7, 0.7)) == (third, second)


def test_pictures_with_awkward_names_do_not_end_the_run(run_folder, photos, tmp_path):
    longest = "l" * (255 - len("_overlay.png"))
    for name in ("no text \udce9.png", f"{longest}.png", f"{longest}ll.jpg"):
        write_image(photos / name, read_image(photos / "a.png"))
    ended = run_folder()
    assert "7 of 8 images done" in ended.out
    assert [line for line in ended.err.splitlines() if line.startswith("skipped")] == [
        f"skipped: {tmp_path / 'out' / longest}ll_overlay.png: File name too long"
    ]
    assert (tmp_path / "out" / "no text \udce9_ids.png").is_file()
    assert (tmp_path / "out" / f"{longest}_overlay.png").is_file()
    assert "no text \\udce9.png" in (tmp_path / "out" / "class_shares.csv").read_text()


def test_highlighted_classes_alone_have_color_and_ids_stay_whole(photo, light_checkpoint, tmp_path, command):
    flags = ("--demo-image", photo, "--snapshot", light_checkpoint)
    command("demo", *flags, "--save-dir", tmp_path / "all")
    present = np.unique(read_label_ids(tmp_path / "all" / "photo_ids.png"))
    wanted = CAMVID.class_names[present[0]]
    ended = command("demo", *flags, "--save-dir", tmp_path / "some", "--classes", wanted.upper())
    assert ended.code == 0
    ids = read_label_ids(tmp_path / "some" / "photo_ids.png")
    assert (ids == read_label_ids(tmp_path / "all" / "photo_ids.png")).all()
    mask = read_image(tmp_path / "some" / "photo_color.png")[:40, :64]
    assert (mask[ids == present[0]] == CAMVID.palette[present[0]]).all()
    assert (mask[ids != present[0]] == 0).all()


def test_a_class_that_there_is_not_is_told_with_those_there_are(photo, light_checkpoint, command):
    ended = command("demo", "--demo-image", photo, "--snapshot", light_checkpoint, "--classes", "road,moon")
    assert ended.code == 1
    assert "no class 'moon'. Choose from: Sky, Building" in ended.err


@pytest.mark.parametrize("script", ["demo.py", "demo_folder.py", "eval.py", "Pixel_percentage.py"])
def test_help_does_not_import_torch(script):
    code = f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
    code += f"try: runpy.run_path('{script}', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules\n"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "--debug" in ended.stdout


def test_confidence_is_a_picture_and_two_columns(photos, run_folder, light_checkpoint, tmp_path, command):
    run_folder("--outputs", "ids,confidence")
    out = tmp_path / "out"
    confidence = cv2.imread(str(out / "a_confidence.png"), cv2.IMREAD_UNCHANGED)
    assert confidence.dtype == np.uint8
    assert confidence.shape == read_label_ids(out / "a_ids.png").shape
    table = (out / "class_shares.csv").read_text()
    line = next(csv.DictReader((out / "class_shares.csv").open()))
    assert float(line["confidence"]) == pytest.approx(confidence.mean() / 2.55, abs=0.01)
    assert float(line["confidence_p5"]) <= float(line["confidence"])
    run_folder("--outputs", "ids,confidence", "--resume")
    assert (out / "class_shares.csv").read_text() == table
    assert out / "a_confidence.png" not in find_masks(out)
    one = ("--demo-image", photos / "a.png", "--snapshot", light_checkpoint, "--save-dir", tmp_path / "one")
    assert "confidence" in command("demo", *one, "--outputs", "confidence").out
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["a_confidence.png"]
