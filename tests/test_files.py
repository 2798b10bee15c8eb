"""Files appear whole or not at all."""

import json
import math
import subprocess
import sys

import pytest

from utils.files import atomic_path, json_text, write_json


def test_a_file_appears_when_it_is_whole_and_an_error_leaves_none(tmp_path):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
    with pytest.raises(ValueError, match="half"), atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("half")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_removed_and_a_living_writers_file_stays(popen, tmp_path):
    write = "import os, sys, time; from pathlib import Path; from utils.files import atomic_path\n"
    write += "with atomic_path(Path(sys.argv[1])): print('writing', flush=True); time.sleep(60)"
    writers = [
        popen([sys.executable, "-c", write, tmp_path / "a.txt"], stdout=subprocess.PIPE) for _ in range(2)
    ]
    assert [writer.stdout.readline() for writer in writers if writer.stdout] == ["writing\n"] * 2
    writers[0].kill()
    writers[0].wait()
    write_json(tmp_path / "b.json", {})
    assert [f"-{writers[1].pid}-" in path.name for path in tmp_path.glob(".new-*")] == [True]


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    content = {"a": math.nan, "b": [1.5, math.inf, (2, -math.inf)], "c": {"d": None, "e": "NaN"}}
    expected = {"a": None, "b": [1.5, None, [2, None]], "c": {"d": None, "e": "NaN"}}
    assert json.loads(json_text(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
