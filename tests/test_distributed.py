"""Several processes: they join, and part without leaving anything behind."""

import copy
import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch.distributed import HashStore

from tests.conftest import ROOT
from tests.tiny import arguments, metrics
from utils.distributed import process_group, synchronise_batch_norm
from utils.images import read_label_ids, write_image

TRAINING = """
import os
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import process_group, sum_over_processes


def num_threads():
    return len(os.listdir("/proc/self/task"))


def train():
    model = DistributedDataParallel(torch.nn.Linear(3, 3))
    model(torch.ones(2, 3)).sum().backward()
    return sum_over_processes(torch.ones(1, dtype=torch.int64)).item()


before = num_threads()
with process_group(torch.device("cpu")) as processes:
    total = train()
    assert num_threads() > before
Path(__file__).with_name(f"{processes.rank}.txt").write_text(f"sum {total}, threads left {num_threads() - before}")
"""


FAILING = """
import torch

from config import TrainConfig
from utils.command import run_command
from utils.distributed import process_group, wait_for_all
from utils.flags import parse_command_line


def main(config):
    with process_group(torch.device("cpu")) as processes:
        wait_for_all()
        if processes.rank == 1:
            raise ValueError("a label file is wrong")
        wait_for_all()


run_command(main, parse_command_line(TrainConfig, []))
"""


ACCUMULATING = """
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import gradients_summed_later, mean_over_processes, process_group


def train(rank):
    model = DistributedDataParallel(torch.nn.Linear(1, 1, bias=False))
    seen = []
    for image, later in ((1.0, True), (10.0, False)):
        with gradients_summed_later(model, later):
            model(torch.tensor([[image * (rank + 1)]])).sum().backward()
        seen.append(model.module.weight.grad.item())
    return *seen, mean_over_processes(torch.tensor(float(rank))).item()


with process_group(torch.device("cpu")) as processes:
    told = train(processes.rank)
Path(__file__).with_name(f"{processes.rank}.txt").write_text(" ".join(f"{number:g}" for number in told))
"""


def run_two(script: Path, text: str) -> subprocess.CompletedProcess[str]:
    script.write_text(text)
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(together, env=environment, capture_output=True, text=True, timeout=300)


def test_no_thread_of_the_group_outlives_it(tmp_path):
    """One that does may need the interpreter when it is gone, which aborts a training that had succeeded."""
    result = run_two(tmp_path / "training.py", TRAINING)
    assert result.returncode == 0, result.stderr[-2000:]
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert told == ["sum 2, threads left 0"] * 2


def test_the_mistake_of_one_process_is_one_line_and_no_traceback_of_another(tmp_path):
    result = run_two(tmp_path / "failing.py", FAILING)
    assert result.returncode == 1
    assert result.stderr.count("error: a label file is wrong") == 1
    assert result.stderr.count("error: another process failed") == 1
    assert "RuntimeError" not in result.stderr


@pytest.fixture
def no_connection(monkeypatch):
    for name in ("init_process_group", "new_group"):
        monkeypatch.setattr(f"torch.distributed.{name}", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.distributed.distributed_c10d._get_default_store", lambda: Mock(clone=HashStore))
    monkeypatch.setenv("WORLD_SIZE", "2")


@pytest.mark.usefixtures("no_connection")
def test_a_connection_that_cannot_be_made_says_why(monkeypatch):
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    with pytest.raises(OSError, match="Duplicate GPU detected"), process_group(torch.device("cpu")):
        raise torch.distributed.DistBackendError("NCCL error:\n Duplicate GPU detected")


@pytest.mark.usefixtures("no_connection")
@pytest.mark.parametrize(("device", "is_ended"), [("cpu", True), ("cuda", False)])
def test_a_process_that_fails_does_not_wait_for_the_others_to_end_their_group(device, is_ended, monkeypatch):
    """NCCL ends a group together, and the others are waiting for gradients that will not come."""
    ended = []
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: ended.append(True))
    with pytest.raises(ValueError, match="mistake"), process_group(torch.device(device)):
        raise ValueError("a mistake of this process")
    assert bool(ended) == is_ended
    with process_group(torch.device(device)):
        ended.clear()
    assert ended


