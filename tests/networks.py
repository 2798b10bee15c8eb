"""Networks for tests: without memory, tiny, and what is recorded of the published ones."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from config import ARCHITECTURES
from network.blocks import Trunk
from network.deepv3 import DeepLabV3Plus, build_network

GOLDEN = Path(__file__).parent / "golden" / "networks"
LIGHT = ("DeepMNV3V3PlusD_m1", "DeepR18V3PlusD_m1")
# They have nothing that another network has not, only more of it.
LARGER = (
    "DeepSRNX101V3PlusD_m1", "DeepR101V3PlusD_m1", "DeepEffLite1V3PlusD_m1", "DeepEffLite2V3PlusD_m1", "DinoV2BaseDPT",
)  # fmt: skip
LARGER_ARE_SLOW = [pytest.param(arch, marks=pytest.mark.slow if arch in LARGER else ()) for arch in ARCHITECTURES]


def recorded_keys():
    """arch -> [(key, shape as text)] in order."""
    rows = {}
    with (GOLDEN / "checkpoint_keys.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            rows.setdefault(row["arch"], []).append((row["key"], row["shape"]))
    return rows


def without_memory(arch, num_classes=19):
    """The network with shapes but no values: even the largest costs nothing."""
    with torch.device("meta"):
        return build_network(arch, num_classes)


def tiny_network(num_classes=3):
    """A DeepLabV3+ of a few hundred weights, keyed as WideResNet38 is."""
    torch.manual_seed(0)
    modules = {
        "mod1": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1)),
        "mod2": nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1)),
    }
    trunk = Trunk(modules, stages=("mod1", "mod2"), fine_stage="mod1", fine_channels=4, out_channels=6)
    return DeepLabV3Plus(trunk, num_classes, rates=(1, 2), width=8)


def trunk_parameters(net):
    return [parameter for module in net.trunk_modules() for parameter in module.parameters()]
