"""From a name to a network."""

from __future__ import annotations

from collections.abc import Callable

from network import deepv3
from network.deepv3 import DeepLabV3Plus
from network.names import ARCHITECTURES

MODULE_PREFIX = "network.deepv3."  # recipes of the published code give the full name
CONSTRUCTORS: dict[str, Callable[[int], DeepLabV3Plus]] = {
    "DeepMNV3V3PlusD_m1": deepv3.DeepMNV3V3PlusD_m1,
}


def build_network(arch: str, num_classes: int) -> DeepLabV3Plus:
    """Build `arch`, given as `DeepWV3Plus` or as `network.deepv3.DeepWV3Plus`, with freshly initialised weights.

    Raises ValueError for an unknown name.
    """
    constructor = CONSTRUCTORS.get(arch.removeprefix(MODULE_PREFIX))
    if constructor is None:
        raise ValueError(f"--arch {arch!r} is unknown. Choose one of: {', '.join(ARCHITECTURES)}.")
    return constructor(num_classes)
