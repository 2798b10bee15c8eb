"""A training survives whatever interrupts it, at any step: it goes on as if nothing had happened."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import train as train_command
from network.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.tiny import arguments, metrics, run, weights
from utils.command import STOP_SIGNALS, interrupts_noted

TWO_EPOCHS = ("--max_epoch", "2", "--repeat", "2", "--val_interval", "2", "--crop_size", "32")  # of 4 steps
ALWAYS = ("--ckpt_minutes", "1e-6")


@pytest.fixture(autouse=True)
def _signals_as_before():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_at(patch, steps, number=signal.SIGTERM):
    """After so many steps of the optimizer, the process gets a signal."""
    done, apply = [], train_command.optimizer_step

    def step(training):
        apply(training)
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), number)

    patch.setattr(train_command, "optimizer_step", step)


def logged(folder):
    """What a run has logged, but for the time that it took."""
    rows = [*metrics(folder, "train"), *metrics(folder, "val")]
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "waiting", "minutes")} for row in rows]


def assert_equal_runs(whole, cut):
    one, other = weights(whole), weights(cut)
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert logged(cut) == logged(whole)
    kept = [load_checkpoint(folder / "ckpt/default/last.pth") for folder in (whole, cut)]
    assert kept[0].scores == kept[1].scores
    assert kept[0].training["best"] == kept[1].training["best"]


@pytest.mark.parametrize(
    ("number", "flags", "then"),
    [
        (signal.SIGTERM, (), ("--num_workers", "2")),
        (signal.SIGINT, ("--ema", "0.9"), ()),
        (signal.SIGUSR1, ("--accumulate", "2"), ()),
    ],
    ids=["SIGTERM, then other workers", "Ctrl-C, ema", "SIGUSR1, accumulate"],
)
def test_a_run_stopped_within_an_epoch_goes_on_at_the_next_step(tiny_set, tmp_path, number, flags, then, capsys):
    run(tiny_set, tmp_path / "whole", *TWO_EPOCHS, *flags)
    for steps in (1, 2):  # stopped twice
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, steps, number)
            with pytest.raises(KeyboardInterrupt):
                run(tiny_set, tmp_path / "cut", *TWO_EPOCHS, *flags, "--resume")
        assert "stopped. --resume continues from" in capsys.readouterr().out
        signal.signal(number, signal.SIG_DFL)
    run(tiny_set, tmp_path / "cut", *TWO_EPOCHS, *flags, *then, "--resume")
    told = capsys.readouterr().out
    assert ("epoch 0 and 3 steps" if "--accumulate" not in flags else "epoch 1 and 1 step of") in told
    assert_equal_runs(tmp_path / "whole", tmp_path / "cut")


def test_what_is_saved_in_between_changes_nothing(tiny_set, tmp_path):
    run(tiny_set, tmp_path / "seldom", *TWO_EPOCHS)
    run(tiny_set, tmp_path / "often", *TWO_EPOCHS, *ALWAYS)
    assert_equal_runs(tmp_path / "seldom", tmp_path / "often")


def test_a_batch_of_another_size_goes_on_with_the_crops_that_are_left(tiny_set, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_set, tmp_path, *TWO_EPOCHS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    run(tiny_set, tmp_path, *TWO_EPOCHS, "--resume", "--bs_mult", "2", "--max_epoch", "1")
    assert "epoch 0 and 6 steps" in capsys.readouterr().out


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny_set, tmp_path, capsys):
    run(tiny_set, tmp_path / "whole", *TWO_EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(tiny_set, tmp_path / "cut", *TWO_EPOCHS, *ALWAYS)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for damage in ("cut off", "one bit", "gone"):
        shutil.copytree(tmp_path / "cut", tmp_path / damage, symlinks=True)
        last = tmp_path / damage / "ckpt/default/last.pth"
        content = bytearray(last.read_bytes())
        content[len(content) // 2] ^= 1
        last.write_bytes(content if damage == "one bit" else content[:-1000])
        if damage == "gone":
            last.unlink()
        run(tiny_set, tmp_path / damage, *TWO_EPOCHS, "--resume")
        told = capsys.readouterr()
        if damage != "gone":
            assert "last.pth: truncated, damaged" in told.err
            assert f"Continuing from {last.with_name('previous.pth')}" in told.err
        assert "epoch 0 and 2 steps" in told.out
        assert_equal_runs(tmp_path / "whole", tmp_path / damage)


def test_where_both_are_damaged_the_run_is_not_begun_again_silently(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1", *ALWAYS)
    for name in ("last.pth", "previous.pth"):
        (tmp_path / "ckpt/default" / name).write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"last\.pth: truncated, damaged"):
        run(tiny_set, tmp_path, "--max_epoch", "1", "--resume")


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before_whole(tiny_set, tmp_path):
    run(tiny_set, tmp_path, "--max_epoch", "1")
    last = tmp_path / "ckpt/default/last.pth"
    before = last.read_bytes()
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, most[1]))
    try:
        with pytest.raises(OSError, match=r"last\.pth.*(Is the disk full|too large)"):
            run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert last.read_bytes() == before
    assert not list(last.parent.glob(".new-*"))
    run(tiny_set, tmp_path, "--max_epoch", "2", "--resume")


LOSSES = ((), ("--relax",), ("--img_wt_loss",))
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]


@pytest.mark.parametrize(
    ("device", "loss"),
    [("cpu", LOSSES[1]), *(pytest.param("cuda", loss, marks=NEEDS_GPU) for loss in LOSSES)],
)
def test_with_deterministic_two_runs_have_the_same_bits(tiny_set, tmp_path, device, loss):
    try:
        for name in ("one", "two"):
            flags = ("--max_epoch", "1", "--val_interval", "9", "--device", device, "--deterministic", *loss)
            run(tiny_set, tmp_path / name, *flags)
        assert torch.are_deterministic_algorithms_enabled()  # a CPU computes the same bits anyway
    finally:
        torch.use_deterministic_algorithms(False)
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


# Losses and gradients that are no numbers


def spoil(patch, *steps, what="loss"):
    """In these steps, counted from 0, the loss or the gradient becomes infinite."""
    count, compute = [], train_command.forward_backward

    def spoilt(training, *batch):
        loss = compute(training, *batch)
        count.append(1)
        if len(count) - 1 in steps:
            next(training.net.parameters()).grad.fill_(float("inf"))
            next(iter(training.net.buffers())).fill_(float("nan"))  # as by batch norm
            return loss * (float("inf") if what == "loss" else 1)
        return loss

    patch.setattr(train_command, "forward_backward", spoilt)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_without_numbers_is_named_with_its_samples_and_not_saved(tiny_set, tmp_path, monkeypatch, what):
    spoil(monkeypatch, 2, what=what)
    told = rf"epoch 1, step 3: the {what} became NaN or infinite \(process 0: (\d, ){{3}}\d\)"
    with pytest.raises(ValueError, match=told):
        run(tiny_set, tmp_path, *TWO_EPOCHS, *ALWAYS)
    assert all(torch.isfinite(values).all() for values in weights(tmp_path).values())
    assert load_checkpoint(tmp_path / "ckpt/default/last.pth").training["steps"] <= 3


def test_as_many_bad_steps_as_allowed_are_skipped_without_a_trace(tiny_set, tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, 1, 3, 6)
    flags = (*TWO_EPOCHS, "--lr", "0.001", "--ema", "0.9")
    with pytest.raises(ValueError, match=r"epoch 2, step 3: .*--max_bad_steps 2 is exhausted"):
        run(tiny_set, tmp_path, *flags, "--max_bad_steps", "2")
    assert capsys.readouterr().err.count("warning: skipped") == 2
    kept = load_checkpoint(tmp_path / "ckpt/default/last.pth")
    assert kept.epoch == 1
    assert kept.training["num_updates"] == 2  # of 4 steps
    assert all(torch.isfinite(values).all() for values in kept.state_dict.values())
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0, 3, 4]


# Whole processes


@pytest.fixture
def start(popen):
    def training(root, folder, *flags, launch=()):
        words = [sys.executable, *launch, "train.py", *arguments(root, folder, *flags)]
        return popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    return training


def wait_for_steps(process, folder):
    """Until the first step is logged."""
    log = folder / "ckpt/default/metrics.jsonl"
    while not (log.is_file() and log.stat().st_size):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code", "launch"),
    [
        (signal.SIGINT, 130, ()),
        (signal.SIGTERM, 143, ()),
        (signal.SIGTERM, 143, ("scripts/launch.py", "2")),
        (signal.SIGUSR1, 143, ("scripts/launch.py", "2")),
    ],
)
def test_a_signal_ends_the_process_with_its_code_after_saving(start, tiny_set, tmp_path, number, code, launch):
    process = start(tiny_set, tmp_path, "--repeat", "999", "--num_workers", "1", launch=launch)
    wait_for_steps(process, tmp_path)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    assert "stopped. --resume continues from" in out
    kept = load_checkpoint(tmp_path / "ckpt/default/last.pth")
    assert kept.training["crops"] == kept.training["steps"] * 4 * (2 if launch else 1) > 0
    assert not list((tmp_path / "ckpt/default").glob(".new-*"))


STAND_INS = {
    "srun": 'while [[ "$1" == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo host-a; echo host-b; else echo "$@" >>scontrol.txt; fi',
    "python": 'trap "exit 143" TERM; echo "$@" >words.txt; [ -e ends ] && exit 3; while :; do sleep 0.05; done',
}


@pytest.mark.parametrize("ends", [False, True], ids=["its time is up", "a mistake"])
def test_on_slurm_a_job_whose_time_is_up_goes_back_into_the_queue(popen, tmp_path, ends):
    """With stand-ins for Slurm's commands and for Python."""
    for name, script in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    if ends:
        (tmp_path / "ends").touch()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "host-[a-b]", "SLURM_JOB_NUM_NODES": "2"}
    environment = {**slurm, "SLURM_SUBMIT_DIR": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    job = popen([ROOT / "scripts/slurm_train.sh", "--exp", "mine"], env=environment)
    while job.poll() is None and not (tmp_path / "words.txt").exists():
        time.sleep(0.02)
    while not ends and job.poll() is None:
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
    assert job.wait(timeout=60) == (3 if ends else 143)
    assert "--rdzv_endpoint=host-a:29500" in (tmp_path / "words.txt").read_text()
    assert (tmp_path / "words.txt").read_text().endswith("train.py --resume --exp mine\n")
    assert (tmp_path / "scontrol.txt").exists() == (not ends)
    assert ends or (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


def test_a_signal_is_noted_and_another_one_five_seconds_later_obeyed_at_once(monkeypatch):
    clock = [10.0]
    monkeypatch.setattr("utils.command.time.monotonic", lambda: clock[-1])
    with interrupts_noted() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        clock.append(14.9)
        os.kill(os.getpid(), signal.SIGINT)
        assert noted == [signal.SIGINT] * 2
        clock.append(15.1)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


KILLING = """
import hashlib, os, random, signal, sys, time
from pathlib import Path

import train
from config import TrainConfig
from network.checkpoint import load_checkpoint
from utils.command import run_command
from utils.flags import parse_command_line

words, folder, num_kills = sys.argv[3:], Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(0)
kills = rounds = while_writing = 0
longest = None  # how long to let it live, in seconds: three times what it takes to the first checkpoint


def start(name):
    if pid := os.fork():
        return pid
    os.dup2(os.open(folder / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    run_command(train.main, parse_command_line(TrainConfig, [*words, "--exp", name, "--resume"]))


def is_alive(pid):
    return os.waitpid(pid, os.WNOHANG)[0] == 0


def keep_hash_of_weights(run):
    if (run / "last.pth").exists():  # else the test tells
        weights = b"".join(one.numpy().tobytes() for one in load_checkpoint(run / "last.pth").state_dict.values())
        (run / "weights.txt").write_text(hashlib.sha256(weights).hexdigest())
    for path in run.glob("*.pth"):  # a thousand of them would fill the disk
        path.unlink()


os.waitpid(start("whole"), 0)
keep_hash_of_weights(folder / "ckpt/whole")
while kills < num_kills:
    run, ended = folder / "ckpt" / f"round{rounds}", False
    while not ended:
        pid, begun = start(f"round{rounds}"), time.monotonic()
        while longest is None and not ended and not (run / "last.pth").exists():
            time.sleep(0.01)
            ended = not is_alive(pid)
        longest = longest or 3 * (time.monotonic() - begun)
        wait, for_file = draw.uniform(0, longest), draw.random() < 0.2
        while not ended and time.monotonic() < begun + wait:
            time.sleep(0.002)
            ended = not is_alive(pid)
        while not ended and for_file and not list(run.glob(".new-*.pth")):
            time.sleep(0.001)
            ended = not is_alive(pid)
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
            while_writing += bool(list(run.glob(".new-*.pth")))
    keep_hash_of_weights(run)
    rounds += 1
print(kills, rounds, while_writing)
"""


def logged_steps(folder, name):
    return [row["step"] for row in metrics(folder, "train", name)]


@pytest.mark.parametrize("num_kills", [2, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing_that_was_saved(tiny_set, tmp_path, num_kills):
    flags = (*TWO_EPOCHS, *ALWAYS)
    words = [sys.executable, "-c", KILLING, str(tmp_path), str(num_kills), *arguments(tiny_set, tmp_path, *flags)]
    ended = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    kills, rounds, while_writing = map(int, ended.stdout.split())
    print(f"{kills} kills, {while_writing} of them while a checkpoint was written, {rounds} trainings")
    assert num_kills <= kills
    assert num_kills < 100 or while_writing >= kills / 10
    for name in (f"round{number}" for number in range(rounds)):
        one, other = (tmp_path / "ckpt" / run for run in ("whole", name))
        assert (one / "weights.txt").read_text() == (other / "weights.txt").read_text()
        assert logged_steps(tmp_path, "whole") == logged_steps(tmp_path, name)
        assert not list(other.glob(".new-*"))
