"""Several machines, and none: network namespaces with their own addresses and names stand in for them.

One agent of torchrun runs in each. Skipped where namespaces are not allowed.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from network.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.tiny import arguments, metrics

ADDRESSES = ("10.213.7.1", "10.213.7.2")
HOSTS = ("host-a", "host-b")
SMALL = ("--bs_mult", "2", "--crop_size", "32")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command on a host: `hosts(0, "train.py", ...)`. Two hosts are connected by a cable, link0 to link1."""
    spaces = [f"kerbline-{os.getpid()}-{number}" for number in range(2)]
    started: list[subprocess.Popen[str]] = []
    try:
        for space in spaces:
            ip("netns", "add", space)
        ip("link", "add", "link0", "netns", spaces[0], "type", "veth", "peer", "name", "link1", "netns", spaces[1])
        for number, space in enumerate(spaces):
            ip("-n", space, "addr", "add", f"{ADDRESSES[number]}/24", "dev", f"link{number}")
            for device in ("lo", f"link{number}"):
                ip("-n", space, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for space in spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)
        pytest.skip(f"network namespaces are not allowed here: {getattr(error, 'stderr', error)}")

    def start(number: int, *words: str) -> subprocess.Popen[str]:
        inside = ["ip", "netns", "exec", spaces[number], "unshare", "--uts", "sh", "-c"]
        script = f'hostname {HOSTS[number]} && exec "$@"'
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GLOO_SOCKET_IFNAME": f"link{number}",
        }  # fmt: skip
        process = subprocess.Popen(
            [*inside, script, "sh", sys.executable, *words], cwd=ROOT, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
    for space in spaces:
        for process_id in subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process_id), 9)  # workers, which torchrun starts in sessions of their own
        ip("netns", "del", space)
    for process in started:
        process.communicate()  # only now has nobody its output open


def test_two_hosts_train_one_network(tiny_set, tmp_path, hosts):
    words = arguments(tiny_set, tmp_path, *SMALL, "--max_epoch", "1", "--repeat", "2", "--syncbn")
    together = [
        hosts(number, "scripts/launch.py", "1", "--nnodes=2", f"--node_rank={number}",
              f"--master_addr={ADDRESSES[0]}", "--master_port=29511", "train.py", *words)
        for number in range(2)
    ]  # fmt: skip
    outs = [process.communicate(timeout=900)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0], outs
    assert "2 processes" in outs[0]
    assert [row["step"] for row in metrics(tmp_path, "train")] == [0, 3]


@pytest.mark.slow
def test_a_host_that_is_cut_off_is_named_and_the_others_go_on_from_the_last_checkpoint(tiny_set, tmp_path, hosts):
    often = ("--repeat", "999", "--resume", "--timeout", "1", "--ckpt_minutes", "1e-6")
    words = arguments(tiny_set, tmp_path, *SMALL, *often)
    agents = (
        "scripts/launch.py", "1", "--nnodes=1:2", "--max_restarts=2", "--rdzv_backend=c10d", "--rdzv_id=1",
        f"--rdzv_endpoint={ADDRESSES[0]}:29512",
    )  # fmt: skip
    # No name server knows the hosts, so their addresses are told.
    first, _ = (
        hosts(number, *agents, f"--rdzv_conf=last_call_timeout=20,is_host={not number}",
              f"--local_addr={ADDRESSES[number]}", "train.py", *words)
        for number in range(2)
    )  # fmt: skip
    last = tmp_path / "ckpt/default/last.pth"
    while not last.exists():
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.2)
    ip("-n", f"kerbline-{os.getpid()}-1", "link", "set", "link1", "down")
    begun = time.monotonic()
    lines = iter(first.stdout.readline, "")
    told = next(line for line in lines if line.startswith("error: "))
    print(f"told {time.monotonic() - begun:.0f} s after the cut: {told}")
    assert re.match("error: process [01] on host-b did not answer within (--timeout )?0:01:00", told)
    steps = load_checkpoint(last).training["steps"]
    assert any(re.search(r"continuing after epoch \d+ and \d+ steps", line) for line in lines)
    while load_checkpoint(last).training["steps"] <= steps:
        time.sleep(0.2)


OFFLINE = """
import os
import sys

from config import TrainConfig
from inference.settings import DemoConfig
from utils.flags import parse_command_line


def refuse(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and not isinstance(arguments[1], (str, bytes))):
        print(event, arguments, file=sys.stderr, flush=True)
        os._exit(99)  # an exception might be handled


sys.addaudithook(refuse)
import demo
import train

assert train.main(parse_command_line(TrainConfig, sys.argv[3:])) == 0
demo.main(parse_command_line(DemoConfig, ["--demo-image", sys.argv[1], "--save-dir", sys.argv[2], "--device", "cpu"]))
"""


def test_nothing_opens_a_network_connection(tiny_set, tmp_path):
    """Training and a demo with the network that is carried along, without any network interface where that can be."""
    words = arguments(tiny_set, tmp_path, *SMALL, "--max_epoch", "1")
    command = [sys.executable, "-c", OFFLINE, str(tiny_set / "val/0.png"), str(tmp_path / "save"), *words]
    can_unshare = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True).returncode == 0
    ended = subprocess.run(
        ["unshare", "--net", *command] if can_unshare else command,
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert len(list((tmp_path / "save").iterdir())) == 3
