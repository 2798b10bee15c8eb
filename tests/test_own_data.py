"""Data sets and pictures that people bring along: what is unusual about them is told, not passed over."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets.legend import class_shares, shares_table, with_legend
from datasets.specs.spec import SegClass, first_difference
from tests.conftest import Outcome
from tests.trees import CAR, ROAD, folder_tree, write_classes, write_pair
from utils import plots as fonts
from utils.images import IMAGE_SUFFIXES, dark_notice, exif_orientation, read_image, write_image
from utils.metrics import ConfusionMatrix, scores
from utils.text import display_width, padded

ROAD_COLOR, CAR_COLOR = (64, 32, 32), (0, 255, 102)


@pytest.fixture
def root(tmp_path) -> Path:
    """A clean folder data set: ten pairs of 4x6 pixels, half road, half car."""
    folder_tree(tmp_path / "data", 10)
    return tmp_path / "data"


@pytest.fixture
def verify(root, verified) -> Callable[..., tuple[Outcome, dict[str, Any]]]:
    """Verify the folder data set, see `verified`."""
    return partial(verified, root)


def messages(found: dict[str, Any]) -> list[str]:
    return [finding["message"] for finding in found["findings"]]


def write_paletted(path: Path, ids: np.ndarray, *colors: tuple[int, int, int]) -> None:
    mask = Image.fromarray(ids.astype(np.uint8))
    mask.putpalette([channel for color in colors for channel in color])
    mask.save(path)


def write_turned(path: Path, orientation: int, size: tuple[int, int] = (6, 4)) -> None:
    """A picture [H, W] as stored, with a note of how it is to be turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.random.default_rng(orientation).integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


# Palettes


def test_a_palette_of_the_class_colors_in_another_order_is_questioned(verify, root):
    for number in range(10):
        write_paletted(root / f"labels/{number:02d}.png", np.repeat([[0, 0, 1, 1]], 6, 0), CAR_COLOR, ROAD_COLOR)
    ended, found = verify()
    assert ended.code == 1
    assert len(messages(found)) == 10
    told = 'index 0 is the colour of `car`, classes.json says index 0 is `road`; is it "masks": "colors"?'
    assert told in messages(found)[0]
    assert ended.out.count(told) == 1, "once, not for every file"


def test_a_palette_in_the_order_of_the_ids_and_one_of_other_colors_are_well(verify, root):
    ids = np.repeat([[0, 0, 1, 1]], 6, 0)
    write_paletted(root / "labels/03.png", ids, ROAD_COLOR, CAR_COLOR)
    write_paletted(root / "labels/04.png", ids, (1, 2, 3), (4, 5, 6), ROAD_COLOR)
    write_paletted(root / "labels/06.png", ids, (0, 0, 0), ROAD_COLOR)  # one match alone proves nothing
    assert verify()[0].code == 0


@pytest.mark.parametrize("masks", ["ids", "colors"])
def test_who_says_what_the_masks_are_is_not_asked_about_palettes(verify, root, masks):
    write_classes(root, ROAD, CAR, masks=masks)
    for number in range(10):
        write_paletted(root / f"labels/{number:02d}.png", np.repeat([[0, 0, 1, 1]], 6, 0), CAR_COLOR, ROAD_COLOR)
    assert verify()[0].code == 0


def test_the_sheet_of_crops_tells_of_the_palette_too(root, tmp_path, command):
    for number in range(10):
        write_paletted(root / f"labels/{number:02d}.png", np.repeat([[0, 0, 1, 1]], 6, 0), CAR_COLOR, ROAD_COLOR)
    flags = ("--dataset", "folder", "--dataset_dir", root, "--num", 1, "--out", tmp_path / "sheet.png")
    ended = command("datasets.show", *flags)
    assert ended.code == 0
    assert "the palette says index 0 is the colour of `car`" in ended.err


# Masks in a form that is nearly right


