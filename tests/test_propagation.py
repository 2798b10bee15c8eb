"""Propagation: image and labels move together, and what cannot be known is void."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.files import find_samples
from datasets.segmentation import load_sample
from datasets.specs.registry import dataset_spec
from datasets.streets.write import write_streets
from utils.images import read_image, read_label_ids
from video.flow import Displacement, FlowChain, StreetFlow, build_flow, dis_flow
from video.propagation import VOID_TESTS, occlusion, propagate, refine_labels

VOID = 255
HEIGHT, WIDTH = 64, 96
BACKGROUND, SQUARE = 0, 1


def textured(height, width, darkest, brightest):
    rough = np.random.default_rng(0).integers(darkest, brightest, (height // 4, width // 4, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def moving_square(step):
    """A textured square of 24 pixels that moves 4 pixels to the right each step over a still background."""
    image, labels = textured(HEIGHT, WIDTH, 0, 90), np.full((HEIGHT, WIDTH), BACKGROUND, np.uint8)
    window = (slice(20, 44), slice(36 + 4 * step, 60 + 4 * step))
    image[window], labels[window] = textured(24, 24, 150, 240), SQUARE
    return image, labels


def squares_motion(step):
    """Exact: the square is 4 * step pixels further left in frame 0, the background where it was."""
    _, labels = moving_square(step)
    _, before = moving_square(0)
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[labels == SQUARE] = (-4 * step, 0)
    return Displacement(flow, visible=(labels == SQUARE) | (before != SQUARE))


def still(_):
    return Displacement(np.zeros((HEIGHT, WIDTH, 2), np.float32), miss=np.zeros((HEIGHT, WIDTH), np.float32))


def leftwards(pixels):
    """Everything was `pixels` further right in the labelled frame, by a way that leads back."""
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = pixels
    return lambda _: Displacement(flow, miss=np.zeros((HEIGHT, WIDTH), np.float32))


# On cases one can see through.


@pytest.mark.parametrize("step", [-2, -1, 1, 2])
def test_what_a_moving_square_uncovers_is_void_and_the_rest_is_right(step):
    frames = {k: moving_square(k)[0] for k in (0, step)}
    (made,) = propagate(frames, moving_square(0)[1], squares_motion, [step])
    truth = moving_square(step)[1]
    void = made.labels == VOID
    assert np.array_equal(made.labels[~void], truth[~void])
    uncovered = slice(36, 36 + 4 * step) if step > 0 else slice(60 + 4 * step, 60)
    assert void[20:44, uncovered].all() and void.sum() == 24 * 4 * abs(step)
    assert np.array_equal(made.image[~void], frames[step][~void]) and made.residual < 1
    assert made.void_shares == {"outside": 0, "hidden": void.mean(), "residual": 0}


def test_what_comes_into_view_at_the_border_is_void():
    image, labels = moving_square(0)
    (made,) = propagate({0: image, 1: np.roll(image, -5, axis=1)}, labels, leftwards(5), [1])
    assert (made.labels[:, -5:] == VOID).all() and np.array_equal(made.labels[:, :-5], labels[:, 5:])
    assert made.void_shares["outside"] == pytest.approx(5 / WIDTH)


def test_what_looks_different_from_the_true_frame_is_void():
    image, labels = moving_square(0)
    true = image.copy()
    true[5:15, 5:15] = 255 - true[5:15, 5:15]
    (made,) = propagate({0: image, 1: true}, labels, still, [1])
    assert (made.labels[6:14, 6:14] == VOID).all() and (made.labels[:, 20:] != VOID).all()
    assert made.void_shares["residual"] > 0 == made.void_shares["hidden"]


def test_a_way_that_does_not_lead_back_counts_only_where_pictures_differ():
    difference = np.array([[0, 4, 9, 9, 15]], np.float32)
    miss = np.array([[9, 9, 9, 0.5, 1.5]], np.float32)
    assert occlusion(difference, miss)[0, :3].tolist() == [0, 8, 18]


def test_where_visibility_is_known_nothing_else_is_asked():
    image, labels = moving_square(0)
    seen = labels == SQUARE
    exact = Displacement(np.zeros((HEIGHT, WIDTH, 2), np.float32), visible=seen)
    (made,) = propagate({0: image, 1: 255 - image}, labels, lambda _: exact, [1])
    assert np.array_equal(made.labels == VOID, ~seen)


def test_joint_mode_warps_the_image_and_label_mode_keeps_the_true_one():
    frames = {k: moving_square(k)[0] for k in (0, 1)}
    labels = moving_square(0)[1]
    (joint,) = propagate(frames, labels, squares_motion, [1], mode="joint")
    (label,) = propagate(frames, labels, squares_motion, [1], mode="label")
    assert np.array_equal(label.image, frames[1]) and not np.array_equal(joint.image, frames[1])
    assert np.array_equal(joint.labels, label.labels)


def test_void_of_the_labelled_frame_moves_along():
    image, labels = moving_square(0)
    labels[30:34, 40:44] = VOID
    (made,) = propagate({0: image, 1: image}, labels, squares_motion, [1], keep=VOID_TESTS)
    assert (made.labels[30:34, 44:48] == VOID).all() and (made.labels == VOID).sum() == 16
    assert sum(made.void_shares.values()) == 0


def test_near_steps_come_first():
    image, labels = moving_square(0)
    frames = dict.fromkeys(range(-2, 3), image)
    assert [made.step for made in propagate(frames, labels, still, [-2, -1, 1, 2])] == [-1, 1, -2, 2]


@pytest.mark.parametrize("test", VOID_TESTS)
def test_keep_switches_each_test_off(test):
    image, labels = moving_square(0)
    true = image.copy()
    true[5:15, 5:15] = 255 - true[5:15, 5:15]
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[50:, -1, 0] = 3
    miss = np.zeros((HEIGHT, WIDTH), np.float32)
    miss[:, 10:15] = 9
    motion = lambda _: Displacement(flow, miss=miss)  # noqa: E731
    frames, choices = {0: image, 1: true}, ((), (test,), VOID_TESTS)
    made = {keep: next(propagate(frames, labels, motion, [1], keep=keep)) for keep in choices}
    assert made[()].void_shares[test] > 0 == made[test,].void_shares[test]
    assert (made[VOID_TESTS].labels != VOID).all()


# Votes.


def test_a_label_that_strays_over_an_edge_is_voted_back():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 200
    truth = (image[..., 0] > 0).astype(np.uint8)
    labels = truth.copy()
    labels[8:11, 10] = 0  # a bulge of the left class beyond the edge
    assert np.array_equal(refine_labels(labels, image, np.ones((20, 20), np.float32)), truth)


def test_who_is_not_trusted_does_not_count():
    image = np.full((9, 9, 3), 100, np.uint8)
    labels = np.zeros((9, 9), np.uint8)
    labels[:, 4:] = 7
    trusted = np.where(labels == 7, 1, 0).astype(np.float32)
    assert (refine_labels(labels, image, trusted)[:, 2:] == 7).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.sets(st.integers(0, 255), min_size=4, max_size=4))
def test_votes_elect_only_classes_nearby_whatever_their_numbers(seed, numbers):
    rng = np.random.default_rng(seed)
    labels = cv2.resize(rng.integers(0, 4, (4, 5), np.uint8), (25, 20), interpolation=cv2.INTER_NEAREST)
    guide, weights = rng.integers(0, 256, (20, 25, 3), np.uint8), rng.uniform(0.1, 1, (20, 25)).astype(np.float32)
    elected = refine_labels(labels, guide, weights)
    renamed = np.array(sorted(numbers), np.uint8)  # in order, since a tie goes to the lower one
    assert np.array_equal(refine_labels(renamed[labels], guide, weights), renamed[elected])
    near = np.ones((5, 5), np.uint8)
    for number in range(4):
        assert not ((elected == number) & (cv2.dilate((labels == number).astype(np.uint8), near) == 0)).any()
    alone = cv2.dilate(labels, near) == cv2.erode(labels, near)
    assert np.array_equal(elected[alone], labels[alone])


# Estimated motion.


class Told:
    """An estimator that is told how far things move a frame, and counts the pairs that it is asked for."""

    def __init__(self, pixels):
        self.pixels = pixels
        self.asked = []

    def __call__(self, image, other):
        apart = int(other[0, 0, 0]) - int(image[0, 0, 0])
        self.asked.append((int(image[0, 0, 0]), apart))
        return np.broadcast_to(np.float32([self.pixels * apart, 0]), (*image.shape[:2], 2)).copy()


def numbered_frames(*steps):
    return {k: np.full((32, 40, 3), 100 + k, np.uint8) for k in steps}


def test_a_chain_asks_for_neighbours_only_once():
    told = Told(0.5)
    motion = FlowChain(numbered_frames(-3, -2, -1, 0, 1, 2, 3), told)
    for step in (-1, 1, -2, 2, -3, 3):
        found = motion(step)
        assert np.allclose(found.flow, [-0.5 * step, 0]) and np.allclose(found.miss, 0, atol=1e-6)
    assert len(told.asked) == len(set(told.asked)) == 12 and {apart for _, apart in told.asked} == {-1, 1}


def test_the_drift_of_a_long_chain_is_taken_back():
    wide = textured(96, 240, 30, 226)
    frames = {k: np.ascontiguousarray(wide[:, 40 + 3 * k : 168 + 3 * k]) for k in range(5)}
    drifting = lambda image, other: dis_flow(image, other) + np.float32([0.4, 0])  # noqa: E731
    flow = FlowChain(frames, drifting)(4).flow
    assert np.abs(np.median(flow, axis=(0, 1)) - (12, 0)).max() < 0.2  # the chain says 13.6


# Drawn streets, whose motion is known.


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets")
    write_streets(root, num_train=10, num_val=0, num_test=0, frames_per_sequence=5, height=120, width=160, seed=1,
                  num_workers=1)  # fmt: skip
    return root


def frame_of(root, street, number):
    stem = f"street{street:04d}_{number:06d}"
    return read_image(root / f"train/{stem}.jpg"), read_label_ids(root / f"trainannot/{stem}.png")


def test_exact_motion_gives_the_true_labels_where_they_were_visible_and_void_elsewhere(streets):
    right, void = [], []
    for street in range(2):
        video = {k: frame_of(streets, street, 2 + k) for k in (-2, -1, 0, 1, 2)}
        motion = StreetFlow(streets, f"street{street:04d}_000002")
        frames = {k: image for k, (image, _) in video.items()}
        for made in propagate(frames, video[0][1], motion, [-2, -1, 1, 2]):
            visible = motion(made.step).visible
            right.append((made.labels == video[made.step][1])[visible])
            void.append((made.labels == VOID)[~visible])
    assert np.concatenate(right).mean() >= 0.995
    assert np.concatenate(void).mean() >= 0.95 and np.concatenate(void).size > 1000


def test_exact_motion_of_the_frame_before_is_the_flow_that_was_drawn(tmp_path):
    write_streets(tmp_path / "s", num_train=2, num_val=0, num_test=0, frames_per_sequence=2, height=48, width=64,
                  with_flow=True, num_workers=1)  # fmt: skip
    stored = np.load(tmp_path / "s/trainflow/street0000_000000.npz")
    found = StreetFlow(tmp_path / "s", "street0000_000001")(-1)
    assert np.abs(found.flow - stored["flow"]).max() < 1e-3
    assert np.array_equal(found.visible, stored["visible"])


def test_errors_of_exact_motion_name_folder_and_frame(tmp_path, streets):
    with pytest.raises(ValueError, match=r"holds no streets\.json"):
        StreetFlow(tmp_path, "street0000_000000")
    for name in ("street0000_000005", "street0009_000000", "frankfurt_000000"):
        with pytest.raises(ValueError, match=f"{name} is not a frame"):
            StreetFlow(streets, name)


# Real pictures.


def test_on_real_video_it_beats_plain_dis(shared):
    spec = dataset_spec("camvid")
    pairs = find_samples(spec, shared / "camvid", "val")[40:46]
    video = dict(enumerate(load_sample(pair, spec) for pair in pairs))
    frames = {k: image for k, (image, _) in video.items()}
    truth = video[5][1]

    def right(labels):
        known = (truth != VOID) & (labels != VOID)
        return (labels == truth)[known].mean()

    motion = FlowChain(frames, build_flow("dis"))
    found = motion(5)
    (ours,) = propagate(frames, video[0][1], lambda _: found, [5], mode="label", keep=VOID_TESTS)
    (sure,) = propagate(frames, video[0][1], lambda _: found, [5], mode="label")
    plain = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(
        *(cv2.cvtColor(frames[k], cv2.COLOR_RGB2GRAY) for k in (5, 0)), None
    )
    still = Displacement(plain, miss=np.zeros(truth.shape, np.float32), visible=np.ones(truth.shape, bool))
    (dis,) = propagate(frames, video[0][1], lambda _: still, [5], keep=VOID_TESTS)
    assert right(video[0][1]) < right(dis.labels) < right(ours.labels) < right(sure.labels)
    assert (sure.labels == VOID).mean() < 0.3
