"""`python -m video.train`: which clips it finds in a folder, that it learns, and how it ends on bad input."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import video.train
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.run_log import read_metrics
from utils.flags import parse_command_line
from utils.images import read_image, write_image
from video.sdc import PREDICTION, RECONSTRUCTION, SDCNet, displace, load_sdc, sdc_loss
from video.settings import VideoTrainConfig
from video.train import (
    TrainingClips,
    collate_clips,
    find_frame_sequences,
    in_sequences,
    load_clip,
    psnr,
    split_sequences,
)


def texture(size: int, seed: int = 0) -> np.ndarray:
    """Soft blobs [size, size, 3] uint8, which a flow can follow."""
    noise = np.random.default_rng(seed).integers(0, 256, (size // 4, size // 4, 3)).astype(np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def moving_frames(count: int, size: int = 64, step: tuple[int, int] = (3, 1), seed: int = 0) -> list[np.ndarray]:
    """A texture that moves by `step` pixels to the left and up from frame to frame."""
    wall = texture(size + count * max(step), seed)
    return [
        np.ascontiguousarray(wall[i * step[1] : i * step[1] + size, i * step[0] : i * step[0] + size])
        for i in range(count)
    ]


def write_frames(folder: Path, count: int, name: str = "{:03d}.png", **moving) -> Path:
    for number, frame in enumerate(moving_frames(count, **moving)):
        write_image(folder / name.format(number), frame)
    return folder


def names(sequences) -> list[list[str]]:
    return [[frame.name for frame in frames] for frames in sequences]


# --- clips ------------------------------------------------------------------------------------------------------


def test_frames_follow_each_other_by_number_not_by_letter():
    assert names(in_sequences(["f9.png", "f10.png", "f8.png"])) == [["f8.png", "f9.png", "f10.png"]]


def test_one_folder_may_hold_several_sequences_and_a_gap_begins_another():
    cityscapes = [f"aachen_{s:06d}_{f:06d}_leftImg8bit.png" for s in (0, 1) for f in (0, 1, 2)]
    assert names(in_sequences(cityscapes)) == [cityscapes[:3], cityscapes[3:]]
    camvid = [f"0016E5_{f:05d}.jpg" for f in (390, 420, 450, 481, 2400, 2430)]
    assert names(in_sequences(camvid)) == [camvid[:4], camvid[4:]]
    unnumbered = ["b.png", "a.png", "c.png"]
    assert names(in_sequences(unnumbered)) == [["a.png", "b.png", "c.png"]]
    assert names(in_sequences(["0.png"])) == [["0.png"]]


def test_sub_folders_are_sequences_and_other_files_are_left_out(tmp_path):
    write_frames(tmp_path / "b", 3)
    write_frames(tmp_path / "a", 2)
    write_image(tmp_path / "b/.hidden.png", texture(64))
    (tmp_path / "notes.txt").write_text("none")
    assert names(find_frame_sequences(tmp_path)) == [["000.png", "001.png"], ["000.png", "001.png", "002.png"]]


def test_a_video_file_is_one_sequence(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 64))
    for frame in moving_frames(4):
        writer.write(frame[..., ::-1])
    writer.release()
    (frames,) = find_frame_sequences(tmp_path / "drive.avi")
    assert len(frames) == 4
    for number, frame in enumerate(frames):
        differences = [np.abs(frame.astype(int) - wanted).mean() for wanted in moving_frames(4)]
        assert np.argmin(differences) == number


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.floats(0, 1))
def test_no_frame_is_both_trained_on_and_scored_on(lengths, val_share):
    sequences = [[Path(f"{s}/{f}") for f in range(count)] for s, count in enumerate(lengths)]
    try:
        train, val = split_sequences(sequences, val_share)
    except ValueError:
        # A share near 1 leaves nothing to train on.
        assert max(lengths) < 6 or max(lengths) - round(max(lengths) * val_share) < 3
        return
    assert train
    assert val
    assert not {frame for clip in train for frame in clip} & {frame for clip in val for frame in clip}
    assert all(len(clip) == 3 and len({frame.parent for frame in clip}) == 1 for clip in train + val)


def test_the_end_of_each_sequence_is_held_out():
    train, val = split_sequences([[Path(f"{f}") for f in range(10)]], 0.4)
    assert [str(clip[0]) for clip in train] == ["0", "1", "2", "3"]
    assert [str(clip[0]) for clip in val] == ["6", "7"]


def test_flow_and_frames_of_a_crop_agree_however_it_was_mirrored_or_turned_in_time():
    frames = moving_frames(3, size=96)
    clips = TrainingClips([tuple(frames)], RECONSTRUCTION, 80, (0, 0))
    found = set()
    for place in range(16):
        crop, flows = clips[place, 0]
        assert crop.shape == (3, 3, 80, 80)
        first, second = flows[..., 20:-20, 20:-20].flatten(2).median(dim=2).values.round()
        assert torch.equal(first, second)
        found.add(tuple(first.tolist()))
        moved = displace(crop[:2].float(), first.view(1, 2, 1, 1).expand(2, 2, 80, 80))[..., 10:-10, 10:-10]
        torch.testing.assert_close(moved, crop[1:, :, 10:-10, 10:-10].float(), atol=0.01, rtol=0)
    # The later frame shows at x what the earlier one shows at x + 3; mirrored or backwards, at x - 3; both, at x + 3.
    assert found == {(3, 1), (-3, 1), (-3, -1), (3, -1)}
    again, _ = clips[3, 0]
    assert torch.equal(again, clips[3, 0][0])


def test_frames_of_different_sizes_name_both_files(tmp_path):
    write_image(tmp_path / "0.png", texture(64))
    write_image(tmp_path / "1.png", texture(48))
    with pytest.raises(ValueError, match=r"1.png has 48x48 pixels, .*0.png before it 64x64"):
        load_clip((tmp_path / "0.png", tmp_path / "1.png"))


def test_sequences_smaller_than_the_crop_say_how_large_it_may_be():
    samples = [(torch.zeros(3, 3, side, side), torch.zeros(2, 2, side, side)) for side in (64, 40)]
    with pytest.raises(ValueError, match=r"smaller than --crop_size\. Use at most 40"):
        collate_clips(samples)


# --- learning ---------------------------------------------------------------------------------------------------


def test_without_any_flow_the_network_learns_how_a_texture_moves():
    torch.manual_seed(0)
    clips = np.stack([moving_frames(3, seed=seed) for seed in range(6)])
    frames = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float()
    before, after, still = frames[:, 1], frames[:, 2], torch.zeros(4, 2, 2, 64, 64)
    net = SDCNet(width=4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        motion = net(frames[:4], still)
        loss = sdc_loss(displace(before[:4], motion), after[:4], motion)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    with torch.inference_mode():
        motion = net(frames[4:], still[:2])  # textures that it has not seen
        assert psnr(displace(before[4:], motion), after[4:]) > psnr(before[4:], after[4:]) + 2
    assert motion.mean(dim=(0, 2, 3)).tolist() == pytest.approx([3, 1], abs=0.5)


def test_psnr_of_equal_pictures_is_100_and_of_black_for_white_0():
    white = torch.full((1, 3, 2, 2), 255.0)
    assert psnr(white, white) == 100
    assert psnr(white, torch.zeros(1, 3, 2, 2)) == 0
    assert math.isnan(psnr(math.nan * white, white))


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def train(command, tmp_path):
    def run(*arguments):
        folders = ("--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb")
        return command("video.train", "--width", 4, "--batch", 4, "--num_workers", 0, *folders, *arguments)

    return run


@pytest.mark.parametrize(("mode", "num_val"), [(RECONSTRUCTION, 1), (PREDICTION, 1)])
def test_a_run_leaves_checkpoints_scores_and_pictures(train, tmp_path, mode, num_val):
    frames = write_frames(tmp_path / "frames", 14)
    done = train("--frames", frames, "--mode", mode, "--val_share", 0.2, "--max_epoch", 2, "--lr", 1e-3)
    assert done.code == 0, done.err
    folder = tmp_path / "ckpt/sdc"
    scores = [row for row in read_metrics(folder) if row["kind"] == "val"]
    assert [row["epoch"] for row in scores] == [0, 1, 2]
    assert scores[0]["psnr"] == pytest.approx(scores[0]["psnr_of_flow"], abs=0.01)  # where training starts from
    assert scores[-1]["psnr"] > scores[-1]["psnr_of_copying"] + 3
    first = next(row for row in read_metrics(folder) if row["kind"] == "train")
    parts = 0.7 * first["color"] + 0.2 * first["gradient"] + 0.1 * first["smoothness"]
    assert first["loss"] == pytest.approx(parts, rel=1e-4)
    pictures = sorted(path.name for path in (folder / "samples").iterdir())
    assert pictures == [f"epoch00{e}_{n}.png" for e in (0, 1, 2) for n in range(num_val)]
    assert read_image(folder / "samples/epoch002_0.png").shape == (64, 4 * 64 + 3 * 6, 3)
    assert load_sdc(folder / "best.pth", mode=mode).width == 4
    assert load_checkpoint(folder / "best.pth").scores["psnr"] == max(row["psnr"] for row in scores)


def test_a_resumed_run_equals_an_uninterrupted_one(train, tmp_path):
    frames = write_frames(tmp_path / "frames", 10)
    flags = ("--frames", frames, "--lr", 1e-3, "--crop_size", 48)
    assert train(*flags, "--max_epoch", 3, "--exp", "whole").code == 0
    assert train(*flags, "--max_epoch", 1, "--exp", "cut").code == 0
    resumed = train(*flags, "--max_epoch", 3, "--exp", "cut", "--resume")
    assert "continuing after epoch 1" in resumed.out
    whole, cut = (load_checkpoint(tmp_path / f"ckpt/{exp}/last.pth") for exp in ("whole", "cut"))
    assert whole.epoch == cut.epoch == 3
    assert all(torch.equal(value, cut.state_dict[key]) for key, value in whole.state_dict.items())


def test_a_scoring_that_fails_costs_no_epoch(train, tmp_path, monkeypatch):
    flags = ("--frames", write_frames(tmp_path / "frames", 6), "--max_epoch", 1)
    scored = video.train.score_sdc
    with monkeypatch.context() as patch:

        def fail_at_the_end(training):
            if training.progress.epoch:
                raise OSError("a broken picture")
            return scored(training)

        patch.setattr(video.train, "score_sdc", fail_at_the_end)
        assert "a broken picture" in train(*flags).err
    folder = tmp_path / "ckpt/sdc"
    trained = load_checkpoint(folder / "last.pth")
    assert trained.epoch == 1
    assert train(*flags, "--resume").code == 0
    last = load_checkpoint(folder / "last.pth")
    assert [row["epoch"] for row in read_metrics(folder) if row["kind"] == "val"] == [0, 1]
    assert last.scores["psnr"] == read_metrics(folder)[-1]["psnr"]
    assert all(torch.equal(values, trained.state_dict[key]) for key, values in last.state_dict.items())


def test_going_on_reads_the_checkpoint_once_and_tells_what_is_asked_for_that_was_not(train, tmp_path, monkeypatch):
    flags = ("--frames", write_frames(tmp_path / "frames", 6))
    assert train(*flags, "--max_epoch", 1).code == 0
    read = []

    def counted(path):
        read.append(path)
        return load_checkpoint(path)

    for module in ("training.checkpoints", "video.sdc"):
        monkeypatch.setattr(f"{module}.load_checkpoint", counted)
    last = tmp_path / "ckpt/sdc/last.pth"
    resumed = train(*flags, "--max_epoch", 2, "--weight_decay", 0.5, "--width", 8, "--resume")
    assert f"continuing after epoch 1 of {last}" in resumed.out
    assert "settings changed since: --max_epoch 2 (was 1), --weight_decay 0.5 (was 0.0)\n" in resumed.out
    assert read == [last]
    (group,) = load_checkpoint(last).training["optimizer"]["param_groups"]
    assert group["weight_decay"] == 0.5


def test_a_run_tells_that_its_folder_is_taken_or_holds_nothing_to_go_on_from(train, tmp_path):
    flags = ("--frames", write_frames(tmp_path / "frames", 6), "--test_mode")
    folder = tmp_path / "ckpt/sdc_test_mode"
    assert f"{folder} has no last.pth to resume from; starting from the beginning" in train(*flags, "--resume").out
    assert f"{folder} already holds a run; writing to {folder}-2" in train(*flags).out


def test_what_cannot_be_gone_on_with_is_refused_and_changes_nothing(train, tmp_path):
    flags = ("--frames", write_frames(tmp_path / "frames", 8), "--max_epoch", 1)
    assert train(*flags).code == 0
    folder = tmp_path / "ckpt/sdc"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = train(*flags, "--resume", "--mode", "prediction")
    assert "last.pth holds SDCNet_reconstruction; expected SDCNet_prediction" in other.err
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    (folder / "last.pth").write_bytes(before["best.pth"])
    assert "last.pth contains no optimizer state; leave out --resume" in train(*flags, "--resume").err
    (folder / "last.pth").write_bytes(before["last.pth"][:1000])
    (folder / "previous.pth").unlink()
    assert "last.pth: " in train(*flags, "--resume").err
    assert (folder / "config.json").read_bytes() == before["config.json"]


def test_ctrl_c_says_what_is_kept(tmp_path, monkeypatch, capsys):
    words = (
        "--frames", write_frames(tmp_path / "frames", 6), "--width", 4, "--max_epoch", 2, "--num_workers", 0,
        "--device", "cpu", "--ckpt", tmp_path / "ckpt", "--tb_path", tmp_path / "tb",
    )  # fmt: skip
    config = parse_command_line(VideoTrainConfig, [str(word) for word in words])
    trained = video.train.train_sdc_epoch

    def train_then_stop(training):
        if training.progress.epoch == 1:
            raise KeyboardInterrupt
        return trained(training)

    monkeypatch.setattr(video.train, "train_sdc_epoch", train_then_stop)
    with pytest.raises(KeyboardInterrupt):
        video.train.main(config)
    last = tmp_path / "ckpt/sdc/last.pth"
    assert f"stopped. --resume continues from {last}." in capsys.readouterr().out


def test_a_network_that_has_become_nan_is_told_and_not_kept(train, tmp_path):
    frames = write_frames(tmp_path / "frames", 8)
    done = train("--frames", frames, "--lr", 1e9, "--max_epoch", 4)
    assert done.code == 1
    assert "NaN or infinite" in done.err
    assert load_checkpoint(tmp_path / "ckpt/sdc/best.pth").epoch == 0
    last = load_checkpoint(tmp_path / "ckpt/sdc/last.pth")
    assert all(torch.isfinite(values).all() for values in last.state_dict.values())


def test_a_run_may_start_from_another_ones_weights_and_takes_their_width(train, tmp_path):
    frames = write_frames(tmp_path / "frames", 6)
    assert train("--frames", frames, "--max_epoch", 1, "--exp", "first").code == 0
    snapshot = tmp_path / "ckpt/first/best.pth"
    again = train("--frames", frames, "--max_epoch", 1, "--snapshot", snapshot, "--width", 32)
    assert "width 4 " in again.out
    other = train("--frames", frames, "--mode", "prediction", "--snapshot", snapshot)
    assert other.code == 1
    assert "best.pth holds SDCNet_reconstruction; expected SDCNet_prediction" in other.err


def test_bad_input_ends_with_one_line_that_says_what_to_mend(train, tmp_path, monkeypatch):
    two = write_frames(tmp_path / "two", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.mp4").write_text("no film")
    damaged = write_frames(tmp_path / "damaged", 6)
    (damaged / "002.png").write_bytes(b"\x89PNG")
    for frames, told in (
        (tmp_path / "none", f"no images in {tmp_path / 'none'} or its subfolders"),
        (tmp_path / "empty", f"no images in {tmp_path / 'empty'} or its subfolders"),
        (tmp_path / "film.mp4", "film.mp4: not a video, or damaged"),
        (two, "at least 6 consecutive frames are needed"),
        (damaged, "002.png"),
    ):
        ended = train("--frames", frames)
        assert ended.code == 1
        assert ended.err.count("error:") == 1
        assert told in ended.err
        assert "Traceback" not in ended.err
    assert not (tmp_path / "ckpt/sdc-2").exists(), "a run that could not begin left a folder"
    assert train("--frames", two, "--width", 6).err.startswith("error: ")
    assert "8x8 pixels are too small" in train("--frames", write_frames(tmp_path / "good", 6), "--crop_size", 8).err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "start it without torchrun" in train("--frames", damaged).err


@pytest.mark.parametrize(("mode", "told"), [("reconstruction", "propagate.py --flow sdc"), ("prediction", "nothing")])
def test_a_motion_network_is_told_from_one_that_segments(command, tmp_path, mode, told):
    save_checkpoint(tmp_path / "sdc.pth", Checkpoint(state_dict=SDCNet(mode, 4).state_dict(), arch=f"SDCNet_{mode}"))
    photo = write_frames(tmp_path / "frames", 1) / "000.png"
    ended = command("demo", "--demo-image", photo, "--snapshot", tmp_path / "sdc.pth")
    assert ended.code == 1
    assert f"sdc.pth holds SDCNet_{mode}, a motion network of video.train" in ended.err
    assert told in ended.err


def test_help_names_no_flag_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        parse_command_line(VideoTrainConfig, ["--help"])
    told = capsys.readouterr().out
    assert "--max_minutes" in told
    assert "--rlx_off_epoch" not in told
    assert "--max_cu_epoch" not in told
