"""From a checkpoint file to a network, its classes and a predictor."""

from __future__ import annotations

import copy
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config import short_name
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import DatasetSpec, SegClass, class_colors
from inference.exported import PT2, ExportedNetwork, open_exported
from inference.predictor import MIN_SIDE, Predictor
from inference.results import choose_kinds
from inference.settings import SNAPSHOT, DemoConfig, DemoFolderConfig
from network.blocks import Network
from network.checkpoint import ONNX, Checkpoint, load_checkpoint, load_state
from network.deepv3 import DeepLabV3Plus, build_network
from network.fuse import (
    fuse_activations,
    fuse_batch_norms,
    fuse_reductions,
    store_weights_in,
    use_kn2row,
    use_space_to_batch,
)
from utils.device import compile_for, resolve_device
from utils.files import writable_folder
from utils.flags import parse_numbers
from utils.images import Uint8Array, colorize

DEFAULT_ARCH, DEFAULT_DATASET = "DeepWV3Plus", "cityscapes"  # what the published code assumes


@dataclass(frozen=True)
class Model:
    """A network with its weights, and what its outputs mean. checkpoint: its description, without the weights."""

    net: Network | ExportedNetwork
    arch: str
    classes: tuple[SegClass, ...]
    checkpoint: Checkpoint

    def predictor(
        self, device: str | torch.device = "auto", *, bf16: bool = False, compile: bool = False, **how: Any
    ) -> Predictor:
        """A predictor with a fast copy of the network. how: scales, flip, tile ... of `Predictor`."""
        if (how.get("tile") or MIN_SIDE) < MIN_SIDE:
            raise ValueError(f"--tile, --crop_size {how['tile']}: in fewer than {MIN_SIDE} pixels nothing is seen.")
        device = resolve_device(device) if isinstance(device, str) else device
        amp = torch.bfloat16 if bf16 else None
        if isinstance(self.net, ExportedNetwork) and (bf16 or compile):
            raise ValueError(f"--bf16 and --compile do not change an exported file: {self.net.path} runs as it is.")
        net: nn.Module = self.net
        if isinstance(net, Network):
            net = fast_network(copy.deepcopy(net), device, amp=amp, compile=compile)
        mean, std = self.checkpoint.mean, self.checkpoint.std
        return Predictor(
            net, len(self.classes), device=device, amp=amp, mean=mean, std=std,
            temperature=self.checkpoint.temperature, **how,
        )  # fmt: skip

    def paint(self, prediction: Uint8Array) -> Uint8Array:
        """The colours [H, W, 3] uint8 RGB of train ids [H, W] uint8."""
        return colorize(prediction, class_colors(self.classes))


def load_model(
    snapshot: Path | str = SNAPSHOT, *, arch: str | None = None, dataset: str | None = None,
    find_spec: Callable[[str], DatasetSpec] = dataset_spec,
) -> Model:
    """Build the network that a checkpoint holds, by default the one that this project carries, and load its weights.

    snapshot: a checkpoint, or a file of `export.py`, which runs as it is.
    arch, dataset: of a checkpoint that does not say so itself; ValueError if they contradict it. find_spec: name ->
    declaration; if the data's folder is known, a function that also reads it.
    """  # fmt: skip
    spec = None if dataset is None else find_spec(dataset)  # a misspelt name fails before a large file is read
    exported = open_exported(snapshot) if Path(snapshot).suffix in (ONNX, PT2) else None
    checkpoint = exported.checkpoint if exported else load_checkpoint(snapshot)
    arch = _arch(arch, checkpoint, snapshot)
    classes = _classes(spec, checkpoint, snapshot, find_spec)
    if exported:
        return Model(exported, arch, classes, checkpoint)
    net = build_network(arch, len(classes), **checkpoint.head)
    load_state(net, checkpoint, snapshot)
    return Model(net, arch, classes, replace(checkpoint, state_dict={}, training={}))


def prepare_demo(config: DemoConfig | DemoFolderConfig) -> tuple[Model, frozenset[int] | None, Predictor, Path]:
    """What the demos' flags describe: model, train ids to show (None: all), predictor, folder of the results."""
    model, output = load_model(**vars(config.model)), config.output
    wanted = wanted_classes(output.classes, model.classes)
    predictor = model.predictor(
        config.device.device, scales=parse_numbers(output.scales, "--scales", float, positive=True),
        flip=output.flip, tile=output.tile, max_memory=output.max_memory, bf16=output.bf16, compile=output.compile,
        confidence="confidence" in choose_kinds(output.outputs),
    )  # fmt: skip
    return model, wanted, predictor, writable_folder(Path(output.save_dir), "--save-dir")


