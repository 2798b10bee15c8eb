"""The embedded streets: what is drawn, how it moves, and how it lies on disk."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.streets.render import GROUND_ID, SKY_ID, draw, flow_and_visibility, trace
from datasets.streets.world import CAR, POLE, ROAD, SIDEWALK, SKY, TREE, Canvas, Drive, Ground, Quad, build_world
from datasets.streets.write import write_streets
from tests.conftest import ROOT

SIZE = (96, 128)
SMALL = {"num_train": 2, "num_val": 1, "num_test": 1, "frames_per_sequence": 2, "height": 48, "width": 64,
         "seed": 3, "num_workers": 1}  # fmt: skip


@pytest.fixture(scope="module")
def worlds():
    return [build_world(seed, num_frames=3) for seed in range(3)]


@pytest.fixture(scope="module")
def bare(worlds):
    """A street with nothing on it, seen from a camera 1.5 m above its centre line that stands still and level."""
    return replace(worlds[0], quads=(), ground=Ground(half_width=4), drive=Drive(speed=0.0))


def with_quad(world, corner, label, size=2.0, velocity=(0, 0, 0), holes=None):
    """`world` with an upright square, `size` metres wide; `corner`: its top left one; `holes`: what is cut out."""
    canvas = Canvas(label, size, size, (120, 120, 120), filled=True)
    if holes:
        canvas.opaque[holes] = 0
    u, v = np.array([size, 0, 0]), np.array([0, -size, 0])
    return replace(world, quads=(*world.quads, Quad(np.array(corner), u, v, canvas, np.array(velocity))))


def labels_of(world, *size):
    return draw(world, 0, *size)[1]


# Projection, on cases one can work out by hand. The focal length is 1.15 times the image's height.


def test_ground_straight_ahead_lands_on_the_known_row(bare):
    camera = trace(bare, 0, 100, 200).camera
    point = (np.array([0.0, 0.0, 10.0]) - camera.position) @ camera.rotation.T
    # focal length 115 pixels: 1.5 m below the axis at 10 m are 17.25 rows below the middle, 49.5
    np.testing.assert_allclose(camera.project(point), [99.5, 49.5 + 17.25])


def test_depth_of_the_ground_is_height_times_focal_length_over_rows_below_the_horizon(bare):
    view = trace(bare, 0, 101, 65)  # the horizon is row 50
    assert (view.ids[:50] == SKY_ID).all() and (view.ids[51:] == GROUND_ID).all()
    for row in (60, 75, 100):
        inverse_depth, right, _ = view.places(view.ids[row, 32:33], view.xs[32:33], view.ys[row : row + 1])
        np.testing.assert_allclose(inverse_depth, (row - 50) / (1.5 * 1.15 * 101))
        np.testing.assert_allclose(right, 0, atol=1e-9)
    labels = labels_of(bare, 101, 65)
    assert (labels[51:, 32] == ROAD).all() and (labels[:50] == SKY).all()


def test_the_kerb_lies_where_the_plan_says_and_beyond_the_sidewalk_lies_the_lawn(bare):
    labels = labels_of(replace(bare, ground=Ground(half_width=2, sidewalk=1, lawn=True)), 101, 201)
    # row 80: 30 rows below the horizon, so that 1 m of ground is 20 pixels wide; the middle is column 100
    assert [labels[80, 100 + 20 * x + 5] for x in (-4, -3, -2, 0, 1, 2, 3)] == [
        TREE, SIDEWALK, ROAD, ROAD, ROAD, SIDEWALK, TREE]  # fmt: skip


def test_looking_right_moves_things_left_and_looking_down_moves_them_up(bare):
    point = np.array([0.0, 1.5, 10.0])
    for drive, axis in ((Drive(yaw=0.1, speed=0), 0), (Drive(pitch=0.1, speed=0), 1)):
        camera = trace(replace(bare, drive=drive), 0, 100, 100).camera
        image_point = camera.project((point - camera.position) @ camera.rotation.T)
        np.testing.assert_allclose(image_point[axis], 49.5 - 115 * np.tan(0.1))
        np.testing.assert_allclose(image_point[1 - axis], 49.5)


def test_a_rotation_keeps_lengths_and_the_nearest_surface_hides_the_rest(bare):
    rotation = replace(bare, drive=Drive(yaw=0.3, pitch=-0.2)).pose(0)[1]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    both = with_quad(with_quad(bare, [-1, 2.5, 8], CAR), [-0.5, 2, 4], POLE, size=1.0)
    # At 4 m, 0.5 m are 14.5 pixels; at 8 m, 1 m too: only the far quad's own size would show beside the near one.
    labels = labels_of(both, 101, 101)
    assert labels[50, 50] == labels[50, 50 + 14] == POLE and labels[50, 50 + 16] == SKY


def test_one_sees_through_what_is_not_painted(bare):
    labels = labels_of(with_quad(bare, [-1, 2.5, 5], CAR, holes=np.s_[48:, :48]), 100, 100)
    # The middle of the quad is the image's middle, at rows and columns 49.5.
    assert (labels[45, 45], labels[45, 54], labels[54, 54], labels[54, 45]) == (CAR, CAR, CAR, ROAD)


def test_what_lies_partly_behind_the_camera_is_drawn_as_far_as_it_is_ahead(bare):
    wall = Quad(np.array([1.0, 3.0, -5.0]), np.array([0, 0, 15.0]), np.array([0, -3.0, 0]),
                Canvas(CAR, 15, 3, (9, 9, 9), filled=True), np.zeros(3))  # fmt: skip
    labels = labels_of(replace(bare, quads=(wall,)), 100, 100)
    assert labels[49, 99] == CAR and labels[49, 49 + 13] == CAR and labels[49, 49 + 10] == SKY  # it ends at 10 m


# Motion.


def test_a_still_camera_sees_no_motion_in_a_still_world(bare):
    flow, visible = flow_and_visibility(with_quad(bare, [-1, 2, 6], CAR), 0, 1, *SIZE)
    np.testing.assert_allclose(flow, 0, atol=1e-4)
    assert visible.all()


def test_a_moving_thing_moves_by_focal_length_times_way_over_depth(bare):
    world = with_quad(bare, [-1, 2.5, 5], CAR, velocity=(0.1, 0, 0))
    flow, visible = flow_and_visibility(world, 0, 1, 100, 100)
    car = labels_of(world, 100, 100) == CAR
    np.testing.assert_allclose(flow[car], np.broadcast_to([115 * 0.1 / 5, 0], (car.sum(), 2)), atol=1e-4)
    np.testing.assert_allclose(flow[~car], 0, atol=1e-4)
    assert visible[car].all() and not visible[~car].all()  # the car now hides what was beside it


def test_driving_ahead_makes_the_image_flow_out_of_the_vanishing_point(bare):
    flow, visible = flow_and_visibility(replace(bare, drive=Drive(speed=0.5)), 0, 1, *SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    outwards = np.stack([x - (SIZE[1] - 1) / 2, y - (SIZE[0] - 1) / 2], -1)
    ground = labels_of(bare, *SIZE) != SKY
    cross = flow[..., 0] * outwards[..., 1] - flow[..., 1] * outwards[..., 0]
    assert np.abs(cross[ground]).max() < 1e-2
    assert ((flow * outwards).sum(-1)[ground] > 0).all()
    np.testing.assert_allclose(flow[~ground], 0, atol=1e-4)  # the sky is infinitely far
    # What lies at the lower edge leaves the image.
    assert not visible[-1].any() and visible[SIZE[0] * 2 // 3].any()


def test_the_sky_turns_with_the_camera(bare):
    world = replace(bare, drive=Drive(speed=0.0, yaw_sway=0.05, period=8))
    turned = 0.05 * (np.sin(2 * np.pi / 8 + 1) - np.sin(1))
    assert turned > 0
    flow, _ = flow_and_visibility(world, 0, 1, 101, 101)
    np.testing.assert_allclose(flow[50, 50], [-116.15 * np.tan(turned), 0], atol=1e-3)


def test_what_passes_behind_the_camera_is_not_visible(bare):
    world = replace(with_quad(bare, [-0.3, 1.8, 0.4], CAR, size=0.6), drive=Drive(speed=1.0))
    flow, visible = flow_and_visibility(world, 0, 1, *SIZE)
    car = labels_of(world, *SIZE) == CAR
    assert car.any() and not visible[car].any() and not flow[car].any()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_next_frame_warped_back_has_the_same_labels(worlds, number):
    height, width = 168, 224
    (image, labels), (later_image, later_labels) = (draw(worlds[number], t, height, width) for t in (0, 1))
    flow, visible = flow_and_visibility(worlds[number], 0, 1, height, width)
    y, x = np.mgrid[:height, :width]
    column, row = (np.round(at)[visible].astype(int) for at in (x + flow[..., 0], y + flow[..., 1]))
    assert visible.mean() > 0.6
    assert (later_labels[row, column] == labels[visible]).mean() >= 0.995
    # Colours travel along too: much closer than the same places without motion.
    colour, before = image[visible].astype(int), later_image[visible].astype(int)
    assert np.abs(later_image[row, column] - colour).mean() < 0.75 * np.abs(before - colour).mean()


# Content.


def test_every_class_is_drawn():
    labels = np.concatenate([draw(build_world(seed, 3), 1, 120, 160)[1].ravel() for seed in range(6)])
    assert set(np.unique(labels)) == set(range(12))


def test_a_street_looks_the_same_each_time_and_others_look_different(worlds):
    frames = [draw(world, 1, 48, 64) for world in (worlds[0], build_world(0, num_frames=3), worlds[1])]
    for first, again in zip(*frames[:2], strict=True):
        np.testing.assert_array_equal(first, again)
    assert (frames[0][1] != frames[2][1]).mean() > 0.1


def test_a_frame_has_the_promised_shapes_and_types(worlds):
    arrays = (*draw(worlds[0], 0, 40, 56), *flow_and_visibility(worlds[0], 0, 1, 40, 56))
    assert [(array.shape, array.dtype.name) for array in arrays] == [
        ((40, 56, 3), "uint8"), ((40, 56), "uint8"), ((40, 56, 2), "float32"), ((40, 56), "bool")]  # fmt: skip


def test_things_cast_a_shadow_away_from_the_sun(bare):
    look = replace(bare.look, sun=np.array([0.6, 0.8, 0.0]), sunlight=0.5)  # 4 m throw 3 m of shadow to the left
    bare = replace(bare, look=look, ground=Ground(dash=0))
    square = Quad(np.array([0.0, 4.0, 6.0]), np.array([0, 0, 2.0]), np.array([0, -0.5, 0]),
                  Canvas(CAR, 2, 0.5, (9, 9, 9), filled=True), np.zeros(3))  # fmt: skip
    before, after = (draw(world, 0, 101, 201)[0].astype(int) for world in (bare, replace(bare, quads=(square,))))
    row, metre = 50 + round(1.5 * 116.15 / 7), 116.15 / 7
    shaded = 100 + round(-2.8 * metre)  # from -3 to -2.6 m
    assert after[row, shaded].mean() < 0.8 * before[row, shaded].mean()
    np.testing.assert_array_equal(after[row, 100:], before[row, 100:])


# Files.


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_files_lie_as_in_camvid(tmp_path):
    assert write_streets(tmp_path / "set", **SMALL, with_flow=True)
    root = tmp_path / "set"
    assert not list(tmp_path.glob(".*"))
    sequences = {}
    for split, num in (("train", 2), ("val", 1), ("test", 1)):
        stems = sorted(path.stem for path in (root / split).iterdir())
        assert len(stems) == num
        for stem in stems:
            names = f"{split}/{stem}.jpg", f"{split}annot/{stem}.png"
            image, labels = (cv2.imread(str(root / name), cv2.IMREAD_UNCHANGED) for name in names)
            assert image.shape == (48, 64, 3) and labels.shape == (48, 64) and labels.dtype == np.uint8
            assert labels.max() <= 11
            with np.load(root / f"{split}flow" / f"{stem}.npz") as motion:
                assert motion["flow"].shape == (48, 64, 2) and motion["flow"].dtype == np.float32
                assert motion["visible"].shape == (48, 64) and motion["visible"].dtype == bool
            sequences.setdefault(split, set()).add(stem.split("_")[0])
    assert sorted(path.name for path in (root / "train").iterdir()) == [
        "street0000_000000.jpg", "street0000_000001.jpg"
    ]  # fmt: skip
    assert sum(map(len, sequences.values())) == len(set.union(*sequences.values())) == 3


def test_the_file_on_disk_is_the_frame_that_was_drawn(tmp_path):
    write_streets(tmp_path / "set", **SMALL)
    drawn, drawn_labels = draw(build_world((3, 0), num_frames=2), 1, 48, 64)
    labels = cv2.imread(str(tmp_path / "set/trainannot/street0000_000001.png"), cv2.IMREAD_UNCHANGED)
    image = cv2.imread(str(tmp_path / "set/train/street0000_000001.jpg"))[..., ::-1]
    np.testing.assert_array_equal(labels, drawn_labels)
    assert np.abs(image.astype(int) - drawn).mean() < 4  # what JPEG loses; red and blue are in their places


def test_the_number_of_workers_changes_no_byte(tmp_path):
    write_streets(tmp_path / "one", **SMALL)
    write_streets(tmp_path / "two", **{**SMALL, "num_workers": 2})
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_set_is_reused_and_never_replaced_by_another(tmp_path):
    root = tmp_path / "set"
    assert write_streets(root, **SMALL)
    assert not write_streets(root, **SMALL)
    before = files_of(root)
    with pytest.raises(FileExistsError, match=r"set holds other files than would be drawn; choose a new or empty"):
        write_streets(root, **{**SMALL, "seed": 4})
    assert files_of(root) == before


def test_a_link_and_the_folder_one_stands_in_are_filled(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "set").symlink_to("disk")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for root in (tmp_path / "set", Path()):
        assert write_streets(root, **SMALL)
        assert not write_streets(root, **SMALL)
    assert (tmp_path / "set").is_symlink()
    assert files_of(tmp_path / "disk") == files_of(tmp_path / "here")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "here", "set"]


def test_a_split_of_no_images_has_no_folder(tmp_path):
    write_streets(tmp_path / "set", **{**SMALL, "num_test": 0})
    assert not list((tmp_path / "set").glob("test*"))


def test_a_half_written_set_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_streets(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [{"num_train": 0, "num_val": 0, "num_test": 0}, {"height": 8}])
def test_a_set_of_nothing_or_of_tiny_images_is_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"--num_train|--size"):
        write_streets(tmp_path / "set", **{**SMALL, **values})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", ["240", "axb", "240x", "-3x5", "8x8"])
def test_the_command_answers_a_bad_size_with_one_line(tmp_path, command, size):
    ended = command("datasets.streets.__main__", "--root", tmp_path / "set", f"--size={size}")
    assert ended.code == 1
    assert ended.err.startswith("error: --size") and ended.err.count("\n") == 1


def test_the_command_writes_and_then_finds_the_set(tmp_path, command):
    flags = ("datasets.streets.__main__", "--root", tmp_path / "set", "--size", "32x48", "--num_train", 1,
             "--num_val", 0, "--num_test", 0, "--num_workers", 1)  # fmt: skip
    assert "written" in command(*flags).out
    found = command(*flags)
    assert found.code == 0 and "already there" in found.out


def test_ctrl_c_ends_the_drawing_with_one_word_and_nothing_half_written(tmp_path):
    words = [sys.executable, "-m", "datasets.streets", "--root", tmp_path / "set", "--num_workers", "2"]
    drawing = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, bufsize=0, start_new_session=True)
    while not list(tmp_path.rglob("*.png")):  # until the processes are at work
        assert drawing.poll() is None
        time.sleep(0.05)
    os.killpg(drawing.pid, signal.SIGINT)  # as a terminal does, to all processes
    rest = drawing.communicate()[1]
    assert drawing.returncode == 130
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())
