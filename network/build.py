"""Build a network by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from config import ARCHITECTURES
from network import deepv3
from network.deepv3 import DeepLabV3Plus
from utils.flags import parse_numbers

MODULE_PREFIX = "network.deepv3."  # recipes of the published code use the full name
CONSTRUCTORS: dict[str, Callable[..., DeepLabV3Plus]] = {
    "DeepWV3Plus": deepv3.DeepWV3Plus,
    "DeepSRNX50V3PlusD_m1": deepv3.DeepSRNX50V3PlusD_m1,
    "DeepSRNX101V3PlusD_m1": deepv3.DeepSRNX101V3PlusD_m1,
    "DeepR18V3PlusD_m1": deepv3.DeepR18V3PlusD_m1,
    "DeepR50V3PlusD_m1": deepv3.DeepR50V3PlusD_m1,
    "DeepR101V3PlusD_m1": deepv3.DeepR101V3PlusD_m1,
    "DeepMNV3V3PlusD_m1": deepv3.DeepMNV3V3PlusD_m1,
    "DeepEffLite0V3PlusD_m1": deepv3.DeepEffLite0V3PlusD_m1,
    "DeepEffLite1V3PlusD_m1": deepv3.DeepEffLite1V3PlusD_m1,
    "DeepEffLite2V3PlusD_m1": deepv3.DeepEffLite2V3PlusD_m1,
}


def build_network(arch: str, num_classes: int, **head: Any) -> DeepLabV3Plus:
    """Build `arch`, given as `DeepWV3Plus` or as `network.deepv3.DeepWV3Plus`, with freshly initialised weights.

    head: `rates` and `refine` of `DeepLabV3Plus`, where they are not the network's usual ones (`head_options`).
    Raises ValueError for an unknown name.
    """
    name = arch.removeprefix(MODULE_PREFIX)
    if name not in CONSTRUCTORS:
        raise ValueError(f"--arch {arch!r} is unknown. Choose one of: {', '.join(ARCHITECTURES)}.")
    net = CONSTRUCTORS[name](num_classes, **head)
    net.head = head
    return net


def head_options(aspp_rates: str, refine: bool) -> dict[str, Any]:
    """What the flags say of the head, where it differs from the usual one. Raises ValueError for rates below 1."""
    options: dict[str, Any] = {"refine": True} if refine else {}
    if rates := parse_numbers(aspp_rates, "--aspp_rates"):
        if min(rates) < 1:
            raise ValueError(f"--aspp_rates must be positive, got {aspp_rates}.")
        options["rates"] = rates
    return options
