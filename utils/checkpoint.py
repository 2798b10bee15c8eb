"""Checkpoints: self-describing, written atomically, loaded safely and with a report."""

from __future__ import annotations

import pickle
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datasets.spec import SegClass
from utils.files import atomic_path

FORMAT = 1

# What the ImageNet trunks and the published checkpoints were trained with; RGB in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DAMAGED = "truncated or damaged; copy or download it again"

_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's weights and everything needed to use them.

    A published checkpoint holds only weights; then `arch`, `dataset` and `classes` are None.
    training: what else is needed to resume a run: optimizer, loss scaler, best score, minutes spent, and with --ema the
    weights that are averaged; {} if not saved. Learning rate and random numbers follow from flags and epoch.
    """

    state_dict: Mapping[str, Tensor]
    arch: str | None = None
    dataset: str | None = None
    classes: tuple[SegClass, ...] | None = None
    epoch: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to a temporary file, sync it and rename it to `path`."""
    content = {
        "format": FORMAT,
        "state_dict": {bare_key(key): value.detach().cpu() for key, value in checkpoint.state_dict.items()},
        "arch": checkpoint.arch,
        "dataset": checkpoint.dataset,
        "classes": [[c.name, list(c.color), list(c.label_ids)] for c in checkpoint.classes or ()],
        "epoch": checkpoint.epoch,
        "scores": plain(checkpoint.scores),
        "config": plain(checkpoint.config),
        "versions": versions(),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "training": plain(checkpoint.training),
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # raised by PyTorch on a full disk
            raise OSError(f"{path} could not be written completely. Is the disk full?") from error


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {"torch": str(torch.__version__), "python": platform.python_version(), "numpy": np.__version__}


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of this project or a published one; never runs code from the file.

    Raises FileNotFoundError, or ValueError if the file is truncated, unsafe or not a checkpoint.
    """
    path = Path(path)
    content = load_tensors(path)
    weights = content.get("state_dict", content)
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise ValueError(f"{path}: not a checkpoint: it holds no state_dict of tensors.")
    state_dict = {bare_key(key): value for key, value in weights.items()}
    if content.get("format") is None:
        return Checkpoint(state_dict=state_dict)
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: unknown checkpoint format {content['format']}; update this project.")
    try:
        classes = tuple(SegClass(name, tuple(color), tuple(ids)) for name, color, ids in content["classes"])
        return Checkpoint(
            state_dict=state_dict,
            arch=content["arch"],
            dataset=content["dataset"],
            classes=classes or None,
            epoch=content["epoch"],
            scores=content["scores"],
            config=content["config"],
            mean=tuple(content["mean"]),
            std=tuple(content["std"]),
            training=content["training"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {DAMAGED}.") from error


def load_tensors(path: Path) -> dict[str, Any]:
    """What `torch.save` wrote to `path`, on the CPU, read with `weights_only`; the errors of `load_checkpoint`."""
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a checkpoint file.")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_numbers()):
            warnings.simplefilter("ignore")  # torch warns about a file that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        if "unsupported" in str(error).lower() and _is_checkpoint_file(path):
            raise ValueError(
                f"{path}: refused, it contains objects other than tensors and plain values, which could run code. "
                "If you trust it, convert it: torch.save({'state_dict': net.state_dict()}, file)."
            ) from error
        raise ValueError(f"{path}: not a checkpoint, or damaged.") from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(f"{path}: {DAMAGED}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint: it holds a {type(content).__name__}.")
    return content


def _numpy_numbers() -> list[Any]:
    """What torch needs to read a NumPy number (a score, in published files): plain values, no code."""
    number = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "?")]
    return [*((number, name) for name in names), np.dtype, *kinds]


def _is_checkpoint_file(path: Path) -> bool:
    """Whether it begins like a file of `torch.save`: a zip archive, formerly a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02")


def load_state(net: nn.Module, checkpoint: Checkpoint, path: Path | str) -> None:
    """Copy all weights of `checkpoint` into `net`. Raises ValueError, with a report, unless every tensor matches."""
    report = compare_state(net.state_dict(), checkpoint.state_dict)
    if report.wrong_shape and not report.missing and not report.unexpected:
        key, want, have = report.wrong_shape[-1]
        raise ValueError(
            f"{path}: the checkpoint does not fit: {key} has shape {have}, the network expects {want}; "
            "it was trained with another number of classes (--dataset) or has another architecture (--arch)."
        )
    if not report.complete:
        raise ValueError(f"{path}: the checkpoint has another architecture (--arch): {report.summary()}.")
    net.load_state_dict({key: checkpoint.state_dict[key] for key in report.matched}, strict=False)


def load_matching(net: nn.Module, checkpoint: Checkpoint, path: Path | str, *, at_least: float = 0.9) -> LoadReport:
    """Copy the weights that fit, so that a network can start from one with another number of classes.

    Raises ValueError if less than the share `at_least` of all tensors, the network's and the checkpoint's, fit: a
    deeper network of the same kind has all tensors of a shallower one, and more.
    """
    report = compare_state(net.state_dict(), checkpoint.state_dict)
    others = len(report.missing) + len(report.unexpected) + len(report.wrong_shape)
    if len(report.matched) < at_least * (len(report.matched) + others):
        raise ValueError(f"{path}: too little of the checkpoint fits the network (--arch): {report.summary()}.")
    net.load_state_dict({key: checkpoint.state_dict[key] for key in report.matched}, strict=False)
    return report


@dataclass(frozen=True)
class LoadReport:
    """How a state dict fits a network: keys, and (key, wanted shape, found shape)."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor matches."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def summary(self) -> str:
        """One line: counts, and the first key of each kind."""
        parts = [f"{len(self.matched)} tensors match"]
        shapes = [key for key, *_ in self.wrong_shape]
        for title, keys in (("missing", self.missing), ("unexpected", self.unexpected), ("with wrong shape", shapes)):
            if keys:
                parts.append(f"{len(keys)} {title} ({keys[0]}{', …' if len(keys) > 1 else ''})")
        return ", ".join(parts)


def compare_state(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> LoadReport:
    """Compare a network's own state dict with another's. Only `num_batches_tracked` may be missing."""
    matched = tuple(k for k, v in own.items() if k in other and other[k].shape == v.shape)
    wrong_shape = tuple(
        (k, tuple(v.shape), tuple(other[k].shape)) for k, v in own.items() if k in other and other[k].shape != v.shape
    )
    return LoadReport(
        matched=matched,
        missing=tuple(k for k in own if k not in other and not k.endswith("num_batches_tracked")),
        unexpected=tuple(k for k in other if k not in own),
        wrong_shape=wrong_shape,
    )


def bare_key(key: str) -> str:
    """`module.layer1.weight` -> `layer1.weight`."""
    while key.startswith(_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def plain(value: Any) -> Any:
    """`value` with NumPy numbers and unusual containers made plain Python, so that a safe load accepts the file."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
