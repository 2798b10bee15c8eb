"""Resumed runs, and what they do with what is already there."""

from dataclasses import replace

import pytest
import torch

import train as train_command
from network.checkpoint import load_checkpoint, save_checkpoint
from tests.tiny import metrics, run, weights


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_set, tmp_path):
    flags = ("--ema", "0.9")
    run(tiny_set, tmp_path / "whole", "--max_epoch", "3", *flags)
    with pytest.MonkeyPatch.context() as patch:
        saved = train_command.save

        def save_then_stop(training, name):
            saved(training, name)
            if name == "last.pth" and training.progress.epoch == 2:
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
        file.write('5\n{"loss": 1.0}\n{"kind": "tra')  # as a damaged or full disk leaves it
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")
    assert "has no last.pth to resume from" in capsys.readouterr().out
    run(tiny_set, tmp_path, "--max_epoch", "3", "--resume")
    steps = [row["step"] for row in metrics(tmp_path, "train")]
    assert steps == sorted(set(steps))
    assert [row["epoch"] for row in metrics(tmp_path, "val")] == [1, 2, 3]


def test_what_does_not_fit_the_run_is_refused_and_changes_nothing(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    folder = tmp_path / "ckpt/default"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for flags, told in (
        (("--arch", "DeepR18V3PlusD_m1"), "its run had --arch DeepMNV3V3PlusD_m1, not DeepR18V3PlusD_m1"),
        (("--freeze_trunk",), "its run had --freeze_trunk off, not on"),
        (("--amsgrad",), "its run had --amsgrad off, not on"),
        (("--aspp_rates", "6,12,18"), r"its run had head \(--aspp_rates, --refine\)"),
        (("--trunk_lr", "0.5"), "only one of its run and this one has a --trunk_lr"),
    ):
        with pytest.raises(ValueError, match=told):
            run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", *flags)
    (tiny_set / "streets.json").write_text("{}")
    with pytest.raises(ValueError, match="its run had --dataset camvid, not streets"):
        run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", "--dataset", "streets")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_checkpoint_of_an_earlier_version_lacks_what_is_newer(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    path = tmp_path / "ckpt/default/last.pth"
    kept = load_checkpoint(path)
    optim = {name: value for name, value in kept.config["optim"].items() if name != "amsgrad"}
    training = {name: value for name, value in kept.training.items() if name in ("optimizer", "scaler", "minutes")}
    save_checkpoint(path, replace(kept, config={**kept.config, "optim": optim}, training=training))
    log = path.with_name("metrics.jsonl")
    log.write_text(log.read_text().replace('"kind": "val", "step": 2', '"kind": "val", "step": 1'))  # the epoch
    with pytest.raises(ValueError, match="its run had --amsgrad off, not on"):
        run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", "--amsgrad")
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0, 1, 2, 3]
    assert [row["step"] for row in metrics(tmp_path, "val")] == [1, 4]


def test_a_checkpoint_without_the_optimizer_is_not_continued(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    path = tmp_path / "ckpt/default/last.pth"
    kept = load_checkpoint(path)
    training = {name: value for name, value in kept.training.items() if name != "optimizer"}
    save_checkpoint(path, replace(kept, training=training))
    with pytest.raises(ValueError, match="contains no optimizer state; leave out --resume"):
        run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")


def test_classes_that_changed_since_are_named(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    path = tmp_path / "ckpt/default/last.pth"
    kept = load_checkpoint(path)
    first, *others = kept.classes
    save_checkpoint(path, replace(kept, classes=(replace(first, name="Heaven"), *others)))
    with pytest.raises(ValueError, match="class 1 was 'Heaven', is 'Sky'"):
        run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")


def test_a_finished_run_says_how_to_continue_it(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    run(tiny_set, tmp_path, "--max_epoch", "1", "--resume")
    assert "finished: --max_epoch 1 is reached; raise it to continue" in capsys.readouterr().out
    run(tiny_set, tmp_path, "--max_epoch", "9", "--max_minutes", "1e-6", "--resume")
    assert "finished: --max_minutes 1e-06 is reached" in capsys.readouterr().out


def test_changed_settings_are_told_and_hold_from_then_on(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume", "--weight_decay", "0.5")
    assert "--max_epoch 2 (was 1), --weight_decay 0.5 (was 0.0001)" in capsys.readouterr().out
    groups = load_checkpoint(tmp_path / "ckpt/default/last.pth").training["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]


def test_weights_that_became_nan_do_not_replace_those_of_the_epoch_before(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    with pytest.raises(ValueError, match="became NaN or infinite"):
        run(tiny_set, tmp_path, "--max_epoch", "4", "--resume", "--lr", "1e30")
    assert all(torch.isfinite(values).all() for values in weights(tmp_path).values())


def test_a_second_run_does_not_overwrite_the_first(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    run(tiny_set, tmp_path, "--max_epoch", "1")
    assert "writing to" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"default", "default-2"}
    assert {path.name for path in (tmp_path / "tb").iterdir()} == {"default", "default-2"}


def test_test_mode_leaves_the_name_of_the_run_to_the_run(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--test_mode")
    run(tiny_set, tmp_path, "--max_epoch", "1")
    assert {path.name for path in (tmp_path / "ckpt").iterdir()} == {"default", "default_test_mode"}


def test_the_optimizer_is_restored_from_the_snapshot_also_where_resume_finds_no_run_yet(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path, "--max_epoch", "1", "--exp", "first")
    first = str(tmp_path / "ckpt" / "first" / "last.pth")
    for exp, flags in (("second", ()), ("third", ("--resume",))):
        run(
            tiny_set, tmp_path, "--max_epoch", "2", "--exp", exp, "--snapshot", first, "--restore_optimizer", *flags
        )  # fmt: skip
        assert f"continuing after epoch 1 of {first}" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--restore_optimizer needs --snapshot"):
        run(tiny_set, tmp_path, "--restore_optimizer")
