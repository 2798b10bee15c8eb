"""Files appear whole or not at all."""

import json
import math

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


def test_json_has_null_for_what_is_not_a_number(tmp_path):
    content = {"a": math.nan, "b": [1.5, math.inf, (2, -math.inf)], "c": {"d": None, "e": "NaN"}}
    expected = {"a": None, "b": [1.5, None, [2, None]], "c": {"d": None, "e": "NaN"}}
    assert json.loads(json_text(content)) == expected
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == expected