def test_ids_in_three_equal_channels_get_one_hint(verify, root):
    three_channels = np.repeat([[[v] * 3 for v in (0, 0, 1, 1)]], 6, 0).astype(np.uint8)
    for number in range(10):
        write_image(root / f"labels/{number:02d}.png", three_channels)
    ended, found = verify()
    assert ended.code == 1
    assert {finding["kind"] for finding in found["findings"]} == {"three channels"}
    told = "these are ids in three equal channels: save one channel"
    assert told in messages(found)[0]
    assert ended.out.count(told) == 1


def test_grey_colors_that_are_no_ids_are_named_as_before(verify, root):
    write_image(root / "labels/03.png", np.repeat([[[v] * 3 for v in (7, 8, 9, 1)]], 6, 0).astype(np.uint8))
    assert {finding["kind"] for finding in verify()[1]["findings"]} == {"label value"}


def test_masks_of_0_and_255_get_a_hint_that_255_is_no_class(verify, root):
    for number in range(10):
        write_image(root / f"labels/{number:02d}.png", np.repeat([[0, 0, 255, 255]], 6, 0).astype(np.uint8))
    hint = 'label files hold 255, and no pixel is car: 255 means no class; if it is car, write "ids": [255]'
    ended, found = verify()
    assert ended.code == 0
    assert hint in found["notes"]
    write_classes(root, ROAD, CAR, {"name": "unclear", "color": [0, 0, 0], "ids": [255], "ignored": True})
    assert hint not in verify()[1]["notes"], "it was said"
    write_classes(root, ROAD, CAR | {"ids": [255]})
    assert verify()[1]["notes"] == []


def test_255_is_taken_for_the_border_in_a_set_of_more_than_two_classes(verify, root):
    write_classes(root, ROAD, CAR, {"name": "tree", "color": [0, 99, 0]})
    write_image(root / "labels/03.png", np.repeat([[0, 0, 255, 255]], 6, 0).astype(np.uint8))
    assert [note for note in verify()[1]["notes"] if "255" in note] == []


def test_255_beside_all_classes_gets_no_hint(verify, root):
    write_image(root / "labels/03.png", np.repeat([[0, 0, 255, 255]], 6, 0).astype(np.uint8))
    assert verify()[1]["notes"] == []


def test_a_mask_of_another_ending_or_in_other_capitals_is_named(verify, root):
    (root / "labels/03.png").rename(root / "labels/03.jpg")
    (root / "images/04.jpg").rename(root / "images/A4.JPG")
    (root / "labels/04.png").rename(root / "labels/a4.png")
    images, labels = root / "images", root / "labels"
    assert set(messages(verify()[1])) == {
        f"{images}/03.jpg has no label file: looked for {labels}/03.png; there is {labels}/03.jpg: labels must be PNG",
        f"{images}/A4.JPG has no label file: looked for {labels}/A4.png; there is {labels}/a4.png: "
        "names must be the same, capitals too",
        f"{labels}/a4.png has no image in {images}; there is {images}/A4.JPG: "
        "names must be the same, capitals too",
    }


def test_a_photo_that_no_reader_takes_is_named_beside_its_mask(verify, root):
    (root / "images/03.jpg").rename(root / "images/03.heic")
    (message,) = messages(verify()[1])
    images = root / "images"
    assert message == (
        f"{root}/labels/03.png has no image in {images}; there is {images}/03.heic: "
        "images must be JPG, JPEG, PNG, BMP, TIF, TIFF or WEBP"
    )


