"""Prediction of whole images: tiles, scales, mirror images; and the pictures made of them."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from datasets.legend import counted_shares, percentages, pixels_per_class, with_legend
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import SegClass
from inference.load import load_model
from inference.predictor import Predictor
from inference.results import (
    ResultPaths,
    label_id_map,
    overlay,
    result_paths,
    write_results,
)
from inference.sliding_window import count_covers, find_spans, tile_starts
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.device import resolve_device
from utils.images import read_image, read_label_ids

CAMVID = dataset_spec("camvid").classes
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "device": "cpu"}


def pixel_net(num_classes: int = 3) -> nn.Module:
    """A network that looks at one pixel at a time."""
    torch.manual_seed(0)
    return nn.Conv2d(3, num_classes, 1)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# Tiling


def test_tiles_of_4_over_10_pixels_are_spread_evenly():
    assert tile_starts(10, 4, overlap=0.5) == (0, 2, 4, 6)
    assert tile_starts(10, 4, overlap=0) == (0, 3, 6)
    assert tile_starts(9, 4, overlap=0) == (0, 2, 5)


@settings(deadline=None)
@given(length=st.integers(1, 200), tile=st.integers(1, 60), overlap=st.floats(0, 0.9))
def test_tiles_reach_both_ends_and_overlap_as_asked(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - tile)
    steps = np.diff(starts)
    assert (steps <= max(1, tile * (1 - overlap))).all()
    assert len(set(steps.tolist())) <= 2, "evenly spread: steps differ by no more than a pixel"


@settings(deadline=None)
@given(
    scaled=st.integers(1, 60), out=st.integers(1, 60), tile=st.integers(1, 30), overlap=st.sampled_from([0, 1 / 3, 0.6])
)
def test_every_pixel_of_the_image_is_in_some_tile(scaled, out, tile, overlap):
    assert count_covers(find_spans(scaled, out, tile, overlap), out).min() >= 1


@pytest.mark.parametrize(("tile", "scale"), [(1, 1.5), (1, 4.0), (2, 4.0), (3, 7.0)])
def test_tiles_smaller_than_an_enlarged_pixel_of_the_image_add_up_to_the_whole(tile, scale):
    net, image = pixel_net(), picture(3, 4)
    whole, tiled = (Predictor(net, 3, scales=(scale,), tile=t, **PLAIN) for t in (None, tile))
    torch.testing.assert_close(tiled.probabilities(image), whole.probabilities(image), rtol=0, atol=1e-6)
    assert (tiled.predict(image) == tiled.probabilities(image).argmax(0)).all()


# Predictor


def test_tiled_equals_whole_for_every_height_and_width_from_one_pixel_to_three_tiles():
    net, tile = pixel_net(), 5
    whole, tiled = Predictor(net, 3, **PLAIN), Predictor(net, 3, tile=tile, batch_size=16, **PLAIN)
    for height, width in product(range(1, 3 * tile + 1), repeat=2):
        image = picture(height, width)
        torch.testing.assert_close(tiled.probabilities(image), whole.probabilities(image), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 36),
    width=st.integers(1, 36),
    overlap=st.sampled_from([0.0, 1 / 3, 0.7]),
    scales=st.sampled_from([(1.0,), (0.5, 1.0, 2.0), (0.77, 1.3)]),
    batch_size=st.integers(1, 4),
)
def test_tiled_equals_whole_for_a_network_that_works_pixel_by_pixel(height, width, overlap, scales, batch_size):
    net = pixel_net()
    whole = Predictor(net, 3, scales=scales, **PLAIN)
    tiled = Predictor(net, 3, scales=scales, tile=12, overlap=overlap, batch_size=batch_size, flip=True, **PLAIN)
    image = picture(height, width)
    torch.testing.assert_close(tiled.probabilities(image), whole.probabilities(image), rtol=0, atol=1e-6)


def test_probabilities_sum_to_one_at_any_scale():
    image = picture(20, 31)
    probabilities = Predictor(pixel_net(), 3, scales=(0.4, 1.0, 1.7), flip=True, tile=9, **PLAIN).probabilities(image)
    assert probabilities.shape == (3, 20, 31)
    assert probabilities.dtype == torch.float32
    torch.testing.assert_close(probabilities.sum(0), torch.ones(20, 31))


def test_probabilities_are_the_softmax_of_the_logits():
    net, image = pixel_net(), picture(40, 50)
    expected = net(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255).softmax(1)[0]
    torch.testing.assert_close(Predictor(net, 3, **PLAIN).probabilities(image), expected.detach())


class LeftEdgeNet(nn.Module):
    """Class 1 in the left half of whatever it is shown, class 0 in the right."""

    def forward(self, images: Tensor) -> Tensor:
        left = torch.zeros_like(images[:, :1])
        left[..., : images.shape[3] // 2] = 10.0
        return torch.cat([-left, left], dim=1)


def test_flip_averages_with_the_mirrored_image():
    image = picture(40, 40)
    single = Predictor(LeftEdgeNet(), 2, **PLAIN).probabilities(image)
    mirrored = Predictor(LeftEdgeNet(), 2, flip=True, **PLAIN).probabilities(image)
    torch.testing.assert_close(mirrored, (single + single.flip(2)) / 2)


class BrightnessNet(nn.Module):
    """Class 1 where the image is brighter than half."""

    def forward(self, images: Tensor) -> Tensor:
        bright = 50 * (images.mean(1, keepdim=True) - 0.5)
        return torch.cat([-bright, bright], dim=1)


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5, 3.0])
def test_things_stay_where_they_are_at_every_scale(scale):
    image = np.zeros((48, 64, 3), np.uint8)
    image[12:36, 16:40] = 255
    labels = Predictor(BrightnessNet(), 2, scales=(scale,), tile=20, **PLAIN).predict(image).numpy()
    assert labels.dtype == np.uint8
    rows, columns = np.nonzero(labels)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (12, 36, 16, 40)


def test_a_small_image_is_padded_with_the_mean_colour_and_cut_back():
    seen = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images[:, :2]

    predictor = Predictor(Spy(), 2, device="cpu", mean=(0.2, 0.2, 0.2), std=(0.1, 0.1, 0.1))
    assert predictor.probabilities(picture(3, 5)).shape == (2, 3, 5)
    assert seen[0].shape[2] >= 32
    assert (seen[0][:, :, 3:] == 0).all(), "the mean colour is 0 once it is normalised"


@pytest.mark.parametrize(
    "wrong", [{"scales": ()}, {"scales": (0.0,)}, {"tile": 0}, {"overlap": 1.0}, {"batch_size": 0}]
)
def test_senseless_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=r"positive|overlap"):
        Predictor(pixel_net(), 3, **PLAIN, **wrong)


def test_a_real_network_predicts_a_single_pixel(light_checkpoint: Path):
    model = load_model(light_checkpoint)
    predictor = Predictor(model.net, 11, device="cpu", mean=model.checkpoint.mean, std=model.checkpoint.std)
    assert predictor.probabilities(picture(1, 1)).shape == (11, 1, 1)


def test_autocast_changes_probabilities_only_a_little():
    image = picture(40, 50)
    exact = Predictor(pixel_net(), 3, **PLAIN).probabilities(image)
    rough = Predictor(pixel_net(), 3, amp=torch.bfloat16, **PLAIN).probabilities(image)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)


def test_an_unknown_an_absent_and_a_shared_device_are_told(monkeypatch):
    with pytest.raises(ValueError, match="--device 'gpu' is unknown"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="--device 'cuda:97': no CUDA device 97"):
        resolve_device("cuda:97")
    with monkeypatch.context() as torchrun, pytest.raises(ValueError, match="Use --device cuda"):
        torchrun.setenv("LOCAL_WORLD_SIZE", "2")
        resolve_device("cuda:0")
    assert resolve_device("cpu").type == "cpu"


# Building from a checkpoint


def test_the_checkpoint_says_what_it_is(light_checkpoint: Path):
    model = load_model(light_checkpoint)
    assert (model.arch, model.checkpoint.dataset, len(model.classes)) == ("DeepMNV3V3PlusD_m1", "camvid", 11)


def test_flags_that_contradict_the_checkpoint_are_an_error(light_checkpoint: Path):
    with pytest.raises(ValueError, match=r"--arch DeepWV3Plus contradicts"):
        load_model(light_checkpoint, arch="DeepWV3Plus")
    with pytest.raises(ValueError, match=r"--dataset cityscapes contradicts"):
        load_model(light_checkpoint, dataset="cityscapes")


def test_flags_may_agree_and_a_set_with_the_same_classes_may_stand_in(light_checkpoint: Path):
    model = load_model(light_checkpoint, arch="network.deepv3.DeepMNV3V3PlusD_m1", dataset="streets")
    assert model.classes == dataset_spec("streets").classes


def test_a_checkpoint_without_description_is_taken_for_cityscapes_with_a_notice(light_checkpoint, tmp_path, capsys):
    described = load_checkpoint(light_checkpoint)
    save_checkpoint(tmp_path / "plain.pth", Checkpoint(state_dict=described.state_dict))
    torch.save({"state_dict": {f"module.{k}": v for k, v in described.state_dict.items()}}, tmp_path / "plain.pth")
    published = partial(load_model, tmp_path / "plain.pth", arch="DeepMNV3V3PlusD_m1")
    with pytest.raises(ValueError, match="another number of classes"):  # 19 of Cityscapes, the file has 11
        published()
    assert "assuming cityscapes" in capsys.readouterr().err
    assert len(published(dataset="camvid").classes) == 11


# Pictures


def test_percentages_sum_to_one_hundred():
    assert percentages([1, 1, 1]) == [33.34, 33.33, 33.33]
    assert percentages([0, 0]) == [0.0, 0.0]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=70))
def test_percentages_sum_to_one_hundred_for_any_counts(counts):
    hundredths = [round(100 * value) for value in percentages(counts)]
    assert sum(hundredths) == (10_000 if sum(counts) else 0)
    for count, value in zip(counts, hundredths, strict=True):
        assert abs(value - 10_000 * count / max(1, sum(counts))) < 1


def test_the_legend_lists_the_classes_that_occur_the_largest_first():
    labels = np.array([[3, 3, 3], [0, 255, 255]], np.uint8)
    shares = counted_shares(pixels_per_class(labels, len(CAMVID)), CAMVID)
    assert [(s.name, s.percent) for s in shares] == [("Road", 75.0), ("Sky", 25.0)]


@pytest.mark.parametrize("size", [(1, 1), (60, 400), (400, 100), (240, 320)])
def test_the_legend_covers_nothing_and_shows_every_color(size):
    labels = np.resize(np.arange(11, dtype=np.uint8), size)
    mask = picture(*size)
    sheet = with_legend(mask, counted_shares(pixels_per_class(labels, len(CAMVID)), CAMVID))
    height, width = size
    assert (sheet[:height, :width] == mask).all()
    outside = np.concatenate([sheet[height:].reshape(-1, 3), sheet[:height, width:].reshape(-1, 3)])
    shown = {tuple(color) for color in outside.tolist()}
    for share in counted_shares(pixels_per_class(labels, len(CAMVID)), CAMVID):
        assert share.color in shown
    # Nothing is cut off: a rim of the sheet is blank.
    assert (sheet[max(0, height - 2) :, -4:][2:] == 255).all()
    assert (sheet[-4:, width:] == 255).all()


def test_ids_are_written_as_label_files_want_them():
    cityscapes = dataset_spec("cityscapes")
    labels = np.array([[0, 13, 18, 255]], np.uint8)
    assert label_id_map(labels, cityscapes.classes).tolist() == [[7, 26, 33, 255]]
    assert label_id_map(labels[:, :1], (SegClass("a", (1, 2, 3)),)).tolist() == [[0]]


def test_the_overlay_has_the_size_of_the_photo_and_tints_it():
    image = np.full((10, 12, 3), 100, np.uint8)
    labels = np.full((10, 12), 1, np.uint8)
    tinted = overlay(image, labels, CAMVID)
    assert tinted.shape == image.shape
    assert tinted[5, 5].tolist() == [114, 50, 50]  # half of (100, 100, 100), half of Building's (128, 0, 0)


def test_results_of_one_input_are_png_files_whatever_its_format(tmp_path: Path):
    image, labels = picture(30, 40), np.zeros((30, 40), np.uint8)
    [paths] = result_paths(tmp_path, [Path("photo.jpg")])
    assert write_results(paths, image, labels, CAMVID, Path("photo.jpg")).pixels == [1200, *[0] * 10]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo_color.png", "photo_ids.png", "photo_overlay.png"]
    assert (read_label_ids(paths["ids"]) == 0).all()
    assert (read_image(paths["color"])[:30, :40] == CAMVID[0].color).all()
    assert read_image(paths["overlay"]).shape == image.shape


def test_only_results_of_the_same_input_are_replaced(tmp_path: Path):
    image, labels = picture(4, 4), np.zeros((4, 4), np.uint8)

    def paths_of(source: str) -> ResultPaths:
        return result_paths(tmp_path, [Path(source)])[0]

    first = paths_of("a.jpg")
    write_results(first, image, labels, CAMVID, Path("a.jpg"))
    assert paths_of("a.jpg") == first
    assert paths_of("a.png")["color"].name == "a-2_color.png"
    Image.fromarray(image).save(tmp_path / "b_overlay.png")  # a picture of the user's
    assert paths_of("b.jpg")["color"].name == "b-2_color.png"


def test_a_number_is_not_given_to_two_inputs(tmp_path: Path):
    image = picture(4, 4)
    Image.fromarray(image).save(tmp_path / "a_color.png")
    paths = result_paths(tmp_path, [Path("a.jpg"), Path("a-2.jpg")])
    assert [p["color"].name for p in paths] == ["a-2_color.png", "a-2-2_color.png"]


def test_names_of_results_are_distinct():
    folder = Path("in")
    images = [folder / name for name in ("a.jpg", "a.png", "A.bmp", "sub/a.jpg", "b.tar.png", "a_png.jpg")]
    names = [str(paths["ids"]) for paths in result_paths(Path("out"), images, folder, ["ids"])]
    assert names == [f"out/{name}_ids.png" for name in ("a_jpg", "a_png", "A_bmp", "sub/a", "b.tar", "a_png-2")]
