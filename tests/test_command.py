"""What a command says, and how it ends, when something dies below it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from torch.utils.data import DataLoader

from config import ErrorConfig
from tests.conftest import ROOT
from utils.command import run_command
from utils.parallel import in_parallel


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dying:
    """A data set whose samples kill the process that makes them."""

    def __len__(self) -> int:
        return 4

    __getitem__ = die


def training() -> None:
    list(DataLoader(Dying(), num_workers=2))


def indexing() -> None:
    list(in_parallel(die, range(4), 2, title="index"))


def handing_over() -> None:
    raise RuntimeError("unable to write to file </torch_12_34>: No space left on device (28)")


@dataclass(frozen=True)
class Settings:
    errors: ErrorConfig


SETTINGS = Settings(ErrorConfig())


@pytest.mark.parametrize("work", [training, indexing, handing_over])
def test_a_process_that_is_killed_ends_the_command_with_one_line(work, capsys):
    with pytest.raises(SystemExit) as ending:
        run_command(lambda _: work(), SETTINGS)
    assert ending.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith("error: a worker process died, possibly out of memory")
    assert told.endswith("reduce --num_workers.\n")
    assert told.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback():
    def fail(_: Settings) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_command(fail, SETTINGS)


INTERRUPTED = """
import sys
import time

from torch.utils.data import DataLoader

from config import TrainConfig
from utils.parallel import in_parallel, prepare_worker
from utils.command import run_command
from utils.flags import parse_command_line


class Slow:
    def __len__(self):
        return 9

    def __getitem__(self, index):
        time.sleep(60 if index > 1 else 0)
        return index


def slow(index):
    return Slow()[index]


def load(config):
    for index in DataLoader(Slow(), num_workers=2, batch_size=None, worker_init_fn=prepare_worker):
        print("working", index, flush=True)


def work(config):
    for index in in_parallel(slow, range(9), 2, title='slow'):
        print("working", index, flush=True)


if __name__ == "__main__":
    run_command({"load": load, "work": work}[sys.argv[1]], parse_command_line(TrainConfig, []))
"""


@pytest.mark.parametrize("to_all", [True, False], ids=["from the keyboard", "to one process"])
@pytest.mark.parametrize("kind", ["load", "work"])
def test_ctrl_c_ends_a_command_and_its_workers_at_once_whatever_they_do(kind, to_all, tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, script, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)]  # both workers have begun to sleep, or are about to
    time.sleep(0.5)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)  # until the last of them has closed its output
    assert process.returncode == 130
    assert told == "interrupted\n"
