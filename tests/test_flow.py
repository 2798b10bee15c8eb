"""Warping: every pixel fetches what is at the place that its flow points to; and flow itself, by name."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from network.checkpoint import Checkpoint, save_checkpoint
from video.flow import (
    SMALL,
    build_flow,
    compose,
    dis_flow,
    grey_difference,
    inside,
    places,
    raft_flow,
    warp_image,
    warp_labels,
)

SHIFTS = st.integers(-4, 4)
LABELS = arrays(np.uint8, (7, 9))


def uniform(height, width, x, y):
    """The flow that points everywhere `x` pixels right and `y` down."""
    return np.broadcast_to(np.float32([x, y]), (height, width, 2)).copy()


def textured(height=96, width=128, seed=0):
    rough = np.random.default_rng(seed).integers(30, 226, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


# On cases one can see through.


def test_a_pixel_fetches_the_label_that_its_flow_points_to():
    labels = np.array([[1, 2, 3, 4]], np.uint8)
    assert warp_labels(labels, uniform(1, 4, 1, 0)).tolist() == [[2, 3, 4, 4]]
    assert warp_labels(labels, uniform(1, 4, -2, 0)).tolist() == [[1, 1, 1, 2]]


def test_labels_are_never_mixed():
    labels = np.array([[1, 9], [1, 9]], np.uint8)
    assert set(warp_labels(labels, uniform(2, 2, 0.4, 0.3)).ravel().tolist()) == {1, 9}


def test_between_two_pixels_of_a_ramp_the_image_has_their_mean():
    ramp = np.repeat(np.arange(0, 200, 20, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    warped = warp_image(ramp, uniform(4, 10, 0.5, 0))
    assert warped[2, 2:7, 0].tolist() == [50, 70, 90, 110, 130]


def test_the_picture_ends_at_the_outer_edge_of_its_border_pixels():
    flow = np.zeros((1, 4, 2), np.float32)
    flow[0, :, 0] = [-0.4, -1.6, 1.4, 0.6]  # the four pixels point to x = -0.4, -0.6, 3.4 and 3.6
    assert inside(flow).tolist() == [[True, False, True, False]]


def test_places_are_columns_and_rows_plus_flow():
    x, y = places(uniform(2, 3, 10, 20))
    assert x.tolist() == [[10, 11, 12], [10, 11, 12]] and y.tolist() == [[20, 20, 20], [21, 21, 21]]
    assert x.dtype == y.dtype == np.float32


def test_a_flow_is_composed_of_what_stands_where_the_first_one_leads():
    second = np.zeros((1, 5, 2), np.float32)
    second[0, 3] = [0, 7]
    way = compose(uniform(1, 5, 2, 0), second)
    assert way[0, 1].tolist() == [2, 7] and way[0, 0].tolist() == [2, 0]


def test_the_difference_of_pictures_is_the_mean_of_their_colours():
    image, other = np.zeros((1, 2, 3), np.uint8), np.array([[[30, 0, 0], [10, 20, 30]]], np.uint8)
    assert grey_difference(image, other).tolist() == [[10, 20]]


# Always.


@given(LABELS)
def test_without_motion_everything_stays(labels):
    still = uniform(7, 9, 0, 0)
    assert np.array_equal(warp_labels(labels, still), labels)
    image = np.dstack([labels, 255 - labels, labels // 2])
    assert np.array_equal(warp_image(image, still), image)
    assert inside(still).all()


@given(LABELS, SHIFTS, SHIFTS)
def test_whole_pixels_move_image_and_labels_alike(labels, x, y):
    flow = uniform(7, 9, x, y)
    image = np.repeat(labels[..., None], 3, axis=2)
    assert np.array_equal(warp_image(image, flow)[..., 0], warp_labels(labels, flow))


@given(LABELS, st.lists(SHIFTS, min_size=4, max_size=4))
def test_warping_along_a_composition_is_warping_twice(labels, shifts):
    first, second = uniform(7, 9, *shifts[:2]), uniform(7, 9, *shifts[2:])
    both = compose(first, second)
    assert np.array_equal(both, uniform(7, 9, shifts[0] + shifts[2], shifts[1] + shifts[3]))
    seen = inside(first) & inside(both)
    twice = warp_labels(warp_labels(labels, second), first)
    assert np.array_equal(warp_labels(labels, both)[seen], twice[seen])


@given(LABELS, arrays(np.float32, (7, 9, 2), elements=st.floats(-20, 20, width=32)))
def test_renaming_classes_before_or_after_warping_is_the_same(labels, flow):
    names = np.random.default_rng(0).permutation(256).astype(np.uint8)
    assert np.array_equal(warp_labels(names[labels], flow), names[warp_labels(labels, flow)])


# Estimators.


@settings(max_examples=10, deadline=None)
@given(st.integers(-6, 6), st.integers(-6, 6))
def test_dis_says_where_a_pixel_is_in_the_other_picture(x, y):
    wide = textured(128, 160)
    image, other = wide[16:112, 16:144], wide[16 - y : 112 - y, 16 - x : 144 - x]
    flow = dis_flow(np.ascontiguousarray(image), np.ascontiguousarray(other))
    assert flow.shape == (96, 128, 2) and flow.dtype == np.float32
    assert np.abs(np.median(flow, axis=(0, 1)) - (x, y)).max() < 0.1


def test_a_search_that_starts_at_the_answer_stays_there():
    wide = textured(128, 200)
    image, other = np.ascontiguousarray(wide[:, 40:168]), np.ascontiguousarray(wide[:, :128])
    flow = dis_flow(image, other, uniform(128, 128, 40, 0))
    assert np.abs(np.median(flow, axis=(0, 1)) - (40, 0)).max() < 0.1


def test_a_large_picture_is_searched_too():
    assert SMALL < 640 * 952
    image = cv2.resize(textured(160, 240), (960, 640), interpolation=cv2.INTER_CUBIC)
    flow = dis_flow(np.ascontiguousarray(image[:, 8:]), np.ascontiguousarray(image[:, :-8]))
    assert np.abs(np.median(flow, axis=(0, 1)) - (8, 0)).max() < 0.2


def test_pictures_too_small_to_search_are_named():
    with pytest.raises(ValueError, match="images of 8x6 pixels are too small"):
        dis_flow(np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8, 3), np.uint8))
    tiny = np.zeros((16, 16, 3), np.uint8)
    assert dis_flow(tiny, tiny).shape == (16, 16, 2)


class FakeRaft(torch.nn.Module):
    """Checks what RAFT would be given, and says that everything moves by (3, -2)."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, image, other):
        assert image.shape == other.shape and image.shape[2] % 8 == image.shape[3] % 8 == 0
        assert min(image.shape[2:]) >= 128 and image.min() >= -1 and image.max() <= 1
        flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, *image.shape[2:])
        return [torch.zeros_like(flow), flow * self.scale]


@pytest.mark.parametrize("size", [(100, 130), (203, 131), (256, 128)])
def test_raft_takes_pictures_of_any_size_and_its_last_flow_counts(size):
    image = textured(256, 256)[: size[0], : size[1]]
    flow = raft_flow(FakeRaft(), image, image)
    assert flow.dtype == np.float32 and np.array_equal(flow, uniform(*size, 3, -2))


def test_errors_of_flow_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="--flow_weights"):
        build_flow("raft")
    with pytest.raises(ValueError, match="--flow_weights"):
        build_flow("sdc")
    with pytest.raises(ValueError, match="dis takes no weights"):
        build_flow("dis", weights="raft.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        build_flow("raft", weights=str(tmp_path / "absent.pth"))


def test_raft_without_torchvision_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.models.optical_flow", None)
    save_checkpoint(tmp_path / "raft.pth", Checkpoint(state_dict={"a": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"--flow raft needs torchvision.*choose --flow dis"):
        build_flow("raft", weights=str(tmp_path / "raft.pth"))
