"""Several processes: they join, and part without leaving anything behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils.distributed import process_group

ROOT = Path(__file__).parent.parent

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


def test_a_connection_that_cannot_be_made_says_why(monkeypatch):
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OSError, match="Duplicate GPU detected"), process_group(torch.device("cpu")):
        raise torch.distributed.DistBackendError("NCCL error:\n Duplicate GPU detected")


@pytest.mark.parametrize(("device", "is_ended"), [("cpu", True), ("cuda", False)])
def test_a_process_that_fails_does_not_wait_for_the_others_to_end_their_group(device, is_ended, monkeypatch):
    """NCCL ends a group together, and the others are waiting for gradients that will not come."""
    ended = []
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *args, **kwargs: None)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: ended.append(True))
    monkeypatch.setenv("WORLD_SIZE", "2")
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
