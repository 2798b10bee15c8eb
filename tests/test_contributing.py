"""CONTRIBUTING.md's recipes work as written."""

import re
from typing import Any

import numpy as np
import pytest
import torch

from datasets.files import find_samples
from datasets.segmentation import load_sample
from datasets.specs import registry
from network import deepv3
from tests.conftest import ROOT
from utils.images import write_image


def recipe(title: str) -> dict[str, Any]:
    """What the Python code below a heading defines."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"## {title}\n")[1]
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], names)
    return names


def test_a_data_set_is_declared_in_ten_lines(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.DATASETS, "mytown", recipe("Add a data set")["MYTOWN"])
    for folder, pixels in (
        ("images", np.zeros((2, 3, 3), np.uint8)),
        ("labels", np.array([[7, 26, 27], [0, 7, 7]], np.uint8)),
    ):
        (tmp_path / folder / "train").mkdir(parents=True)
        write_image(tmp_path / folder / "train" / "a.png", pixels)
    spec = registry.DATASETS["mytown"]
    _, labels = load_sample(find_samples(spec, tmp_path, "train")[0], spec)
    assert labels.tolist() == [[0, 1, 1], [255, 0, 0]]


def test_a_trunk_is_a_function_and_a_row(monkeypatch):
    ((name, row),) = recipe("Add a trunk")["ROW"].items()
    monkeypatch.setitem(deepv3.NETWORKS, name, row)
    net = deepv3.build_network(name, 5).eval()
    assert net(torch.zeros(1, 3, 64, 96)).shape == (1, 5, 64, 96)


def test_a_loss_is_a_function_of_logits_and_labels():
    focal_loss = recipe("Add a loss")["focal_loss"]
    labels = torch.tensor([[[0, 1, 255]]])
    assert focal_loss(torch.zeros(1, 2, 1, 3), labels).item() == pytest.approx(0.25 * np.log(2))
    assert focal_loss(torch.zeros(1, 2, 1, 3), torch.full((1, 1, 3), 255)) == 0
