"""Pixel_percentage.py: shares of the classes in colour masks, id maps and folders of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import Pixel_percentage
from datasets.specs.registry import DATASETS, dataset_spec
from inference.results import result_paths, write_results
from tests.trees import CAR, ROAD, folder_tree
from utils.images import colorize, write_image

CAMVID = dataset_spec("camvid")
CITYSCAPES = dataset_spec("cityscapes")
UNCLEAR = {"name": "unclear", "color": [90, 90, 90], "ignored": True}


def table_of(text: str) -> dict[str, tuple[int, float]]:
    """class -> (pixels, percent) of what was printed."""
    lines = [line.rsplit(maxsplit=2) for line in text.splitlines()[2:]]
    return {name: (int(pixels), float(percent)) for name, pixels, percent in lines}


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([[0, 0, 0], [3, 3, 8]], np.uint8)


def test_a_color_mask_is_counted(labels, tmp_path, command):
    write_image(tmp_path / "mask.png", colorize(labels, CAMVID.palette))
    ended = command("Pixel_percentage", tmp_path / "mask.png", "--dataset", "camvid")
    table = table_of(ended.out)
    assert ended.code == 0
    assert (table["Sky"], table["Road"], table["Car"]) == ((3, 50.0), (2, 33.33), (1, 16.67))
    assert table["Tree"] == (0, 0.0)
    assert table["sum"] == (6, 100.0)


def test_label_ids_and_train_ids_are_told_apart(tmp_path, command):
    write_image(tmp_path / "a.png", np.array([[7, 26], [7, 0]], np.uint8))  # road, car, road, unlabeled
    write_image(tmp_path / "a_labelTrainIds.png", np.array([[0, 13], [0, 255]], np.uint8))
    by_label = table_of(command("Pixel_percentage", tmp_path / "a.png").out)
    by_train = table_of(command("Pixel_percentage", tmp_path / "a_labelTrainIds.png").out)
    forced = table_of(command("Pixel_percentage", tmp_path / "a.png", "--ids", "train").out)
    assert by_label["road"] == by_train["road"] == (2, 50.0)
    assert by_label["car"] == by_train["car"] == (1, 25.0)
    assert by_label["no class: id 0"] == by_train["no class: id 255"] == (1, 25.0)
    assert forced["traffic sign"] == (2, 50.0)


def test_of_the_files_of_one_image_of_cityscapes_one_is_counted(tmp_path, command):
    ids, train_ids = np.array([[7, 7, 26]], np.uint8), np.array([[0, 0, 13]], np.uint8)
    kinds = {
        "labelIds": ids, "labelTrainIds": train_ids, "color": colorize(train_ids, CITYSCAPES.palette),
        "instanceIds": np.array([[7, 7, 26001]], np.uint16),
    }  # fmt: skip
    for kind, pixels in kinds.items():
        write_image(tmp_path / "gt" / "aachen" / f"a_gtFine_{kind}.png", pixels)
        if kind != "labelIds":
            write_image(tmp_path / "gt" / "aachen" / f"b_gtCoarse_{kind}.png", pixels)
    (tmp_path / "gt" / "folder.png").mkdir()
    ended = command("Pixel_percentage", tmp_path / "gt")
    table = table_of(ended.out)
    assert "2 files" in ended.out
    assert (table["road"], table["car"], table["sum"]) == ((4, 66.67), (2, 33.33), (6, 100.0))


def test_a_path_with_dollar_signs_can_be_plotted(labels, tmp_path, command):
    write_image(tmp_path / "co$t_$x.png", labels)
    ended = command("Pixel_percentage", tmp_path / "co$t_$x.png", "--plot", tmp_path / "plot.png")
    assert ended.code == 0
    assert (tmp_path / "plot.png").is_file()


def test_a_data_set_that_tells_its_classes_itself_is_found_where_the_environment_says(tmp_path, command, monkeypatch):
    write_image(tmp_path / "a.png", np.array([[0, 0, 0, 1]], np.uint8))
    monkeypatch.setenv("KERBLINE_FOLDER", str(tmp_path / "own"))
    assert "--dataset_dir" in command("Pixel_percentage", tmp_path / "a.png", "--dataset", "folder").err
    classes = [{"name": "lawn", "color": [0, 200, 0]}, {"name": "path", "color": [90, 90, 90]}]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "classes.json").write_text(json.dumps({"classes": classes}))
    assert table_of(command("Pixel_percentage", tmp_path / "a.png", "--dataset", "folder").out)["lawn"] == (3, 75.0)


def test_colors_of_no_class_are_listed_with_their_share(labels, tmp_path, command):
    mask = colorize(labels, CAMVID.palette)
    mask[0, 0] = (1, 2, 3)
    write_image(tmp_path / "mask.png", mask)
    ended = command("Pixel_percentage", tmp_path / "mask.png", "--dataset", "camvid")
    assert table_of(ended.out)["no class: colour (1, 2, 3)"] == (1, 16.67)
    assert "no class" in ended.err


def test_a_photo_ends_with_one_line_for_the_many_other_colors(tmp_path, command):
    write_image(tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8))
    table = table_of(command("Pixel_percentage", tmp_path / "photo.png").out)
    assert len(table) <= CITYSCAPES.num_classes + 12
    assert round(sum(percent for name, (_, percent) in table.items() if name != "sum"), 2) == 100.0


def test_the_legend_of_a_demo_mask_is_not_counted(labels, tmp_path, command):
    [paths] = result_paths(tmp_path, [Path("x.jpg")])
    write_results(paths, np.zeros((2, 3, 3), np.uint8), labels, CAMVID.classes, Path("x.jpg"))
    for counted in (paths["color"], paths["ids"], tmp_path):  # of the folder's three pictures one is counted
        table = table_of(command("Pixel_percentage", counted, "--dataset", "camvid").out)
        assert (table["Sky"], table["sum"]) == ((3, 50.0), (6, 100.0)), counted


def test_a_label_file_may_have_other_colors_than_a_mask(tmp_path, command):
    table = CAMVID.train_id_of_color()
    colors = [color for color, train_id in table.items() if train_id == CAMVID.class_names.index("Car")]
    assert len(colors) > 1  # cars, trucks, ...
    write_image(tmp_path / "labels.png", np.array([colors], np.uint8))
    counted = table_of(command("Pixel_percentage", tmp_path / "labels.png", "--dataset", "camvid").out)
    assert counted["Car"] == (len(colors), 100.0)


@pytest.mark.parametrize("form", ["rgb", "palette", "grey", "16 bits", "turned"])
def test_masks_of_colors_are_counted_as_verify_counts_them(form, tmp_path, command, verified):
    black_road, white_car = ROAD | {"color": [7, 7, 7]}, CAR | {"color": [255, 255, 255]}
    folder_tree(tmp_path, 5, black_road, white_car, UNCLEAR, masks="colors")
    for number in range(5):
        colors = np.array([[7] * 3, [255] * 3, [90] * 3], np.uint8)[np.arange(24).reshape(6, 4) % (2 + number % 2)]
        path = tmp_path / f"labels/{number:02d}.png"
        if form == "palette":
            Image.fromarray(colors).quantize(3).save(path)
        elif form == "turned":
            Image.fromarray(colors).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\3\0\0" + bytes(4))
        else:
            write_image(path, {"rgb": colors, "grey": colors[..., 0], "16 bits": colors.astype(np.uint16) * 257}[form])
    ended, found = verified(tmp_path)
    assert ended.code == 0, ended.out
    of_verify = [split["class_pixels"] for split in found["splits"].values()]
    counted = command(
        "Pixel_percentage", tmp_path / "labels", "--dataset", "folder", "--dataset_dir", tmp_path
    )
    for name in ("road", "car"):
        assert table_of(counted.out)[name][0] == sum(split[name] for split in of_verify)
    assert counted.err == ""


def test_predicted_ids_of_a_set_of_colors_are_counted_as_ids(tmp_path, command):
    write_image(tmp_path / "pred.png", np.array([[5, 5, 17]], np.uint8))
    assert table_of(command("Pixel_percentage", tmp_path / "pred.png", "--dataset", "camvid32").out)["Car"][0] == 2


def test_a_strange_grey_in_a_mask_of_colors_does_not_make_it_a_mask_of_ids(tmp_path, command):
    folder_tree(tmp_path, 5, ROAD | {"color": [255, 255, 255]}, CAR, masks="colors")
    write_image(tmp_path / "labels" / "00.png", np.array([[255, 255, 9]], np.uint8))
    counted = table_of(
        command("Pixel_percentage", tmp_path / "labels/00.png", "--dataset", "folder", "--dataset_dir", tmp_path).out
    )
    assert counted["road"][0] == 2
    assert counted["no class: colour (9, 9, 9)"][0] == 1


@pytest.mark.parametrize("name", ["cityscapes", "kitti", "camvid", "camvid32", "streets", "mapillary"])
def test_values_that_are_declared_as_no_class_are_counted_without_advice(name, tmp_path, command):
    spec = dataset_spec(name)
    if spec.ignored_ids:
        write_image(tmp_path / "ids.png", np.array([[*spec.ignored_ids, 255]], np.uint8))
    assert (0, 0, 0) in spec.ignored_colors
    write_image(tmp_path / "colors.png", np.array([spec.ignored_colors], np.uint8))
    ended = command("Pixel_percentage", tmp_path, "--dataset", name)
    assert ended.err == ""
    assert all(table_of(ended.out)[class_name] == (0, 0.0) for class_name in spec.class_names)
    write_image(tmp_path / "strange.png", np.array([[200]], np.uint8))
    assert "unknown values" in command("Pixel_percentage", tmp_path, "--dataset", name).err


def test_the_colors_that_cityscapes_ignores_are_those_of_its_authors():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    ignored = {label.color for label in labels if label.ignoreInEval} - set(CITYSCAPES.palette)
    assert set(CITYSCAPES.ignored_colors) == ignored


def test_linked_folders_and_files_are_counted_even_where_links_lead_back(labels, tmp_path, command):
    write_image(tmp_path / "real" / "b.png", labels)
    write_image(tmp_path / "masks" / "sub" / "a.png", labels)
    masks = tmp_path / "masks"
    (masks / "linked").symlink_to(tmp_path / "real")
    (masks / "c.png").symlink_to(tmp_path / "real" / "b.png")
    (masks / "sub" / "back").symlink_to(masks)
    (masks / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (masks / "itself.png").symlink_to(masks / "itself.png")
    assert "3 files" in command("Pixel_percentage", masks, "--dataset", "camvid").out


def test_a_jpeg_mask_is_refused_by_name(labels, tmp_path, command):
    Image.fromarray(colorize(labels, CAMVID.palette)).save(tmp_path / "a.png", "JPEG")
    ended = command("Pixel_percentage", tmp_path / "a.png", "--dataset", "camvid")
    assert ended.code == 1
    assert ended.err.startswith(f"error: {tmp_path / 'a.png'}: is a JPEG: values are not exact")


def test_a_folder_is_counted_as_a_whole(labels, tmp_path, command):
    write_image(tmp_path / "a.png", labels)
    write_image(tmp_path / "sub" / "b.png", colorize(labels, CAMVID.palette))
    (tmp_path / "notes.txt").write_text("left out")
    ended = command("Pixel_percentage", tmp_path, "--dataset", "camvid", "--json", tmp_path / "out" / "t.json")
    assert table_of(ended.out)["Sky"] == (6, 50.0)
    assert len(json.loads((tmp_path / "out" / "t.json").read_text())["files"]) == 2


def test_csv_json_and_plot_hold_the_same_table(labels, tmp_path, command):
    write_image(tmp_path / "a.png", labels)
    files = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "json", "png")}
    command("Pixel_percentage", tmp_path / "a.png", "--dataset", "camvid", "--csv", files["csv"],
            "--json", files["json"], "--plot", files["png"])
    lines = list(csv.DictReader(files["csv"].open()))
    content = json.loads(files["json"].read_text())
    assert sum(round(100 * float(line["percent"])) for line in lines) == 10_000
    assert [line["class"] for line in lines] == [row["name"] for row in content["classes"]] == list(CAMVID.class_names)
    assert int(lines[0]["pixels"]) == content["classes"][0]["pixels"] == 3
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_without_a_path_the_one_at_the_top_of_the_file_is_taken(labels, tmp_path, command, monkeypatch):
    write_image(tmp_path / "a.png", labels)
    monkeypatch.setattr(Pixel_percentage, "DEFAULT_PATH", str(tmp_path / "a.png"))
    assert str(tmp_path / "a.png") in command("Pixel_percentage", "--dataset", "camvid").out


@pytest.mark.parametrize("name", DATASETS)
def test_the_colors_of_a_data_set_tell_its_classes_apart(name):
    palette = DATASETS[name].palette
    assert len(set(palette)) == len(palette)