def test_gradients_of_several_batches_are_exchanged_once_and_the_loss_that_is_told_is_of_all(tmp_path):
    """The second process sees twice the pictures of the first: 1 and 10, 2 and 20."""
    result = run_two(tmp_path / "accumulating.py", ACCUMULATING)
    assert result.returncode == 0, result.stderr[-2000:]
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert told == ["1 16.5 0.5", "2 16.5 0.5"]


FORKING = """
import os
import socket
import sys

import training.loop
import train
from config import TrainConfig
from utils.command import run_command
from utils.flags import parse_command_line

training.loop.LOG_STEPS = 1
world_size, words = int(sys.argv[1]), sys.argv[2:]
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
processes = []
for rank in range(world_size):
    if not (process := os.fork()):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in {**place, **address}.items()})
        run_command(train.main, parse_command_line(TrainConfig, words))
    processes.append(process)
    print(process, flush=True)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes))
"""


@pytest.fixture
def train_together(popen):
    """Start a training of several processes, which share their imports."""

    def start(world_size, *flags):
        words = [sys.executable, "-c", FORKING, world_size, *flags]
        return popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


@pytest.mark.parametrize("most", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_processes_changes_nothing(train_together, tiny_set, tmp_path, most):
    """With one batch for all, and batch norm over all of it; 20 steps, another share of each image not labelled.

    The steps are small: with --lr 0.003, noise of 1e-7 in the pixels already changes the losses by 1e-4.
    """
    for path in (tiny_set / "trainannot").iterdir():
        ids = read_label_ids(path)
        ids[: 8 * int(path.stem)] = 11  # no class; in each image another share
        write_image(path, ids)
    losses, scores = {}, {}
    for world_size in (1, most):
        name = f"with{world_size}"
        flags = ("--exp", name, "--bs_mult", 4 // world_size, *(("--syncbn",) if world_size > 1 else ()))
        words = [word for word in arguments(tiny_set, tmp_path, *flags) if word != "--adam"]
        sizes = ("--max_epoch", 1, "--repeat", 10, "--lr", 0.0001, "--relax", "--global_batch", 4)
        ended = train_together(world_size, *words, *sizes)
        _, err = ended.communicate(timeout=600)
        assert ended.returncode == 0, err[-3000:]
        losses[world_size] = [row["loss"] for row in metrics(tmp_path, "train", name)]
        scores[world_size] = metrics(tmp_path, "val", name)[0]["mean_iou"]
    assert len(losses[1]) == 20
    assert losses[most] == pytest.approx(losses[1], rel=1e-5)
    assert scores[most] == scores[1]


def test_several_processes_stop_at_the_same_time(train_together, tiny_set, tmp_path):
    flags = ("--max_epoch", 10_000, "--val_interval", 10_000, "--max_minutes", 0.05, "--warmup_epochs", 0)
    ended = train_together(2, *arguments(tiny_set, tmp_path, *flags))
    _, err = ended.communicate(timeout=600)
    assert ended.returncode == 0, err[-3000:]
    rates = [row["lr"] for row in metrics(tmp_path, "train")]
    assert rates == sorted(rates, reverse=True)
    (scored,) = metrics(tmp_path, "val")  # of a slow machine perhaps after a single step
    assert scored["minutes"] > 0.04
    assert scored["epoch"] < 10_000


def test_an_interrupted_epoch_goes_on_with_another_number_of_processes(train_together, tiny_set, tmp_path):
    sizes = ("--max_epoch", 1, "--repeat", 4, "--lr", 0.0001, "--global_batch", 4, "--ckpt_minutes", 1e-6)

    def start(name, world_size, *flags):
        words = arguments(tiny_set, tmp_path, "--exp", name, "--bs_mult", 4 // world_size, *flags)
        return train_together(world_size, *(word for word in words if word != "--adam"), *sizes)

    whole = start("whole", 1)
    _, err = whole.communicate(timeout=600)
    assert whole.returncode == 0, err[-3000:]
    cut = start("cut", 1)
    process = int(cut.stdout.readline())
    while not ((tmp_path / "ckpt/cut/metrics.jsonl").exists() and len(metrics(tmp_path, "train", "cut")) > 2):
        assert cut.poll() is None, cut.stderr.read()
        time.sleep(0.01)
    os.kill(process, signal.SIGTERM)
    cut.communicate(timeout=60)
    assert cut.returncode == 143
    again = start("cut", 2, "--syncbn", "--resume")
    told, err = again.communicate(timeout=600)
    assert again.returncode == 0, err[-3000:]
    assert re.search(r"continuing after epoch 0 and \d+ steps", told)
    losses = [[row["loss"] for row in metrics(tmp_path, "train", name)] for name in ("whole", "cut")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_process_that_hangs_is_named_with_its_machine(train_together, tiny_set, tmp_path):
    words = arguments(tiny_set, tmp_path, "--repeat", "999", "--bs_mult", "1", "--crop_size", "32", "--timeout", "0.2")
    together = train_together(2, *words)
    processes = [int(together.stdout.readline()) for _ in range(2)]
    log = tmp_path / "ckpt/default/metrics.jsonl"
    while not (log.is_file() and log.stat().st_size):
        assert together.poll() is None, together.stderr.read()
        time.sleep(0.1)
    os.kill(processes[1], signal.SIGSTOP)
    told = next(line for line in iter(together.stderr.readline, "") if line.startswith("error"))
    os.kill(processes[1], signal.SIGKILL)
    together.communicate(timeout=60)
    named = f"error: process 1 on {re.escape(platform.node())} did not answer within (--timeout )?0:00:12"
    assert re.match(named, told)
    assert together.returncode == 1


STOPPED = """
import os
import signal
import sys
import time
from datetime import timedelta

import torch

import utils.distributed
from config import TrainConfig
from utils.command import run_command
from utils.distributed import process_group, wait_for_all
from utils.flags import parse_command_line

utils.distributed.BEAT = 0.2


def main(config):
    with process_group(torch.device("cpu"), timedelta(seconds=4)) as processes:
        wait_for_all()
        if processes.rank == int(sys.argv[1]):
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        if sys.argv[1] != "-1":
            wait_for_all()  # which by itself takes six hours to give up
        elif processes.is_main:
            time.sleep(6)  # the others have ended


run_command(main, parse_command_line(TrainConfig, []))
"""


@pytest.mark.parametrize("silent", (0, 1))
def test_a_process_that_is_stopped_while_others_wait_for_it_ends_them(silent, popen, tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*torchrun, tmp_path / "stopped.py", silent]
    together = popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    stopped = int(together.stdout.readline())
    told = next(line for line in together.stderr if line.startswith("error"))
    os.kill(stopped, signal.SIGKILL)  # torchrun would wait for it half a minute
    together.communicate(timeout=60)
    assert told == f"error: process {silent} on {platform.node()} did not answer within 0:00:04.\n"
    assert together.returncode == 1


def test_a_process_that_has_ended_in_order_is_not_taken_for_silent(popen, tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = popen([*torchrun, tmp_path / "stopped.py", -1], stderr=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    _, err = ended.communicate(timeout=300)
    assert (ended.returncode, "error" in err) == (0, False)


def test_synchronised_batch_norm_of_one_process_is_batch_norm(monkeypatch):
    monkeypatch.setattr("torch.distributed.nn.functional.all_reduce", lambda values: values)
    torch.manual_seed(0)
    plain = torch.nn.BatchNorm2d(3)
    torch.nn.init.uniform_(plain.weight)
    ours = synchronise_batch_norm(torch.nn.Sequential(copy.deepcopy(plain)), torch.device("cpu"))
    for _ in range(2):
        x = (5 + torch.randn(4, 3, 5, 6)).requires_grad_()
        factors = torch.randn(4, 3, 5, 6)
        results = []
        for norm in (plain, ours):
            y = norm(x)
            results.append([y, *torch.autograd.grad((y * factors).sum(), [x, *norm.parameters()])])
        for expected, found in zip(*results, strict=True):
            assert torch.allclose(found, expected, atol=1e-5)
    for expected, found in zip(plain.buffers(), ours.buffers(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    ours.eval()
    assert torch.allclose(ours(x), plain.eval()(x), atol=1e-6)
