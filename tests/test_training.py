"""Whole training runs."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import train as train_command
from config import TrainConfig
from datasets.specs.registry import dataset_spec
from inference import load_model
from loss import build_loss, cross_entropy
from network.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from network.deepv3 import build_network
from tests.conftest import ROOT
from tests.tiny import arguments, metrics, run, weights
from utils.command import one_line
from utils.flags import parse_command_line
from utils.images import read_label_ids, write_image


def test_a_run_leaves_everything_it_promises(tiny_set, tmp_path, capsys):
    assert run(tiny_set, tmp_path, "--max_epoch", "2", "--dump_augmentation_images") == 0
    folder = tmp_path / "ckpt" / "default"
    expected = {"config.json", "metrics.jsonl", "curves.png", "best.pth", "last.pth", "samples", "augmentation"}
    assert expected <= {path.name for path in folder.iterdir()}
    assert (folder / "tensorboard").resolve() == (tmp_path / "tb" / "default").resolve()
    assert "Bicyclist" in capsys.readouterr().out
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0, 1, 2, 3]
    assert [(row["epoch"], row["step"]) for row in metrics(tmp_path, "val")] == [(1, 2), (2, 4)]  # steps, for both
    assert metrics(tmp_path, "train")[0]["lr"] == 0.003


def test_the_command_that_is_told_gives_the_score_of_the_training(tiny_set, tmp_path, capsys, command):
    run(tiny_set, tmp_path, "--max_epoch", "2", "--val_interval", "2")
    told = capsys.readouterr().out
    words = [*shlex.split(told.partition("python eval.py ")[2]), "--device", "cpu"]
    assert command("eval", *words).code == 0
    scores = json.loads((tmp_path / "ckpt/default/eval/camvid_val/metrics.json").read_text())
    best = float(re.search(r"best mIoU (\S+):", told)[1])
    assert 100 * scores["mean_iou"] == pytest.approx(best, abs=0.1)


def test_training_learns(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "10", "--repeat", "2", "--val_interval", "10", "--color_aug", "0")
    losses = [row["loss"] for row in metrics(tmp_path, "train")]
    assert losses[-1] < 0.7 * losses[0]


def test_wrong_flags_are_told_before_anything_is_prepared(tiny_set, tmp_path, monkeypatch):
    damaged, light = tmp_path / "damaged.pth", str(tmp_path / "light.pth")
    damaged.write_bytes(b"PK")
    classes = dataset_spec("camvid").classes
    kept = Checkpoint(
        state_dict=build_network("DeepMNV3V3PlusD_m1", 11).state_dict(), dataset="camvid", classes=classes, epoch=1
    )
    save_checkpoint(Path(light), kept)
    flags_then = {"optim": {"adam": False, "amsgrad": False}, "model": {"freeze_trunk": False}}
    of_sgd = replace(kept, config=flags_then, training={"optimizer": {}})
    save_checkpoint(tmp_path / "ckpt/of_sgd/last.pth", of_sgd)
    save_checkpoint(tmp_path / "ckpt/of_streets/last.pth", replace(of_sgd, dataset="streets"))
    save_checkpoint(tmp_path / "ckpt/of_weights/last.pth", kept)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    for flags, told in (
        (("--arch", "Typo"), "'Typo' is unknown"),
        (("--snapshot", str(tmp_path / "missing.pth")), "missing.pth"),
        (("--lr_schedule", "scl-poly"), "--rlx_off_epoch"),
        (("--scale_min", "3"), "--scale_min"),
        (("--jointwtborder", "--img_wt_loss"), "exclude each other"),
        (("--class_balance", "1", "--img_wt_loss"), "--img_wt_loss and --class_balance exclude each other"),
        (("--rlx_off_epoch", "5"), "--rlx_off_epoch needs one of --relax"),
        (("--fp16",), "--fp16 needs a CUDA device"),
        (("--no-sgd",), "--no-sgd leaves no optimizer"),
        (("--trunk_weights", str(damaged)), "damaged.pth: "),
        (("--snapshot", str(damaged)), "damaged.pth: "),
        (("--compile",), r"--compile on a CPU needs a C\+\+ compiler"),
        (("--restore_optimizer",), "--restore_optimizer needs --snapshot"),
        (("--restore_optimizer", "--snapshot", light), "contains no optimizer state; leave out --restore_optimizer"),
        (("--resume", "--exp", "of_weights"), "contains no optimizer state; leave out --resume"),
        (("--resume", "--exp", "of_streets"), "its run had --dataset streets, not camvid"),
        (("--resume", "--exp", "of_sgd", "--adam"), "its run had --adam off, not on"),
    ):
        words = [word for word in arguments(tiny_set, tmp_path) if word != "--adam"]
        with pytest.raises((ValueError, OSError), match=told):
            train_command.main(
                parse_command_line(TrainConfig, [*words, "--cache_dir", str(tmp_path / "cache"), *flags])
            )
    assert sorted(tmp_path.rglob("*")) == before


def test_the_architecture_of_a_snapshot_is_told(tiny_set, tmp_path, light_checkpoint):
    with pytest.raises(ValueError, match="is a DeepMNV3V3PlusD_m1, not a DeepR18V3PlusD_m1; give it as --arch"):
        run(tiny_set, tmp_path, "--snapshot", str(light_checkpoint), "--arch", "DeepR18V3PlusD_m1")


def test_the_average_of_the_weights_lags_behind_them(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "2", "--ema", "0.5")
    kept = load_checkpoint(tmp_path / "ckpt/default/last.pth")
    assert kept.training["num_updates"] == 4
    key = "final.6.weight"
    assert not torch.equal(kept.state_dict[key], kept.training["weights"][key])


def test_time_that_runs_out_between_two_epochs_still_ends_with_a_validation(tiny_set, tmp_path, monkeypatch):
    saved, is_up = train_command.save, []
    monkeypatch.setattr(train_command, "save", lambda *args: (saved(*args), is_up.append(True)))
    monkeypatch.setattr("training.loop.Progress.time_is_up", lambda progress: bool(is_up))
    run(tiny_set, tmp_path, "--max_epoch", "5", "--val_interval", "5")
    assert [(row["epoch"], row["step"]) for row in metrics(tmp_path, "val")] == [(2, 3)]
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0, 1, 2]
    assert (tmp_path / "ckpt" / "default" / "best.pth").is_file()


def test_time_that_runs_out_during_a_validation_starts_no_further_epoch(tiny_set, tmp_path, monkeypatch):
    scored, is_up = train_command.score, []
    monkeypatch.setattr(train_command, "score", lambda *args: (is_up.append(True), scored(*args))[1])
    monkeypatch.setattr("training.loop.Progress.time_is_up", lambda progress: bool(is_up))
    run(tiny_set, tmp_path, "--max_epoch", "5")
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [1]


def test_an_epoch_that_began_in_time_makes_a_step(tiny_set, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("training.loop.Progress.time_is_up", lambda _: len(asked) > 0 or bool(asked.append(True)))
    run(tiny_set, tmp_path, "--max_epoch", "5")
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0]
    assert [row["step"] for row in metrics(tmp_path, "val")] == [1]


def test_validation_labels_without_a_class_give_no_score_and_no_nan(tiny_set, tmp_path, capsys):
    for path in (tiny_set / "valannot").iterdir():
        write_image(path, np.full((64, 96), 11, np.uint8))
    run(tiny_set, tmp_path, "--max_epoch", "1")
    assert "no pixel of the validation labels has a class: no score and no best.pth" in capsys.readouterr().out
    folder = tmp_path / "ckpt/default"
    assert {"last.pth", "curves.png"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "best.pth").exists()
    assert metrics(tmp_path, "val")[0]["mean_iou"] is None
    assert "NaN" not in (folder / "metrics.jsonl").read_text()


def test_a_step_of_several_batches_is_logged_once(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "2", "--bs_mult", "2", "--accumulate", "2")
    steps = [row["step"] for row in metrics(tmp_path, "train")]
    assert len(steps) == len(set(steps)) == 4


def test_training_on_what_is_validated_is_told(tiny_set, tmp_path, capsys):
    for path in [*tiny_set.glob("val/*"), *tiny_set.glob("valannot/*")]:
        path.rename(path.with_name(f"val{path.name}"))  # one name is one picture
    for split, told in (("train", False), ("trainval", True)):
        run(tiny_set, tmp_path, "--test_mode", "--train_split", split)
        assert ("includes validation images" in capsys.readouterr().out) == told


def test_gradient_accumulation_takes_one_step_for_several_batches(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--bs_mult", "2", "--accumulate", "2")
    optimizer = load_checkpoint(tmp_path / "ckpt/default/last.pth").training["optimizer"]
    assert {int(state["step"]) for state in optimizer["state"].values()} == {2}


@pytest.mark.parametrize("flags", [
    ("--bs_mult", "1"), ("--img_wt_loss",), ("--jointwtborder", "--strict_bdr_cls", "2,6"), ("--bf16",),
    ("--checkpoint_activations", "--ema", "0.9", "--layer_decay", "0.9"),
    ("--freeze_trunk",), ("--bblur", "--pre_size", "48"), ("--relax", "--rlx_off_epoch", "1", "--max_epoch", "2"),
    ("--jointwtborder", "--lr_schedule", "scl-poly", "--rlx_off_epoch", "1", "--max_epoch", "2"),
], ids=" ".join)  # fmt: skip
def test_a_flag_combination_trains(tiny_set, tmp_path, flags):
    assert run(tiny_set, tmp_path, "--test_mode", *flags) == 0
    assert all(math.isfinite(row["loss"]) for row in metrics(tmp_path, "train", "default_test_mode"))


def test_the_relaxation_ends_with_its_epoch(tiny_set, tmp_path, monkeypatch):
    told = []

    def recording(is_relaxed):
        return lambda *given: told.append(is_relaxed) or cross_entropy(*given)

    monkeypatch.setattr("training.setup.build_loss", lambda *_: (recording(True), recording(False)))
    run(tiny_set, tmp_path, "--max_epoch", "3", "--jointwtborder", "--rlx_off_epoch", "1", "--val_interval", "3")
    assert told == [True, True, False, False, False, False]  # two batches an epoch


def test_rarer_classes_weigh_more_in_the_loss_on_request(tiny_set, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr("training.setup.build_loss", lambda *args: built.append(build_loss(*args)) or built[-1])
    run(tiny_set, tmp_path, "--test_mode", "--class_balance", "0.5")
    pixels = np.bincount(
        np.concatenate([read_label_ids(path).ravel() for path in (tiny_set / "trainannot").iterdir()]), minlength=11
    )
    expected = [(np.median(pixels[pixels > 0]) / count) ** 0.5 if count else 1.0 for count in pixels]
    assert built[-1][0].keywords["class_weights"].tolist() == pytest.approx(expected, rel=1e-5)


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


def test_a_head_that_flags_changed_is_kept_evaluated_and_fine_tuned(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--refine", "--aspp_rates", "1,2", "--exp", "first")
    first = tmp_path / "ckpt/first/best.pth"
    model = load_model(first)
    assert [branch[1].dilation[0] for branch in model.net.aspp.features[1:]] == [1, 2]
    assert model.predictor("cpu").predict(np.zeros((40, 56, 3), np.uint8)).shape == (40, 56)
    run(tiny_set, tmp_path, "--max_epoch", "1", "--snapshot", str(first), "--exp", "second")
    assert load_checkpoint(tmp_path / "ckpt/second/last.pth").head == {"rates": [1, 2], "refine": True}


def test_a_trunk_may_learn_while_its_batch_norms_stay(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--trunk_freeze_bn")
    trained = load_checkpoint(tmp_path / "ckpt/default/last.pth").state_dict
    fresh = build_network("DeepMNV3V3PlusD_m1", 11).state_dict()
    assert torch.equal(trained["features.0.1.running_mean"], fresh["features.0.1.running_mean"])
    assert not torch.equal(trained["features.0.1.weight"], fresh["features.0.1.weight"])
    assert not torch.equal(trained["final.2.running_mean"], fresh["final.2.running_mean"])


def test_a_wrong_folder_leaves_no_run_behind(tmp_path):
    with pytest.raises(FileNotFoundError, match="--dataset_dir"):
        run(tmp_path / "nowhere", tmp_path)
    assert not (tmp_path / "ckpt").exists()


def test_two_processes_train_and_score_every_validation_image_with_the_network_they_save(tiny_set, tmp_path, command):
    together = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "train.py",
        *arguments(tiny_set, tmp_path, "--max_epoch", "1", "--bs_mult", "2", "--accumulate", "2", "--syncbn",
                   "--bucket_mb", "5"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(together, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "2 processes" in result.stdout
    assert "batch norm sees 4 crops at a time, not the 8 of a step" in result.stdout
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