def wanted_classes(names: str, classes: Sequence[SegClass]) -> frozenset[int] | None:
    """Train ids of the classes that `--classes` lists, regardless of case; None if it lists none.

    A name that holds a comma is in double quotes, as in a CSV file. Raises ValueError for an unknown name.
    """
    known = {seg_class.name.casefold(): train_id for train_id, seg_class in enumerate(classes)}
    listed = [name.strip() for name in next(csv.reader([" ".join(names.split())], skipinitialspace=True), [])]
    if unknown := [name for name in listed if name and name.casefold() not in known]:
        choices = ", ".join(f'"{c.name}"' if "," in c.name else c.name for c in classes)
        raise ValueError(f"--classes: there is no class {unknown[0]!r}. Choose from: {choices}.")
    return frozenset(known[name.casefold()] for name in listed if name) or None


def fast_network(
    net: Network, device: torch.device, *, amp: torch.dtype | None = None, compile: bool = False
) -> nn.Module:
    """`net` made fast for evaluation, in place: layers folded, channels last, compiled on request.

    amp: the type that it will be autocast to; its weights are stored in that type, so that it runs in no other.
    Its logits stay small: the predictor upsamples them.
    """
    net.eval().upsamples = False
    if isinstance(net, DeepLabV3Plus):
        fuse_batch_norms(net)
        fuse_reductions(net)
        if amp is torch.bfloat16 and has_matrix_tiles(device):
            use_kn2row(net)
        if amp is torch.bfloat16 and is_hopper(device):
            use_kn2row(net)
            if not compile:  # which fuses activations itself
                fuse_activations(net)
            use_space_to_batch(net)
    if amp is not None:
        store_weights_in(net, amp)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not compile:
        return net
    compiled = compile_for(net, device)
    return Frozen(compiled) if device.type == "cpu" else compiled


class Frozen(nn.Module):
    """A network compiled, at its first image, with its weights as constants, in a layout that suits the machine."""

    def __init__(self, compiled: nn.Module) -> None:
        super().__init__()
        self.net = compiled

    def forward(self, images: Tensor) -> Tensor:
        """The network's output, without gradients."""
        from torch._inductor import config  # takes half a second, so only with --compile

        # As an option of torch.compile it would come too late: tracing happens first and makes the weights inputs.
        with torch.no_grad(), config.patch(freezing=True):
            logits: Tensor = self.net(images)
        return logits


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether the device is a CPU with AMX, which multiplies bfloat16 matrices many times as fast as float32 ones."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, so it may go
    return device.type == "cpu" and bool(supported and supported())


def is_hopper(device: torch.device) -> bool:
    """Whether the device is a GPU of NVIDIA's Hopper generation (H100, H200)."""
    if device.type != "cuda" or torch.version.cuda is None:  # PyTorch also calls AMD's GPUs "cuda"
        return False
    return torch.cuda.get_device_capability(device)[0] == 9


def _arch(wanted: str | None, checkpoint: Checkpoint, snapshot: Path | str) -> str:
    given, known = (short_name(name or "") for name in (wanted, checkpoint.arch))
    if known.startswith("SDCNet_"):
        use = "it works with propagate.py --flow sdc" if known == "SDCNet_reconstruction" else "it segments nothing"
        raise ValueError(f"{snapshot} holds {known}, a motion network of video.train; {use}.")
    if given and known and given != known:
        raise ValueError(f"--arch {wanted} contradicts {snapshot}, which is a {known}. Leave --arch out.")
    if not given and not known:
        notice = f"notice: {snapshot} does not name its architecture; assuming {DEFAULT_ARCH} (see --arch)."
        print(notice, file=sys.stderr)
    return given or known or DEFAULT_ARCH


def _classes(
    spec: DatasetSpec | None, checkpoint: Checkpoint, snapshot: Path | str, find_spec: Callable[[str], DatasetSpec]
) -> tuple[SegClass, ...]:
    classes = checkpoint.classes
    if classes is None:
        if spec is None:
            notice = f"notice: {snapshot} does not store its classes; assuming {DEFAULT_DATASET} (see --dataset)."
            print(notice, file=sys.stderr)
        return (spec or find_spec(DEFAULT_DATASET)).classes
    # Data sets with the same classes (cityscapes, kitti) are interchangeable here.
    if spec is not None and spec.class_names != tuple(seg_class.name for seg_class in classes):
        raise ValueError(f"--dataset {spec.name} contradicts {snapshot}, which has other classes. Leave --dataset out.")
    return classes
