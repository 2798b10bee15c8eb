"""What several tests share."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from utils.device import find_glibc
from utils.images import write_image

# A machine may be slow; no example is wrong for that.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")

ROOT = Path(__file__).parent.parent

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by whichever test comes first


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test cuts the power, and syncing one file can wait for gigabytes of others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture
def shared() -> Path:
    """The folder of real pictures beside the project; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not all((folder / part).is_dir() for part in ("camvid", "samples")):
        pytest.skip("real pictures are needed beside the project: shared/camvid (CamVid) and shared/samples (streets)")
    return folder


@pytest.fixture(scope="session")
def light_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DeepMNV3V3PlusD_m1 for CamVid's classes, as `train.py` would keep it."""
    from datasets.specs.registry import dataset_spec
    from network.checkpoint import Checkpoint, save_checkpoint
    from network.deepv3 import build_network

    torch.manual_seed(0)
    spec = dataset_spec("camvid")
    net = build_network("DeepMNV3V3PlusD_m1", spec.num_classes)
    path = tmp_path_factory.mktemp("checkpoint") / "light.pth"
    save_checkpoint(
        path,
        Checkpoint(state_dict=net.state_dict(), arch="DeepMNV3V3PlusD_m1", dataset="camvid", classes=spec.classes),
    )
    return path


def as_if_trained(net: torch.nn.Module) -> torch.nn.Module:
    """`net`, in place, with batch norms that no longer have statistics of 0 and 1."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.8, 1.2)
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    return net


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


needs_kept_memory = pytest.mark.skipif(find_glibc() is None, reason="memory is kept with glibc 2.33 or later only")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run an entry point in this process: `command("demo", "--demo-image", path, ...)`."""
    from tests.commands import CONFIGS
    from utils.command import run_command
    from utils.flags import parse_command_line

    def run(module: str, *arguments: object) -> Outcome:
        capsys.readouterr()
        main = importlib.import_module(module).main
        with pytest.raises(SystemExit) as ending:
            parsed = parse_command_line(CONFIGS[module], [str(argument) for argument in arguments])
            run_command(main, parsed)
        captured = capsys.readouterr()
        return Outcome(int(ending.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def popen() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`subprocess.Popen` in the project's folder; what a test leaves running is killed, with its children."""
    started: list[subprocess.Popen[str]] = []

    def start(words: Sequence[object], **how: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **how.pop("env", {})}
        words = [str(word) for word in words]
        started.append(subprocess.Popen(words, cwd=ROOT, env=environment, text=True, start_new_session=True, **how))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def propagate(command: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run propagate.py in this one process."""
    return lambda *flags: command("propagate", "--num_workers", 0, *flags)


@pytest.fixture
def tiny_set(tmp_path: Path) -> Path:
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


@pytest.fixture
def verified(tmp_path: Path, command: Callable[..., Outcome]) -> Callable[..., tuple[Outcome, dict[str, Any]]]:
    """Verify the folder data set below a root; how it ended, and what `--json` says."""

    def run(root: Path, *flags: object) -> tuple[Outcome, dict[str, Any]]:
        found = tmp_path / "found.json"
        base = ("--dataset", "folder", "--dataset_dir", root, "--json", found, "--num_workers", 1)
        ended = command("datasets.verify", *base, *flags)
        return ended, json.loads(found.read_text())

    return run
