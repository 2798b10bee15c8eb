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
from torch import nn

from config import short_name
from datasets.specs.registry import dataset_spec
from datasets.specs.spec import DatasetSpec, SegClass
from inference.exported import PT2, ExportedNetwork, open_exported
from inference.predictor import MIN_SIDE, Predictor
from inference.results import choose_kinds
from inference.settings import SNAPSHOT, DemoConfig, DemoFolderConfig
from network.blocks import Network
from network.checkpoint import ONNX, Checkpoint, load_checkpoint, load_state
from network.deepv3 import build_network
from network.fuse import fast_network
from utils.device import resolve_device
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
        return colorize(prediction, [c.color for c in self.classes])


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
