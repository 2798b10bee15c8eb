"""Files appear whole or not at all, and what a killed process leaves is removed."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from utils.files import _remove_leftovers, atomic_path, json_text, write_json

WRITING = """
import sys
import time
from pathlib import Path

from utils.files import atomic_path

with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing last.pth."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITING, tmp_path / "last.pth"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline()
        yield process
        process.kill()


def write(path):
    _remove_leftovers.cache_clear()  # as in a new process
    with atomic_path(path) as temporary:
        temporary.write_text("whole")


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(writer, tmp_path):
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert [path.suffix for path in tmp_path.iterdir()] == [".pth"]
    write(tmp_path / "best.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pth"]


def test_what_another_process_is_writing_stays(writer, tmp_path):
    (tmp_path / ".new-abandoned.png").write_text("half")
    write(tmp_path / "best.pth")
    (unfinished,) = (path for path in tmp_path.iterdir() if path.name != "best.pth")
    assert unfinished.read_text() == "half"
    assert unfinished.suffix == ".pth"


def test_what_this_process_is_writing_stays(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("a")
        write(tmp_path / "b.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text() == "a"


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    content = {"a": math.nan, "b": [1.5, math.inf, (2, -math.inf)], "c": {"d": None, "e": "NaN"}}
    expected = {"a": None, "b": [1.5, None, [2, None]], "c": {"d": None, "e": "NaN"}}
    assert json.loads(json_text(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
