"""Checkpoints: self-describing, written atomically, loaded safely and with a report."""

from __future__ import annotations

import json
import os
import platform
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from datasets.specs.spec import SegClass
from utils.files import atomic_path, json_text

FORMAT = 1
_PLAIN_FIELDS = ("arch", "head", "dataset", "epoch", "scores", "config", "mean", "std", "temperature")
SAFETENSORS, ONNX = ".safetensors", ".onnx"
SHARE_TO_FIT = 0.9  # of the tensors, where some may differ
NOTE = "kerbline"  # what describes the network in such a file's metadata, as JSON
_UNREADABLE = (
    "truncated, damaged, or no file of weights of PyTorch or safetensors (but perhaps a page, an archive or a git-lfs "
    "pointer); copy or download it again"
)

# What the ImageNet trunks and the published checkpoints were trained with; RGB in 0..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Parts that DistributedDataParallel, torch.compile, FSDP and activation checkpointing put into keys, anywhere.
_WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_COUNT = "n_averaged"  # what torch's AveragedModel keeps beside the weights


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's weights and everything needed to use them.

    A published checkpoint holds only weights; then `arch`, `dataset` and `classes` are None.
    head: what differs from the architecture's usual head (`config.ModelConfig.head`). temperature: see
    `inference.confidence`.
    training: what else is needed to resume a run: optimizer, loss scaler, best score, minutes spent, and with --ema the
    weights that are averaged; {} if not saved. Learning rate and random numbers follow from flags and epoch.
    """

    state_dict: Mapping[str, Tensor]
    arch: str | None = None
    head: Mapping[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    classes: tuple[SegClass, ...] | None = None
    epoch: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    temperature: float = 1.0
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint, previous: Path | None = None) -> None:
    """Write `checkpoint` to a temporary file, sync it and rename it to `path`; what was there is kept as `previous`.

    A name that ends in .safetensors gives a file of that format, which other programs read too: the tensors, and the
    description as JSON in its metadata; `training` is left out. Raises ValueError if a tensor is NaN or infinite.
    """
    weights = {key: value.detach().cpu() for key, value in checkpoint.state_dict.items()}
    _check_finite(weights, path)
    description = describe(checkpoint)
    with atomic_path(path) as temporary:
        try:
            if path.suffix == SAFETENSORS:
                weights = {key: value.contiguous() for key, value in weights.items()}
                save_file(weights, temporary, {"format": "pt", NOTE: json_text(description)})
            else:
                torch.save({**description, "state_dict": weights, "training": checkpoint.training}, temporary)
        except (RuntimeError, SafetensorError) as error:  # raised on a full disk
            raise OSError(f"{path} could not be written completely. Is the disk full?") from error
        if previous and path.exists():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)  # so that at any moment one of the two is there and whole
            except OSError:  # a file system without links
                path.replace(previous)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make sure that the names in it outlive a power failure, as far as the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision. Batch norms stay: they are small, and a variance may exceed half precision's range."""
    return {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything but the tensors, as plain values: what each file of this project holds beside them."""
    return {
        "format": FORMAT,
        "classes": [[c.name, list(c.color), list(c.label_ids)] for c in checkpoint.classes or ()],
        "versions": versions(),
        **{name: plain(getattr(checkpoint, name)) for name in _PLAIN_FIELDS},
    }


def versions() -> dict[str, str]:
    """The versions of what computes."""
    return {"torch": str(torch.__version__), "python": platform.python_version(), "numpy": np.__version__}


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of this project or a published one, also from safetensors; never runs code from the file.

    Raises FileNotFoundError, or ValueError if the file is truncated, unsafe or not a checkpoint, or if a tensor is NaN
    or infinite.
    """
    path = Path(path)
    content = _read_file(path)
    network = _network_in(content, path)
    state_dict = {_WRAPPERS.sub("", key): value for key, value in network.items() if key != _COUNT}
    _check_finite(state_dict, path)
    return as_described(content, state_dict, path)


def as_described(content: Mapping[str, Any], state_dict: Mapping[str, Tensor], path: Path) -> Checkpoint:
    """The checkpoint with this `state_dict` that `describe` describes; without a description, the tensors alone.

    Raises ValueError, naming `path`, if the description is damaged or of a later version.
    """
    if not isinstance(content.get("format"), int):  # other programs mean something else by it
        return Checkpoint(state_dict=state_dict)
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: unknown checkpoint format {content['format']}; update this project.")
    # Absent from files of earlier versions, or from safetensors.
    content = {"head": {}, "training": {}, "temperature": 1.0, **content}
    try:
        classes = tuple(SegClass(name, tuple(color), tuple(ids)) for name, color, ids in content["classes"])
        fields = {name: content[name] for name in _PLAIN_FIELDS}
        fields |= {name: tuple(content[name]) for name in ("mean", "std")}
        fields |= {name: dict(content[name]) for name in ("head", "scores", "config", "training")}
        return Checkpoint(state_dict=state_dict, classes=classes or None, **fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: truncated or damaged; copy or download it again.") from error


def _read_file(path: Path) -> dict[str, Any]:
    """What `torch.save` or safetensors wrote, on the CPU. From safetensors: what NOTE says, and `state_dict`.

    From an ONNX file, which needs the package `onnx`: the tensors.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file of weights.")
    with path.open("rb") as file:
        head = file.read(9)
    try:
        if path.suffix == ONNX:
            return {"state_dict": _read_onnx(path)}
        # The length of a JSON header, 8 bytes, and that header.
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
            with safe_open(path, "pt") as tensors:
                note = json.loads((tensors.metadata() or {}).get(NOTE, "{}"))
                return {**note, "state_dict": {key: tensors.get_tensor(key) for key in tensors.keys()}}  # noqa: SIM118
        with warnings.catch_warnings(), torch.serialization.safe_globals(_numpy_numbers()):
            warnings.simplefilter("ignore")  # torch warns about a file that it then refuses
            content = torch.load(path, map_location="cpu", weights_only=True)
            if zipfile.is_zipfile(path) and "versions" in content:  # of this project
                with zipfile.ZipFile(path) as file:
                    if file.testzip():  # torch passes over the check sums
                        raise zipfile.BadZipFile
    except (PermissionError, MemoryError):
        raise
    except ImportError as error:
        raise ValueError(f"{path}: reading an ONNX file needs a package: pip install onnx") from error
    except Exception as error:  # a damaged file can make the unpickler raise anything
        raise ValueError(f"{path}: {_why_unreadable(str(error))}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a checkpoint: it holds a {type(content).__name__}.")
    return content


def _read_onnx(path: Path) -> dict[str, Tensor]:
    """The tensors of a network that was exported from PyTorch, under their names there.

    The exporter transposes and renames the weight of a linear layer; the bias added to its product still tells it.
    """
    import onnx

    graph = onnx.load(path).graph
    tensors = {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        weights = [products[name] for name in node.input if products.get(name) in tensors]
        biases = [name for name in node.input if name.endswith(".bias")]
        if node.op_type == "Add" and weights and biases:
            tensors[f"{biases[0].removesuffix('bias')}weight"] = tensors.pop(weights[0]).T
    return tensors


def _numpy_numbers() -> list[Any]:
    """What torch needs to read a NumPy number (a score, in published files): plain values, no code."""
    number = np.float64(0).__reduce__()[0]
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    kinds = [type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "?")]
    return [*((number, name) for name in names), np.dtype, *kinds]


def _why_unreadable(told: str) -> str:
    """What a file that could not be read is, and the way out. told: by torch."""
    if "TorchScript archives" in told:
        return "a TorchScript network; convert it: torch.save(torch.jit.load(FILE).state_dict(), OTHER_FILE)"
    if "unsupported global" in told.lower():
        return (
            "refused, it contains objects other than tensors and plain values, which could run code. If you "
            "trust it, save its weights alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], OTHER)"
        )
    return _UNREADABLE


def _network_in(content: Mapping[str, Any], path: Path) -> Mapping[str, Tensor]:
    """The tensors in what a file holds: its `state_dict`, else its `model`, each perhaps inside the other; or all."""
    network: Any = content
    while isinstance(network, Mapping) and (keys := [key for key in ("state_dict", "model") if key in network]):
        network = network[keys[0]]
    if not (isinstance(network, Mapping) and network and all(isinstance(one, Tensor) for one in network.values())):
        raise ValueError(f"{path}: not a checkpoint: it holds no state_dict of tensors.")
    return network


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of the weights and batch norm statistics that has NaN or infinite values, and how many; or None."""
    for key, value in tensors.items():
        if value.layout != torch.strided or value.is_quantized:
            return f"{key} (it is sparse or quantised, which no network here is)"
        if value.is_floating_point() and not (finite := torch.isfinite(value.float())).all():
            return f"{key} ({finite.numel() - int(finite.sum())} of {finite.numel()} values)"
    return None


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    if bad := not_finite(tensors):
        raise ValueError(f"{path}: NaN or infinite: {bad}. Take an earlier or another checkpoint.")


def load_state(net: nn.Module, checkpoint: Checkpoint, path: Path | str, *, partly: bool = False) -> LoadReport:
    """Copy the weights of `checkpoint` into `net`. Raises ValueError, with a report, unless every tensor matches.

    partly: it is enough that it `fits`, so that a network can start from one with another number of classes.
    """
    own = net.state_dict()
    found, unused = unwrap(checkpoint.state_dict, own.__contains__), getattr(net, "unused_keys", ())
    found = {key: value for key, value in found.items() if not key.startswith(unused)}
    report = compare_state(own, found)
    if partly and not report.fits:
        raise ValueError(f"{path}: too little of the checkpoint fits the network (--arch): {report.summary()}.")
    if not (partly or report.complete):
        raise ValueError(
            f"{path}: the checkpoint has another number of classes (--dataset) or architecture (--arch) than the "
            f"network: {report.summary()}."
        )
    net.load_state_dict({key: found[key] for key in report.matched}, strict=False)
    return report


class LoadReport(NamedTuple):
    """How a state dict fits a network, by its keys; where shapes are wrong, with these."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor matches."""
        return not any(self[1:])

    @property
    def fits(self) -> bool:
        """Whether `SHARE_TO_FIT` of all tensors match: a deeper network has all of a shallower one's, and more."""
        return len(self.matched) >= SHARE_TO_FIT * sum(map(len, self))

    def summary(self) -> str:
        """One line: counts, and the first key of each kind."""
        parts = [f"{len(self.matched)} tensors match"]
        for title, keys in zip(("missing", "unexpected", "with wrong shape"), self[1:], strict=True):
            if keys:
                parts.append(f"{len(keys)} {title} ({keys[0]}{', …' if len(keys) > 1 else ''})")
        return ", ".join(parts)


def compare_state(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> LoadReport:
    """Compare a network's own state dict with another's. Only `num_batches_tracked` may be missing."""
    shapes = [(key, tuple(own[key].shape), tuple(other[key].shape)) for key in own if key in other]
    return LoadReport(
        matched=tuple(key for key, want, have in shapes if want == have),
        missing=tuple(key for key in own if key not in other and not key.endswith("num_batches_tracked")),
        unexpected=tuple(key for key in other if key not in own),
        # The last one first, the classifier.
        wrong_shape=tuple(f"{key} {have}, expected {want}" for key, want, have in reversed(shapes) if want != have),
    )


def unwrap(tensors: Mapping[str, Tensor], is_own: Callable[[str], bool]) -> dict[str, Tensor]:
    """The tensors of a network that are part of something larger, by the network's own keys; is_own tells these.

    Whatever holds a network as an attribute puts that name before its keys: `model.` in Lightning, `student.`,
    `segmentor.backbone.`. It is the prefix under which most of its keys are, the first one where several have as many;
    tensors without it (of a loss, of the teacher) do not belong to the network.
    """
    found: Counter[str] = Counter()
    for key in tensors:
        starts = [0, *(i + 1 for i, letter in enumerate(key) if letter == ".")]
        found.update(key[:start] for start in starts if is_own(key[start:]))
    prefix = max(found, key=found.__getitem__, default="")
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def plain(value: Any) -> Any:
    """A copy of `value`, tensors on the CPU, in plain Python without NumPy numbers, which a safe load accepts."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    return value