# Photos that are turned


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_orientation_is_known_by_which_a_picture_is_turned(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    write_turned(path, orientation)
    assert exif_orientation(path) == orientation
    assert read_image(path).shape == ((4, 6, 3) if orientation == 6 else (6, 4, 3))


def test_a_picture_without_exif_is_upright(tmp_path):
    for suffix in ("jpg", "png", "bmp", "ppm"):
        write_image(tmp_path / f"x.{suffix}", np.zeros((4, 6, 3), np.uint8))
        assert exif_orientation(tmp_path / f"x.{suffix}") == 1
    (tmp_path / "none.jpg").write_bytes(b"no picture")
    assert exif_orientation(tmp_path / "none.jpg") == 1


def test_labelled_images_that_exif_turns_are_noted(verify, root):
    write_turned(root / "images/03.jpg", 3)
    ended, found = verify()
    assert ended.code == 0
    (note,) = found["notes"]
    assert note.startswith(f"images with labels and an EXIF rotation: 1, the first {root / 'images/03.jpg'}; ")
    assert note.endswith("must show the upright picture")


def test_a_size_that_differs_by_exif_says_so(verify, root):
    write_turned(root / "images/03.jpg", 6)
    (message,) = messages(verify()[1])
    assert "03.png is 4x6" in message
    assert "is turned upright by its EXIF rotation, the mask is not" in message


# Messages


def test_the_first_difference_between_classes_is_named():
    assert first_difference(("road", "car"), ("Road", "car")) == "class 1 was 'road', is 'Road'"
    assert first_difference(("road",), ("road", "car")) == "class 2, 'car', is new"
    assert first_difference(("road", "car"), ("road",)) == "class 2, 'car', is gone"


def test_a_single_number_as_ids_is_told_to_be_a_list(root, command):
    write_classes(root, ROAD | {"ids": 0}, CAR)
    ended = command("datasets.verify", "--dataset", "folder", "--dataset_dir", root)
    assert '(road): "ids" is a list: write "ids": [0].' in ended.err


def test_a_line_of_a_list_is_quoted_as_it_stands_there(verify, root):
    (root / "train.txt").write_text("00.jpg 00.png\n01\n")
    (root / "val.txt").write_text("# held out\nlabels/03.png\n")
    told = messages(verify()[1])
    images = root / "images"
    assert told == [
        f"train: {root}/train.txt, line 1: no image 00.jpg 00.png in {images}; a list has one name per line.",
        f"val: {root}/val.txt, line 2: no image labels/03.png in {images}.",
    ]


def test_a_set_of_one_image_is_well_though_its_training_split_is_empty(tmp_path, command):
    folder_tree(tmp_path / "one", 1)
    flags = ("--dataset", "folder", "--dataset_dir", tmp_path / "one", "--num_workers", 1)
    ended = command("datasets.verify", *flags)
    assert ended.code == 0, ended.out
    assert "note: train is empty: there is one image in all; train with --train_split trainval" in ended.out
    assert command("datasets.verify", *flags, "--split", "train").code == 1, "it is asked for"
    assert command("datasets.verify", *flags, "--cv", 7).code == 1


# Demos


def test_every_format_that_is_looked_for_can_be_read(tmp_path):
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    names = {".jpe": "JPEG", ".jfif": "JPEG", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM"}
    for suffix in IMAGE_SUFFIXES:
        path = tmp_path / f"x{suffix}"
        try:
            picture.convert("1" if suffix == ".pbm" else "RGB").save(path, names.get(suffix))
        except (OSError, KeyError):
            continue  # this Pillow cannot write it
        assert read_image(path).shape == (8, 8, 3), suffix


def test_demo_folder_says_which_files_it_leaves_out(light_checkpoint, tmp_path, command):
    folder = tmp_path / "in"
    write_pair(folder / "a.jpg", None, size=(40, 64))
    Image.fromarray(np.full((40, 64, 3), 99, np.uint8)).save(folder / "b.gif")
    for name in ("c.heic", "d.HEIC", "notes", ".hidden.raw"):
        (folder / name).write_bytes(b"x")
    flags = ("--demo-folder", folder, "--snapshot", light_checkpoint, "--save-dir", folder)
    for _ in range(2):  # results of the first time, which lie there too, are not left out but none of its pictures
        ended = command("demo_folder", *flags)
        assert ended.code == 0
        assert "2 of 2 images done" in ended.out
        assert ended.out.splitlines()[-1] == "skipped 3 files that are not named like images: .heic, no extension"


def test_tiles_too_small_to_show_anything_are_refused(light_checkpoint, tmp_path, command):
    write_pair(tmp_path / "a.png", None, size=(40, 64))
    flags = ("--snapshot", light_checkpoint, "--save-dir", tmp_path / "out", "--tile", 10)
    ended = command("demo", "--demo-image", tmp_path / "a.png", *flags)
    assert ended.code == 1
    assert "--tile 10: in fewer than 32 pixels" in ended.err


def test_12_bits_in_a_file_of_16_are_told_to_be_nearly_black(tmp_path):
    values = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (40, 1))
    write_image(tmp_path / "12.png", values)
    write_image(tmp_path / "16.png", values * 16)
    assert "nearly black" in (dark_notice(tmp_path / "12.png", read_image(tmp_path / "12.png")) or "")
    assert dark_notice(tmp_path / "16.png", read_image(tmp_path / "16.png")) is None


# Names in any script


def test_wide_letters_take_two_places():
    assert display_width("road") == 4
    assert display_width("道路") == 4
    assert display_width("a\u0301") == 1
    assert padded("道路", 6) == "道路  "


def test_tables_of_wide_names_have_straight_columns(verify, root):
    classes = [SegClass("道路", ROAD_COLOR), SegClass("car", CAR_COLOR)]
    matrix = ConfusionMatrix(2, 255).matrix + 1
    tables = [shares_table(class_shares(np.array([[0, 1]], np.uint8), classes)),
              "\n".join(scores(matrix, [c.name for c in classes]).table().splitlines()[:3])]  # fmt: skip
    write_classes(root, ROAD | {"name": "不可行驶的地方和天空"}, CAR)  # wider than all other words of the table
    out = verify()[0].out.splitlines()
    start = next(i for i, line in enumerate(out) if line.startswith("percent"))
    tables.append("\n".join(out[start : start + 4]))
    for table in tables:
        assert len({display_width(line) for line in table.splitlines()}) == 1, table


@pytest.fixture
def installed(monkeypatch) -> Callable[..., None]:
    """Make it as if these fonts alone were installed, beside the one that comes with Matplotlib."""

    def install(*paths: Path) -> None:
        fonts.font_file.cache_clear()
        fonts._noticed.clear()
        monkeypatch.setattr(fonts, "_installed", lambda: paths)

    yield install
    fonts.font_file.cache_clear()


def test_latin_names_are_drawn_in_the_font_that_is_everywhere(installed):
    installed()
    for text in ("road", "Straße", "Дорога"):
        assert fonts.text_font(12, text).getname()[0] == "DejaVu Sans"


def test_names_are_drawn_in_an_installed_font_that_has_their_characters(installed):
    other = fonts._default_file().with_name("STIXGeneral.ttf")
    character = chr(min(c for c in fonts._characters(other) - fonts._characters(fonts._default_file()) if c > 0x300))
    installed(other)
    assert fonts.text_font(12, character).getname()[0] == "STIXGeneral"
    assert fonts.drawable(character, "train id 0") == character


def test_fonts_that_cannot_be_read_are_passed_over(installed, tmp_path):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    installed(tmp_path / "broken.ttf", tmp_path / "missing.ttf")
    assert fonts.font_file("道路") is None


def test_names_that_no_font_has_are_drawn_as_train_ids_with_one_notice(installed, capsys):
    installed()
    labels = np.array([[0, 1], [0, 1]], np.uint8).repeat(200, 0).repeat(200, 1)
    black = np.zeros((*labels.shape, 3), np.uint8)

    def legend(*names: str) -> np.ndarray:
        colors = (ROAD_COLOR, CAR_COLOR)
        return with_legend(black, class_shares(labels, [SegClass(n, c) for n, c in zip(names, colors, strict=True)]))

    drawn = legend("道路", "车")
    assert (drawn == legend("train id 0", "train id 1")).all()
    notice = capsys.readouterr().err
    assert notice.count("\n") == 1
    assert "fonts-noto-cjk" in notice


def test_plots_with_names_that_no_font_has_warn_of_no_glyphs(verify, root, tmp_path, command, installed):
    installed()
    write_classes(root, ROAD | {"name": "道路"}, CAR, title="街")
    flags = ("--dataset", "folder", "--dataset_dir", root, "--plot", tmp_path / "shares.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = verify("--plot", tmp_path / "plot.png")[0]
        assert ended.code == 0
        counted = command("Pixel_percentage", root / "labels", *flags)
        assert counted.code == 0, counted.err
    assert "fonts-noto-cjk" in ended.err
    assert (tmp_path / "shares.png").is_file()
