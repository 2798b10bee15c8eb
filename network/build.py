"""Build a network by name, and load ImageNet weights from a file into its trunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from network import deepv3
from network.deepv3 import DeepLabV3Plus
from network.names import ARCHITECTURES
from utils.checkpoint import LoadReport, compare_state, load_checkpoint, unwrap

MODULE_PREFIX = "network.deepv3."  # recipes of the published code use the full name
CONSTRUCTORS: dict[str, Callable[[int], DeepLabV3Plus]] = {
    "DeepWV3Plus": deepv3.DeepWV3Plus,
    "DeepSRNX50V3PlusD_m1": deepv3.DeepSRNX50V3PlusD_m1,
    "DeepSRNX101V3PlusD_m1": deepv3.DeepSRNX101V3PlusD_m1,
    "DeepR18V3PlusD_m1": deepv3.DeepR18V3PlusD_m1,
    "DeepR50V3PlusD_m1": deepv3.DeepR50V3PlusD_m1,
    "DeepR101V3PlusD_m1": deepv3.DeepR101V3PlusD_m1,
    "DeepMNV3V3PlusD_m1": deepv3.DeepMNV3V3PlusD_m1,
}
# Layers after the trunk in ImageNet files: of ResNet, SE-ResNeXt, MobileNetV3, and WideResNet38.
IMAGENET_HEADS = ("fc.", "last_linear.", "classifier.", "bn_out.")
TRUNK_SHARE = 0.9


def build_network(arch: str, num_classes: int) -> DeepLabV3Plus:
    """Build `arch`, given as `DeepWV3Plus` or as `network.deepv3.DeepWV3Plus`, with freshly initialised weights.

    Raises ValueError for an unknown name.
    """
    name = arch.removeprefix(MODULE_PREFIX)
    if name not in CONSTRUCTORS:
        raise ValueError(f"--arch {arch!r} is unknown. Choose one of: {', '.join(ARCHITECTURES)}.")
    return CONSTRUCTORS[name](num_classes)


def load_trunk_weights(net: DeepLabV3Plus, path: Path | str) -> LoadReport:
    """Copy ImageNet weights, or the trunk of another checkpoint, from a local file into the trunk of `net`.

    Accepts the keys of torchvision's ResNet and MobileNetV3, of the published SE-ResNeXt and WideResNet38 files,
    and of this project, bare or with any prefix, plain or under `state_dict`. The file's head is ignored.
    Raises FileNotFoundError, or ValueError if the file is damaged, unsafe or for another trunk, that is, if less than
    `TRUNK_SHARE` of the tensors of both trunks match (a ResNet-101 file holds all of ResNet-50's keys, and more).
    """
    content = load_checkpoint(path).state_dict
    own = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    found = unwrap(content, lambda key: net.trunk_key(key) in own)
    found = {net.trunk_key(key): value for key, value in found.items() if not key.startswith(IMAGENET_HEADS)}
    report = compare_state(own, found)
    foreign = [key for key in report.unexpected if net.is_trunk_key(key)]
    num_tensors = len(report.matched) + len(report.missing) + len(report.wrong_shape) + len(foreign)
    if len(report.matched) < TRUNK_SHARE * num_tensors:
        raise ValueError(
            f"{path}: not the weights of this trunk (--arch): {len(report.matched)} of {num_tensors} tensors match. "
            f"The file has {_examples(content)}; expected {_examples(own)}."
        )
    net.load_state_dict({key: found[key] for key in report.matched}, strict=False)
    return report


def _examples(tensors: Mapping[str, Tensor]) -> str:
    """The first, the middle and the last key, with shapes."""
    keys = list(tensors)
    picked = dict.fromkeys((keys[0], keys[len(keys) // 2], keys[-1]))
    return ", ".join(f"{key} {tuple(tensors[key].shape)}" for key in picked)
