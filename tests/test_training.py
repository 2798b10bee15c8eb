"""Schedules, metrics, and whole training runs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import train as train_command
from config import OptimConfig, TrainConfig
from loss.build import build_loss
from loss.relaxation import RelaxedCrossEntropy
from network.build import build_network
from utils.averaging import WeightAverage
from utils.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from utils.command import one_line
from utils.flags import parse_command_line
from utils.images import read_label_ids, write_image
from utils.metrics import ConfusionMatrix, scores
from utils.optim import build_optimizer, build_schedule
from utils.progress import Clock

ROOT = Path(__file__).parent.parent


# Optimizer and schedule


def test_adam_wins_over_sgd_and_no_optimizer_at_all_is_an_error():
    net = torch.nn.Linear(2, 2)
    assert isinstance(build_optimizer(OptimConfig(), net), torch.optim.SGD)
    for sgd in (True, False):
        assert isinstance(build_optimizer(OptimConfig(sgd=sgd, adam=True), net), torch.optim.AdamW)
    with pytest.raises(ValueError, match="--no-sgd leaves no optimizer; name the other one, --adam"):
        build_optimizer(OptimConfig(sgd=False), net)


def test_poly_starts_at_lr_and_the_last_step_is_not_at_zero():
    lr_at = build_schedule(OptimConfig(lr=0.1), max_epoch=10, rlx_off_epoch=-1)
    assert lr_at(0.0) == 0.1
    assert lr_at(5.0) == pytest.approx(0.05)
    assert lr_at(9.9) > 0


def test_scl_poly_restarts_exactly_where_the_relaxation_ends():
    config = OptimConfig(lr=0.1, lr_schedule="scl-poly", rescale=0.5, repoly=2.0)
    lr_at = build_schedule(config, max_epoch=20, rlx_off_epoch=10)
    assert lr_at(9.999) == pytest.approx(0.05, rel=1e-3)
    assert lr_at(10.0) == pytest.approx(0.05)
    assert lr_at(15.0) == pytest.approx(0.05 * 0.25)


def test_scl_poly_without_its_epoch_is_an_error():
    with pytest.raises(ValueError, match="--rlx_off_epoch"):
        build_schedule(OptimConfig(lr_schedule="scl-poly"), max_epoch=20, rlx_off_epoch=-1)


def test_warming_up_ends_where_the_schedule_takes_over():
    lr_at = build_schedule(OptimConfig(lr=0.1, warmup_epochs=2), max_epoch=10, rlx_off_epoch=-1)
    assert 0 < lr_at(0.0) < 0.001
    assert lr_at(1.0) == pytest.approx(0.05, rel=0.01)
    assert lr_at(2.0) == pytest.approx(0.08)


def test_with_max_minutes_the_clock_drives_the_schedule(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("utils.progress.time.monotonic", lambda: now[0])
    clock = Clock(max_minutes=10, max_epoch=100, spent=5)
    assert (clock.epoch(0), clock.epoch(70), clock.is_up()) == (50, 70, False)
    now[0] += 2.5 * 60
    assert clock.epoch(0) == 75
    now[0] += 2.5 * 60
    assert (clock.epoch(0), clock.minutes(), clock.is_up()) == (100, 10, True)
    assert (Clock(0, 100, 5).epoch(3.5), Clock(0, 100, 5).is_up()) == (3.5, False)


# Metrics


def test_precision_and_recall_are_not_swapped():
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([0, 0, 0, 0, 1, 255]), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert confusion.matrix.tolist() == [[3, 1], [0, 1]]
    result = scores(confusion.matrix, ["a", "b"])
    assert result.precision == (1.0, 0.5)
    assert result.recall == (0.75, 1.0)
    assert result.iou == (0.75, 0.5)
    assert result.mean_iou == 0.625
    assert result.pixel_accuracy == 0.8


def test_a_class_absent_from_the_truth_is_named_and_left_out_of_the_mean():
    confusion = ConfusionMatrix(3, 255)
    confusion.update(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 2, 1, 1]))
    result = scores(confusion.matrix, ["a", "b", "c"])
    assert result.absent == ("c",)
    assert math.isnan(result.iou[2])
    assert result.mean_iou == pytest.approx((0.5 + 1.0) / 2)
    assert "c" in result.table().splitlines()[-1]
    json.dumps(result.as_dict(), allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.integers(0, 2)), min_size=1, max_size=60))
@settings(deadline=None)
def test_the_matrix_counts_every_labelled_pixel_once(pixels):
    labels, guesses = (torch.tensor(column) for column in zip(*pixels, strict=True))
    confusion = ConfusionMatrix(3, 255)
    confusion.update(labels, guesses)
    assert int(confusion.matrix.sum()) == sum(label != 255 for label, _ in pixels)
    assert int(confusion.matrix.diagonal().sum()) == sum(label == guess for label, guess in pixels)


# Runs


@pytest.fixture
def tiny_set(tmp_path):
    """Pictures whose colour is their label: learnt in a few steps."""
    generator = np.random.default_rng(0)
    root = tmp_path / "data"
    colors = generator.integers(0, 255, (11, 3), dtype=np.uint8)
    for split, count in (("train", 8), ("val", 2), ("test", 1)):
        for number in range(count):
            ids = np.kron(generator.integers(0, 11, (2, 3)), np.ones((32, 32))).astype(np.uint8)
            write_image(root / split / f"{number}.png", colors[ids])
            write_image(root / f"{split}annot" / f"{number}.png", ids)
    return root


def arguments(root, folder, *more):
    return [
        "--dataset", "camvid", "--dataset_dir", str(root), "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", "64",
        "--bs_mult", "4", "--adam", "--lr", "0.003", "--ckpt", str(folder / "ckpt"), "--tb_path", str(folder / "tb"),
        "--index_dir", str(folder / "index"), "--num_workers", "0", "--device", "cpu", "--no-bf16", *more,
    ]  # fmt: skip


def run(root, folder, *more):
    return train_command.main(parse_command_line(TrainConfig, arguments(root, folder, *more)))


def metrics(folder, kind, name="default"):
    lines = (folder / "ckpt" / name / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def weights(folder, name="default"):
    return load_checkpoint(folder / "ckpt" / name / "last.pth").state_dict


def test_a_run_leaves_everything_it_promises(tiny_set, tmp_path, capsys):
    assert run(tiny_set, tmp_path, "--max_epoch", "2", "--dump_augmentation_images") == 0
    folder = tmp_path / "ckpt" / "default"
    expected = {"config.json", "metrics.jsonl", "curves.png", "best.pth", "last.pth", "samples", "augmentation"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert (folder / "tensorboard").resolve() == (tmp_path / "tb" / "default").resolve()
    assert "Bicyclist" in capsys.readouterr().out
    assert len(metrics(tmp_path, "val")) == 2
    assert metrics(tmp_path, "train")[0]["lr"] == 0.003


def test_training_learns(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "10", "--repeat", "2", "--val_interval", "10", "--color_aug", "0")
    losses = [row["loss"] for row in metrics(tmp_path, "train")]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("flags", [(), ("--ema", "0.9")], ids=" ".join)
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_set, tmp_path, flags):
    run(tiny_set, tmp_path / "whole", "--max_epoch", "3", *flags)
    with pytest.MonkeyPatch.context() as patch:
        saved = train_command.save

        def save_then_stop(training, state, name):
            saved(training, state, name)
            if name == "last.pth" and state.epoch == 2:
                raise KeyboardInterrupt

        patch.setattr(train_command, "save", save_then_stop)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_set, tmp_path / "cut", "--max_epoch", "3", *flags)
    run(tiny_set, tmp_path / "cut", "--max_epoch", "3", "--resume", *flags)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    assert [r["epoch"] for r in metrics(tmp_path / "cut", "val")] == [1, 2, 3]


def test_a_validation_that_fails_costs_no_epoch(tiny_set, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "validate", lambda *_: (_ for _ in ()).throw(OSError("a broken picture")))
        with pytest.raises(OSError, match="a broken picture"):
            run(tiny_set, tmp_path, "--max_epoch", "1")
    trained = weights(tmp_path)
    run(tiny_set, tmp_path, "--max_epoch", "1", "--resume")
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [1]
    assert (tmp_path / "ckpt/default/best.pth").is_file()
    assert all(torch.equal(values, trained[key]) for key, values in weights(tmp_path).items())


def test_a_run_that_died_is_logged_once_when_it_goes_on(tiny_set, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(train_command, "save", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            run(tiny_set, tmp_path, "--max_epoch", "2")
    with (tmp_path / "ckpt/default/metrics.jsonl").open("a") as file:
        file.write('{"kind": "tra')  # as a full disk leaves it
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")
    assert "has no last.pth to go on from" in capsys.readouterr().out
    run(tiny_set, tmp_path, "--max_epoch", "3", "--resume")
    steps = [row["step"] for row in metrics(tmp_path, "train")]
    assert steps == sorted(set(steps))
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [1, 2, 3]


def test_what_does_not_fit_the_run_is_refused_and_changes_nothing(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    folder = tmp_path / "ckpt/default"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for flags, told in (
        (("--arch", "DeepR18V3PlusD_m1"), "another architecture"),
        (("--freeze_trunk",), "its run had --freeze_trunk False, not True"),
        (("--amsgrad",), "its run had --amsgrad False, not True"),
    ):
        with pytest.raises(ValueError, match=told):
            run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", *flags)
    (tiny_set / "streets.json").write_text("{}")
    with pytest.raises(ValueError, match="is of a run on the 11 classes of camvid"):
        run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", "--dataset", "streets")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_changed_settings_are_told_and_hold_from_then_on(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", "--weight_decay", "0.5")
    assert "--max_epoch 2 (was 1), --weight_decay 0.5 (was 0.0001)" in capsys.readouterr().out
    groups = load_checkpoint(tmp_path / "ckpt/default/last.pth").training["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


def test_weights_that_became_nan_do_not_replace_those_of_the_epoch_before(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    with pytest.raises(ValueError, match=r"not numbers any more|not a number any more"):
        run(tiny_set, tmp_path, "--max_epoch", "4", "--resume", "--lr", "1e30")
    assert all(torch.isfinite(values).all() for values in weights(tmp_path).values())


def test_wrong_flags_are_told_before_anything_is_prepared(tiny_set, tmp_path):
    for flags, told in (
        (("--arch", "Typo"), "'Typo' is unknown"),
        (("--snapshot", str(tmp_path / "missing.pth")), "missing.pth"),
        (("--lr_schedule", "scl-poly"), "--rlx_off_epoch"),
        (("--scale_min", "3"), "--scale_min"),
        (("--jointwtborder", "--img_wt_loss"), "exclude each other"),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            run(tiny_set, tmp_path, "--cache_dir", str(tmp_path / "cache"), *flags)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "index").exists()


def test_the_average_of_the_weights_lags_behind_them(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "2", "--ema", "0.5")
    kept = load_checkpoint(tmp_path / "ckpt/default/last.pth")
    assert kept.training["num_updates"] == 4
    key = "final.6.weight"
    assert not torch.equal(kept.state_dict[key], kept.training["weights"][key])


def test_the_average_is_a_running_mean_that_forgets_the_start_first():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    average = WeightAverage(net, decay=0.5)
    torch.nn.init.constant_(net.weight, 10.0)
    average.update(net)  # decay 1/10
    assert average.net.weight.item() == pytest.approx(9.0)
    average.num_updates = 1000
    average.update(net)
    assert average.net.weight.item() == pytest.approx(9.5)


def test_a_second_run_does_not_overwrite_the_first(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    run(tiny_set, tmp_path, "--max_epoch", "1")
    assert "--exp default-2 --resume goes on" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"default", "default-2"}
    assert {path.name for path in (tmp_path / "tb").iterdir()} == {"default", "default-2"}


def test_test_mode_leaves_the_name_of_the_run_to_the_run(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--test_mode")
    run(tiny_set, tmp_path, "--max_epoch", "1")
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"default", "default_test_mode"}


def test_time_that_runs_out_between_two_epochs_still_ends_with_a_validation(tiny_set, tmp_path, monkeypatch):
    saved, is_up = train_command.save, []
    monkeypatch.setattr(train_command, "save", lambda *args: (saved(*args), is_up.append(True)))
    monkeypatch.setattr(train_command.Clock, "is_up", lambda clock: bool(is_up))
    run(tiny_set, tmp_path, "--max_epoch", "5", "--val_interval", "5")
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [2]
    assert (tmp_path / "ckpt" / "default" / "best.pth").is_file()


def test_a_step_of_several_batches_is_logged_once(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "2", "--bs_mult", "2", "--accumulate", "2")
    steps = [row["step"] for row in metrics(tmp_path, "train")]
    assert len(steps) == len(set(steps)) == 4


def test_the_optimizer_is_restored_from_the_snapshot_also_where_resume_finds_no_run_yet(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--exp", "first")
    first = str(tmp_path / "ckpt" / "first" / "last.pth")
    for exp, flags in (("second", ()), ("third", ("--resume",))):
        run(
            tiny_set, tmp_path, "--max_epoch", "2", "--exp", exp, "--snapshot", first, "--restore_optimizer", *flags
        )  # fmt: skip
        assert f"going on after epoch 1 of {first}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--restore_optimizer needs --snapshot"):
        run(tiny_set, tmp_path, "--restore_optimizer")


def test_training_on_what_is_validated_is_told(tiny_set, tmp_path, capsys):
    for path in [*tiny_set.glob("val/*"), *tiny_set.glob("valannot/*")]:
        path.rename(path.with_name(f"val{path.name}"))  # one name is one picture
    for split, told in (("train", False), ("trainval", True)):
        run(tiny_set, tmp_path, "--test_mode", "--train_split", split)
        assert ("holds validation images" in capsys.readouterr().out) == told


def test_gradient_accumulation_takes_one_step_for_several_batches(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--bs_mult", "2", "--accumulate", "2")
    optimizer = load_checkpoint(tmp_path / "ckpt/default/last.pth").training["optimizer"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {2}


@pytest.mark.parametrize("flags", [
    ("--bs_mult", "1"), ("--img_wt_loss",), ("--jointwtborder", "--strict_bdr_cls", "2,6"), ("--bf16",),
    ("--freeze_trunk",), ("--bblur", "--pre_size", "48"),
    ("--jointwtborder", "--lr_schedule", "scl-poly", "--rlx_off_epoch", "1", "--max_epoch", "2"),
], ids=" ".join)  # fmt: skip
def test_a_flag_combination_trains(tiny_set, tmp_path, flags):
    assert run(tiny_set, tmp_path, "--test_mode", *flags) == 0
    assert all(math.isfinite(row["loss"]) for row in metrics(tmp_path, "train", "default_test_mode"))


def test_the_relaxation_flags_reach_the_loss_whichever_way_workers_are_started(tiny_set, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(train_command, "build_loss", lambda *args: built.append(build_loss(*args)) or built[-1])
    flags = ("--max_epoch", "1", "--jointwtborder", "--rlx_border", "2", "--strict_bdr_cls", "1,3", "--wt_bound", "0.5")
    run(tiny_set, tmp_path / "none", *flags)
    usual = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        run(tiny_set, tmp_path / "spawn", *flags, "--num_workers", "1")
    finally:
        torch.multiprocessing.set_start_method(usual, force=True)
    for criterion in built:
        assert (criterion.border, criterion.strict_classes, criterion.upper_bound) == (2, (1, 3), 0.5)
    losses = [[row["loss"] for row in metrics(tmp_path / folder, "train")] for folder in ("none", "spawn")]
    assert losses[0] == losses[1]
    run(tiny_set, tmp_path / "other", *flags, "--rlx_border", "1")
    assert metrics(tmp_path / "other", "train")[0]["loss"] != losses[0][0]


def test_the_relaxation_ends_with_its_epoch(tiny_set, tmp_path, monkeypatch):
    told = []

    class Recording(RelaxedCrossEntropy):
        def forward(self, logits, labels, *, relax=True):
            told.append(relax)
            return super().forward(logits, labels, relax=relax)

    monkeypatch.setattr(train_command, "build_loss", lambda *_: Recording(11))
    run(tiny_set, tmp_path, "--max_epoch", "3", "--jointwtborder", "--rlx_off_epoch", "1", "--val_interval", "3")
    assert told == [True, True, False, False, False, False]  # two batches an epoch


def test_rarer_classes_weigh_more_in_the_loss_on_request(tiny_set, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(train_command, "build_loss", lambda *args: built.append(build_loss(*args)) or built[-1])
    run(tiny_set, tmp_path, "--test_mode", "--class_balance", "0.5")
    pixels = np.bincount(
        np.concatenate([read_label_ids(path).ravel() for path in (tiny_set / "trainannot").iterdir()]), minlength=11
    )
    expected = [(np.median(pixels[pixels > 0]) / count) ** 0.5 if count else 1.0 for count in pixels]
    assert built[-1].weights[:11].tolist() == pytest.approx(expected, rel=1e-5)


def test_gradients_are_clipped_on_request(tiny_set, tmp_path):
    for exp, flags in (("free", ()), ("clipped", ("--clip_norm", "1e-9"))):
        with_adam = arguments(tiny_set, tmp_path, "--max_epoch", "1", "--exp", exp, "--weight_decay", "0", *flags)
        words = [word for word in with_adam if word != "--adam"]
        assert train_command.main(parse_command_line(TrainConfig, words)) == 0
    torch.manual_seed(0)
    start = build_network("DeepMNV3V3PlusD_m1", 11).state_dict()["final.6.weight"]
    free, clipped = ((weights(tmp_path, exp)["final.6.weight"] - start).abs().max() for exp in ("free", "clipped"))
    assert clipped < 1e-7 < free


def test_a_frozen_trunk_does_not_change(tiny_set, tmp_path):
    torch.manual_seed(0)
    before = build_network("DeepMNV3V3PlusD_m1", 11).state_dict()
    run(tiny_set, tmp_path, "--max_epoch", "1", "--freeze_trunk")
    after = weights(tmp_path)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert "features" not in changed
    assert "final" in changed


def test_a_network_for_other_classes_lends_its_weights(tiny_set, tmp_path):
    save_checkpoint(tmp_path / "city.pth", Checkpoint(state_dict=build_network("DeepMNV3V3PlusD_m1", 19).state_dict()))
    assert run(tiny_set, tmp_path, "--test_mode", "--snapshot", str(tmp_path / "city.pth")) == 0


def test_a_wrong_folder_leaves_no_run_behind(tmp_path):
    with pytest.raises(FileNotFoundError, match="--dataset_dir"):
        run(tmp_path / "nowhere", tmp_path)
    assert not (tmp_path / "ckpt").exists()


def test_two_processes_train_and_score_every_validation_image_with_the_network_they_save(tiny_set, tmp_path, command):
    together = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py",
        *arguments(tiny_set, tmp_path, "--max_epoch", "1", "--bs_mult", "2", "--accumulate", "2", "--syncbn"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(together, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2 process(es)" in result.stdout
    assert "plain batch norm" in result.stdout
    (told,) = metrics(tmp_path, "val")
    ended = command(
        "eval", "--snapshot", tmp_path / "ckpt/default/last.pth", "--dataset_dir", tiny_set,
        "--inference_mode", "pooling", "--single_scale", "--no_flip", "--device", "cpu",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    again = json.loads((tmp_path / "ckpt/default/eval/camvid_val_last/metrics.json").read_text())
    assert told["mean_iou"] == pytest.approx(again["mean_iou"], abs=1e-3)  # it folds layers, so a pixel may differ


@pytest.mark.parametrize("num_workers", ["0", "1"])
def test_a_bad_label_file_in_training_is_one_line_whoever_read_it(tiny_set, tmp_path, num_workers):
    for path in (tiny_set / "trainannot").iterdir():
        write_image(path, np.full((64, 96), 200, np.uint8))
    with pytest.raises(ValueError, match="label values 200") as caught:
        run(tiny_set, tmp_path, "--class_uniform_pct", "0", "--num_workers", num_workers)
    message = one_line(caught.value)
    assert "trainannot" in message
    assert "label values 200 are not among camvid's" in message
    assert "Traceback" not in message


def test_a_wrong_flag_is_one_line(capsys):
    with pytest.raises(SystemExit):
        parse_command_line(TrainConfig, ["--crop_sise", "3"])
    assert capsys.readouterr().err.count("\n") == 1
