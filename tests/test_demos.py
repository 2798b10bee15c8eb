"""demo.py and demo_folder.py, from the command line to the files they leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.registry import dataset_spec
from tests.conftest import ROOT
from utils.images import read_image, read_label_ids, write_image
from utils.pictures import colorize

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


def test_tiles_scales_and_flip_are_accepted(photo, light_checkpoint, tmp_path, command):
    flags = ("--tile", 32, "--scales", "0.5,1.0", "--flip")
    ended = command("demo", "--demo-image", photo, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "o", *flags)
    assert ended.code == 0


def test_a_real_photo_is_segmented(shared, light_checkpoint, tmp_path, command):
    image = shared / "samples" / "street_photos" / "nyc.jpg"
    if not image.is_file():
        pytest.skip("samples/street_photos is not there")
    small = tmp_path / "nyc.jpg"
    write_image(small, np.ascontiguousarray(read_image(image)[::6, ::6]))
    ended = command("demo", "--demo-image", small, "--snapshot", light_checkpoint, "--save-dir", tmp_path / "out")
    assert ended.code == 0
    assert read_label_ids(tmp_path / "out" / "nyc_ids.png").shape == (180, 320)


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
    assert len([p for p in out.rglob("*") if p.is_file()]) == 12
    assert "4 of 4 pictures done" in ended.out


def test_demo_folder_goes_on_after_an_unreadable_picture_and_tells_in_the_end(
    photo, light_checkpoint, tmp_path, command
):
    (photo.parent / "a_broken.jpg").write_bytes(photo.read_bytes()[:400])
    (photo.parent / "text.png").write_text("no picture")
    out = tmp_path / "out"
    ended = command("demo_folder", "--demo-folder", photo.parent, "--snapshot", light_checkpoint, "--save-dir", out)
    assert ended.code == 1
    assert "1 of 3 pictures done" in ended.out
    left_out = [line for line in ended.err.splitlines() if line.startswith("left out")]
    assert len(left_out) == 2
    assert "a_broken.jpg" in left_out[0]
    assert sorted(p.name for p in out.iterdir()) == ["photo_color.png", "photo_ids.png", "photo_overlay.png"]


def test_demo_folder_writing_into_itself_does_not_segment_its_results(photo, light_checkpoint, command):
    folder = photo.parent
    for _ in range(2):
        ended = command("demo_folder", "--demo-folder", folder, "--snapshot", light_checkpoint, "--save-dir", folder)
        assert "1 of 1 pictures done" in ended.out
    assert len(list(folder.iterdir())) == 4


@pytest.mark.parametrize("script", ["demo.py", "demo_folder.py", "eval.py", "Pixel_percentage.py"])
def test_help_does_not_import_torch(script):
    code = f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
    code += f"try: runpy.run_path('{script}', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules\n"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "--debug" in ended.stdout
