"""Plots: text as it is written, and all made in one way."""

from __future__ import annotations

import matplotlib
import pytest

from tests.test_layers import ROOT, project_files
from utils.plots import new_plot

NAMES = ("$\\frac{1$", "a_b^c", "100 %", "\\alpha")


def test_text_is_shown_as_it_is_written_wherever_it_stands(tmp_path):
    with matplotlib.rc_context({"svg.fonttype": "none"}), new_plot(tmp_path / "p.svg", (5, 3), dpi=50) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], label=NAMES[0])
        axes.set_title(NAMES[1])
        axes.set_xticks([0, 1], NAMES[:2])
        axes.annotate(NAMES[2], (0, 0))
        axes.set_ylabel(NAMES[3])
        axes.legend()
    shown = (tmp_path / "p.svg").read_text()
    assert [shown.count(f">{name}</text>") for name in NAMES] == [2, 2, 1, 1]


def test_no_plot_is_left_by_an_error(tmp_path):
    with pytest.raises(ValueError, match="no"), new_plot(tmp_path / "p.png", (5, 2), dpi=50):
        raise ValueError("no")
    assert list(tmp_path.iterdir()) == []


def test_every_plot_of_the_project_is_made_here():
    files = [*map(ROOT.joinpath, project_files()), *ROOT.glob("benchmarks/*.py")]
    drawing = {path.name for path in files if "savefig" in path.read_text(encoding="utf-8")}
    assert drawing == {"plots.py"}
