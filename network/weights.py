"""ImageNet weights for trunks: which files are at hand, whose keys are understood, and how they are loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from config import short_name
from network.blocks import Network
from network.checkpoint import IMAGENET_MEAN, IMAGENET_STD, LoadReport, compare_state, load_checkpoint, unwrap
from network.deepv3 import NETWORKS

IMAGENET = "imagenet"  # --trunk_weights: the file that is at hand
CARRIED = Path(__file__).parent.parent / "pretrained_models"


def find_imagenet_weights(arch: str) -> Path:
    """The ImageNet weights for the trunk of `arch` that this project carries, or that lie in `pretrained_models/`.

    Raises FileNotFoundError saying what to get, and how the file has to be called.
    """
    names = NETWORKS[short_name(arch)]
    patterns = [f"{model}[-_.]*" for model in (names.timm, names.torchvision) if model]
    patterns += [names.published] if names.published else []
    for pattern in patterns:
        for path in sorted(CARRIED.glob(pattern)):
            return path
    raise FileNotFoundError(
        f"--trunk_weights {IMAGENET}: there are none for {arch} in {CARRIED}. Put timm's, torchvision's or the "
        f"published code's there, under a name like {' or '.join(patterns)}, or name the file itself."
        + (f" The published one: {names.source}" if names.source else "")
    )


def load_trunk_weights(net: Network, path: Path | str) -> LoadReport:
    """Copy ImageNet weights, or the trunk of another checkpoint, from a local file into the trunk of `net`.

    Accepts the keys of torchvision, timm and the published files for every trunk that has a counterpart there, and this
    project's, bare or with any prefix, plain or under `state_dict`; of DINOv2 also Hugging Face's. The file's head is
    ignored.
    Raises FileNotFoundError, or ValueError if the file is damaged, unsafe or for another trunk, see `LoadReport.fits`.
    """
    content = net.unify_keys(load_checkpoint(path).state_dict)
    own = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    bare = unwrap(content, lambda key: net.trunk_key(key) in own)
    renamed = ((net.trunk_key(key), value) for key, value in bare.items())
    found = {key: value for key, value in renamed if net.is_trunk_key(key) and not key.startswith(net.unused_keys)}
    report = compare_state(own, found)
    if not report.fits:
        raise ValueError(
            f"{path}: not the weights of this trunk (--arch): {report.summary()}. "
            f"The file has {', '.join(list(content)[:3])}, …; expected {', '.join(list(own)[:3])}, …"
        )
    if net.published_norm and found.keys().isdisjoint(bare):
        expect_imagenet_norm(found, *net.published_norm)
    net.load_state_dict({key: found[key] for key in report.matched}, strict=False)
    return report


def expect_imagenet_norm(trunk: dict[str, Tensor], mean: float, std: float) -> None:
    """Rewrite the first convolution of `trunk`, in place, for images normalised with ImageNet's mean and deviation.

    mean, std: what its weights expect, of values from 0 to 1. With x = (v - mean) / std, the deviation goes into the
    weights and the offset into the batch norm that follows. (Zeros beyond the image now mean ImageNet's mean colour,
    which differs by at most 0.18 of a deviation.)
    """
    weight_key, _, _, mean_key = list(trunk)[:4]
    weight = trunk[weight_key].float()
    factor = torch.tensor(IMAGENET_STD) / std
    offset = (torch.tensor(IMAGENET_MEAN) - mean) / std
    trunk[mean_key] = trunk[mean_key].float() - (weight * offset[:, None, None]).sum((1, 2, 3))
    trunk[weight_key] = weight * factor[:, None, None]
