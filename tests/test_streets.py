"""The embedded streets: what is drawn, how it moves, and how it lies on disk."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets.synthetic.camera import CameraPath, Lens, Pose
from datasets.synthetic.ground import Ground, Junction, kerb_distance
from datasets.synthetic.light import Footprint
from datasets.synthetic.materials import CAR, HOLE, POLE, ROAD, SKY, TREE, make_texture
from datasets.synthetic.motion import render_frame
from datasets.synthetic.render import draw
from datasets.synthetic.scene import build_scene
from datasets.synthetic.write import write_streets
from tests.conftest import ROOT

SIZE = (96, 128)
SMALL = {"num_train": 2, "num_val": 1, "num_test": 1, "frames_per_sequence": 2, "height": 48, "width": 64,
         "seed": 3, "num_workers": 1, "progress": False}  # fmt: skip


@pytest.fixture(scope="module")
def scenes():
    return [build_scene(seed, num_frames=3) for seed in range(3)]


@pytest.fixture(scope="module")
def bare(scenes):
    """A straight street with nothing in it but the ground, seen from a camera that stands still and level."""
    ground = replace(scenes[0].ground, curve=CameraPath().curve, junctions=(), crossings=(), lawn=False)
    return replace(scenes[0], **NOTHING, ground=ground, path=CameraPath(speed=0.0))


NOTHING = {"origins": np.zeros((0, 3)), "us": np.zeros((0, 3)), "vs": np.zeros((0, 3)), "velocities": np.zeros((0, 3)),
           "tints": np.zeros((0, 3)), "textures": (), "two_sided": np.zeros(0, bool), "footprints": []}  # fmt: skip


def with_quad(scene, corner, u, v, labels, velocity=(0, 0, 0)):
    """`scene` with one more quad; `labels` is a small array of classes."""
    labels = np.array(labels, np.uint8)
    texture = make_texture(np.full((*labels.shape, 3), 120.0), labels)
    return replace(
        scene,
        origins=np.concatenate([scene.origins, [corner]]),
        us=np.concatenate([scene.us, [u]]),
        vs=np.concatenate([scene.vs, [v]]),
        velocities=np.concatenate([scene.velocities, [velocity]]).astype(float),
        tints=np.concatenate([scene.tints, np.ones((1, 3))]),
        textures=(*scene.textures, texture),
        two_sided=np.append(scene.two_sided, True),
    )


# Projection, on cases one can work out by hand.


def test_ground_straight_ahead_lands_on_the_known_row():
    lens, pose = Lens.for_size(100, 200), Pose(np.array([0.0, 1.5, 0.0]), yaw=0.0, pitch=0.0)
    point = (np.array([0.0, 0.0, 10.0]) - pose.position) @ pose.rotation().T
    # focal length 115 pixels: 1.5 m below the axis at 10 m are 17.25 rows below the middle, 49.5
    np.testing.assert_allclose(lens.project(point), [99.5, 49.5 + 17.25])


def test_depth_of_the_ground_is_height_times_focal_length_over_rows_below_the_horizon(bare):
    frame = render_frame(bare, 0, 101, 65)  # the horizon is row 50
    for row in (60, 75, 100):
        np.testing.assert_allclose(frame.depth[row, 32], 1.5 * 1.15 * 101 / (row - 50), rtol=1e-5)
    assert (frame.labels[51:, 32] == ROAD).all()
    assert (frame.labels[:50] == SKY).all() and np.isinf(frame.depth[:50]).all()


def test_looking_right_moves_things_left_and_looking_down_moves_them_up():
    lens, point = Lens.for_size(100, 100), np.array([0.0, 1.5, 10.0])
    for yaw, pitch, axis in ((0.1, 0.0, 0), (0.0, 0.1, 1)):
        pose = Pose(np.array([0.0, 1.5, 0.0]), yaw, pitch)
        image_point = lens.project((point - pose.position) @ pose.rotation().T)
        np.testing.assert_allclose(image_point[axis], 49.5 - 115 * np.tan(0.1))
        np.testing.assert_allclose(image_point[1 - axis], 49.5)


def test_a_rotation_keeps_lengths_and_the_nearest_surface_hides_the_rest(bare):
    rotation = Pose(np.zeros(3), 0.3, -0.2).rotation()
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    far = with_quad(bare, [-1, 2.5, 8], [2, 0, 0], [0, -2, 0], [[CAR]])
    both = with_quad(far, [-0.5, 2, 4], [1, 0, 0], [0, -1, 0], [[POLE]])
    labels = render_frame(both, 0, 101, 101).labels
    assert labels[50, 50] == POLE
    # At 4 m, 0.5 m are 14.5 pixels; at 8 m, 1 m too: only the far quad's own size would show beside the near one.
    assert labels[50, 50 + 14] == POLE and labels[50, 50 + 16] == SKY


def test_one_sees_through_holes(bare):
    scene = with_quad(bare, [-1, 2.5, 5], [2, 0, 0], [0, -2, 0], [[POLE, HOLE], [HOLE, TREE]])
    labels = render_frame(scene, 0, 100, 100).labels
    # The middle of the quad is the image's middle, at rows and columns 49.5.
    assert (labels[45, 45], labels[45, 54], labels[54, 54]) == (POLE, SKY, TREE)
    assert labels[54, 45] == ROAD


# Motion.


def test_a_still_camera_sees_no_motion_in_a_still_scene(bare):
    frame = render_frame(with_quad(bare, [-1, 2, 6], [2, 0, 0], [0, -2, 0], [[CAR]]), 0, *SIZE)
    np.testing.assert_allclose(frame.flow, 0, atol=1e-4)
    assert frame.visible.all()


def test_a_moving_thing_moves_by_focal_length_times_way_over_depth(bare):
    scene = with_quad(bare, [-1, 2.5, 5], [2, 0, 0], [0, -2, 0], [[CAR]], velocity=(0.1, 0, 0))
    frame = render_frame(scene, 0, 100, 100)
    car = frame.labels == CAR
    np.testing.assert_allclose(frame.flow[car], np.broadcast_to([115 * 0.1 / 5, 0], (car.sum(), 2)), atol=1e-4)
    np.testing.assert_allclose(frame.flow[~car], 0, atol=1e-4)
    assert not frame.visible[~car].all()  # the car now hides what was beside it


def test_driving_ahead_makes_the_image_flow_out_of_the_vanishing_point(bare):
    frame = render_frame(replace(bare, path=CameraPath(speed=0.5)), 0, *SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    outwards = np.stack([x - (SIZE[1] - 1) / 2, y - (SIZE[0] - 1) / 2], -1)
    ground = frame.labels != SKY
    cross = frame.flow[..., 0] * outwards[..., 1] - frame.flow[..., 1] * outwards[..., 0]
    assert np.abs(cross[ground]).max() < 1e-2
    assert ((frame.flow * outwards).sum(-1)[ground] > 0).all()
    np.testing.assert_allclose(frame.flow[~ground], 0, atol=1e-4)  # the sky is infinitely far
    # What lies at the lower edge leaves the image.
    assert not frame.visible[-1].any() and frame.visible[SIZE[0] * 2 // 3].any()


def test_the_sky_turns_with_the_camera(bare):
    sway = CameraPath(speed=0.0, yaw_sway=0.05, sway_period=8)
    flow = render_frame(replace(bare, path=sway), 0, 101, 101).flow
    turned = sway.pose(1).yaw - sway.pose(0).yaw
    assert turned > 0
    np.testing.assert_allclose(flow[50, 50], [-116.15 * np.tan(turned), 0], atol=1e-3)


def test_what_passes_behind_the_camera_is_not_visible(bare):
    scene = with_quad(bare, [-0.3, 1.8, 0.4], [0.6, 0, 0], [0, -0.6, 0], [[CAR]])
    frame = render_frame(replace(scene, path=CameraPath(speed=1.0)), 0, *SIZE)
    car = frame.labels == CAR
    assert car.any() and not frame.visible[car].any() and not frame.flow[car].any()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_next_frame_warped_back_has_the_same_labels(scenes, number):
    height, width = 168, 224
    now, later = (render_frame(scenes[number], t, height, width) for t in (0, 1))
    y, x = np.mgrid[:height, :width]
    column = np.round(x + now.flow[..., 0]).astype(int)[now.visible]
    row = np.round(y + now.flow[..., 1]).astype(int)[now.visible]
    assert now.visible.mean() > 0.6
    assert (later.labels[row, column] == now.labels[now.visible]).mean() >= 0.995
    # Colours travel along too: much closer than the same places without motion.
    colour, before = now.image[now.visible].astype(int), later.image[now.visible].astype(int)
    assert np.abs(later.image[row, column] - colour).mean() < 0.75 * np.abs(before - colour).mean()


# Content.


def test_kerbs_follow_side_streets(bare):
    ground: Ground = replace(bare.ground, half_width=4.0, junctions=(Junction(20.0, 3.0, False, True),))
    x, z = np.array([0.0, 5.0, 5.0, -5.0, 30.0, 30.0]), np.array([0.0, 0.0, 20.0, 20.0, 20.0, 25.0])
    np.testing.assert_allclose(kerb_distance(ground, x.astype(np.float32), z.astype(np.float32)),
                               [-4, 1, -3, 1, -3, 2], atol=1e-5)  # fmt: skip


def test_every_class_is_drawn(scenes):
    labels = np.concatenate([draw(scene, 1, 120, 160)[1].labels.ravel() for scene in scenes])
    assert set(np.unique(labels)) == set(range(12))


def test_a_street_looks_the_same_each_time_and_others_look_different(scenes):
    again, other = build_scene(0, num_frames=3), scenes[1]
    first, second, third = (render_frame(scene, 1, 48, 64) for scene in (scenes[0], again, other))
    for name in ("image", "labels", "depth", "flow", "visible"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (first.labels != third.labels).mean() > 0.1


def test_a_frame_has_the_promised_shapes_and_types(scenes):
    frame = render_frame(scenes[0], 0, 40, 56)
    kinds = {name: (getattr(frame, name).shape, getattr(frame, name).dtype.name) for name in vars(frame)}
    assert kinds == {"image": ((40, 56, 3), "uint8"), "labels": ((40, 56), "uint8"), "depth": ((40, 56), "float32"),
                     "flow": ((40, 56, 2), "float32"), "visible": ((40, 56), "bool")}  # fmt: skip


def test_things_darken_the_ground_below_them(bare):
    square = np.array([[-1, 5], [1, 5], [1, 7], [-1, 7.0]])
    shaded = replace(bare, footprints=[Footprint(square, 0.1, np.array([1e-6, 0, 0]), contact=1.0)])
    before, after = (draw(scene, 0, 101, 101)[0].astype(int) for scene in (bare, shaded))
    row = 50 + round(1.5 * 116.15 / 6)
    assert after[row, 50].mean() < 0.6 * before[row, 50].mean()
    np.testing.assert_array_equal(after[row, :10], before[row, :10])


# Files.


def files_of(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_the_files_lie_as_in_camvid(tmp_path):
    assert write_streets(tmp_path / "set", **SMALL, with_flow=True)
    root = tmp_path / "set"
    assert not list(tmp_path.glob(".*"))
    sequences = {}
    for split, num in (("train", 2), ("val", 1), ("test", 1)):
        lines = (root / f"{split}.txt").read_text().splitlines()
        assert len(lines) == num
        for line in lines:
            image_name, label_name = line.split(" ")
            assert image_name.startswith(f"{split}/") and label_name.startswith(f"{split}annot/")
            image, labels = (cv2.imread(str(root / n), cv2.IMREAD_UNCHANGED) for n in (image_name, label_name))
            assert image.shape == (48, 64, 3) and labels.shape == (48, 64) and labels.dtype == np.uint8
            assert labels.max() <= 11
            stem = image_name.removeprefix(f"{split}/").removesuffix(".jpg")
            with np.load(root / f"{split}flow" / f"{stem}.npz") as motion:
                assert motion["flow"].shape == (48, 64, 2) and motion["flow"].dtype == np.float32
                assert motion["visible"].shape == (48, 64) and motion["visible"].dtype == bool
            sequences.setdefault(split, set()).add(stem.split("_")[0])
    images = (root / "train.txt").read_text().split()[::2]
    assert images == ["train/street0000_000000.jpg", "train/street0000_000001.jpg"]
    assert sum(map(len, sequences.values())) == len(set.union(*sequences.values())) == 3


def test_the_file_on_disk_is_the_frame_that_was_drawn(tmp_path):
    write_streets(tmp_path / "set", **SMALL)
    scene = build_scene((3, 0), num_frames=2)
    frame = render_frame(scene, 1, 48, 64)
    labels = cv2.imread(str(tmp_path / "set/trainannot/street0000_000001.png"), cv2.IMREAD_UNCHANGED)
    image = cv2.imread(str(tmp_path / "set/train/street0000_000001.jpg"))[..., ::-1]
    np.testing.assert_array_equal(labels, frame.labels)
    assert np.abs(image.astype(int) - frame.image).mean() < 4  # what JPEG loses; red and blue are in their places


def test_the_number_of_workers_changes_no_byte(tmp_path):
    write_streets(tmp_path / "one", **SMALL)
    write_streets(tmp_path / "two", **{**SMALL, "num_workers": 2})
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_set_is_reused_and_replaced_when_the_parameters_change_and_nothing_else_is_touched(tmp_path):
    root = tmp_path / "set"
    assert write_streets(root, **SMALL, with_flow=True)
    (root / "notes").mkdir()
    (root / "notes/mine.txt").write_text("kept")
    assert not write_streets(root, **SMALL, with_flow=True)
    assert write_streets(root, **{**SMALL, "seed": 4, "num_test": 0})
    assert (root / "notes/mine.txt").read_text() == "kept"
    assert json.loads((root / "streets.json").read_text())["seed"] == 4
    (root / "notes/mine.txt").unlink()
    write_streets(tmp_path / "fresh", **{**SMALL, "seed": 4, "num_test": 0})
    assert files_of(root) == files_of(tmp_path / "fresh")  # no flow and no test images of the old streets


@pytest.mark.parametrize("name", ["propagated/train/street0000_000001.jpg", "video/train/street0000_000004.png"])
def test_what_fits_the_old_streets_alone_is_named_and_neither_kept_beside_others_nor_lost(tmp_path, name, monkeypatch):
    root = tmp_path / "set"
    write_streets(root, **SMALL)
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(b"x")
    before = files_of(root)
    monkeypatch.setattr("datasets.synthetic.write._write_all", lambda *_: pytest.fail("told too late"))
    with pytest.raises(FileExistsError, match=rf"{name.split('/')[0]} belongs to the existing streets"):
        write_streets(root, **{**SMALL, "seed": 4})
    assert files_of(root) == before


def test_a_file_of_others_among_the_drawn_ones_is_named_and_kept(tmp_path):
    root = tmp_path / "set"
    write_streets(root, **SMALL)
    (root / "train/photo.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"train/photo.jpg was not drawn and would be lost"):
        write_streets(root, **{**SMALL, "seed": 4})
    assert (root / "train/photo.jpg").read_bytes() == b"x"


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


def test_a_replacement_that_was_stopped_half_way_is_drawn_anew(tmp_path, monkeypatch):
    root = tmp_path / "set"
    write_streets(root, **SMALL)

    def stop(*_):
        raise OSError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("datasets.synthetic.write._remove", stop)
        with pytest.raises(OSError, match="stopped"):
            write_streets(root, **{**SMALL, "seed": 4})
    assert write_streets(root, **SMALL)  # not taken for the old set either


def test_a_split_of_no_images_has_no_folder(tmp_path):
    write_streets(tmp_path / "set", **{**SMALL, "num_test": 0})
    assert not list((tmp_path / "set").glob("test*"))


def test_a_half_written_set_is_not_taken_for_a_whole_one(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("datasets.synthetic.write._write_image", fail)
    with pytest.raises(OSError, match="disk full"):
        write_streets(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(FileExistsError, match=r"holds files but no streets\.json"):
        write_streets(tmp_path, **SMALL)
    with pytest.raises(FileExistsError, match="not a folder"):
        write_streets(tmp_path / "holiday.jpg", **SMALL)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("flag", "values"),
    [
        ("--num_val", {"num_val": -1}),
        ("--num_train", {"num_train": 0, "num_val": 0, "num_test": 0}),
        ("--frames_per_sequence", {"frames_per_sequence": 0}),
        ("--size", {"height": 8}),
        ("--seed", {"seed": -1}),
        ("--num_workers", {"num_workers": 0}),
    ],
)
def test_a_bad_value_is_named(tmp_path, flag, values):
    with pytest.raises(ValueError, match=flag):
        write_streets(tmp_path / "set", **{**SMALL, **values})
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("size", ["240", "axb", "240x", "-3x5", "8x8"])
def test_the_command_answers_a_bad_size_with_one_line(tmp_path, command, size):
    ended = command("datasets.synthetic.__main__", "--root", tmp_path / "set", f"--size={size}")
    assert ended.code == 1
    assert ended.err.startswith("error: --size") and ended.err.count("\n") == 1


def test_the_command_writes_and_then_finds_the_set(tmp_path, command):
    flags = ("datasets.synthetic.__main__", "--root", tmp_path / "set", "--size", "32x48", "--num_train", 1,
             "--num_val", 0, "--num_test", 0, "--num_workers", 1)  # fmt: skip
    assert "written" in command(*flags).out
    found = command(*flags)
    assert found.code == 0 and "already there" in found.out


def test_a_wrong_flag_of_the_command_is_told_in_one_line_with_the_way_it_is_started():
    words = [sys.executable, "-m", "datasets.synthetic", "--root", "x", "--sise", "32x48"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr == (
        "error: unrecognized arguments: --sise; did you mean --size? "
        "(python -m datasets.synthetic --help explains the flags)\n"
    )


def test_ctrl_c_ends_the_drawing_with_one_word_and_nothing_half_written(tmp_path):
    words = [sys.executable, "-m", "datasets.synthetic", "--root", tmp_path / "set", "--num_workers", "2"]
    drawing = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, bufsize=0, start_new_session=True)
    seen = ""
    while "drew 12 of" not in seen:  # all processes are at work
        seen += drawing.stderr.read(20)
    os.killpg(drawing.pid, signal.SIGINT)  # as a terminal does, to all processes
    rest = drawing.communicate()[1]
    assert drawing.returncode == 130
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())
