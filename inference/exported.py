"""Networks in files that run without this project: ONNX, and PyTorch's own `.pt2`. Writing them, and running them."""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.settings import ONNX_PACKAGES
from network.checkpoint import NOTE, ONNX, Checkpoint, as_described
from utils.command import one_line
from utils.device import normalise, upsample
from utils.files import json_text

PT2 = ".pt2"
IMAGES, COARSE = "images", "coarse_logits"  # names in the files: of the input, and of a second output beside labels
TRACED_SIZE = (131, 167)  # of the images that a network for all sizes is traced with: no side is a special case


class Deployed(nn.Module):
    """A network with the steps around it, for programs that have none of their own.

    input: "uint8": RGB [B, H, W, 3] as decoded; "float": normalised, [B, 3, H, W] float32.
    output: "labels": train ids [B, H, W] uint8, and the logits [B, C, h, w] float32 that they come from, which may be
    coarser; "logits" or "probabilities": [B, C, H, W] float32 alone. temperature: of the probabilities.
    """

    def __init__(
        self, net: nn.Module, *, input: str, output: str, mean: Sequence[float], std: Sequence[float],
        temperature: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.input, self.output, self.temperature = net.eval(), input, output, temperature
        self.dtype = next(net.parameters()).dtype
        # Constants of its own: `normalise` makes them when it is first called, which while tracing is too late.
        self.shift = nn.Buffer(255 * torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.scale = nn.Buffer(1 / (255 * torch.tensor(std).view(3, 1, 1)), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for a batch of images."""
        if self.input == "uint8":
            images = (images.permute(0, 3, 1, 2).float() - self.shift) * self.scale
        logits = self.net(images.to(self.dtype)).float()
        full = upsample(logits, (images.shape[2], images.shape[3]))
        if self.output == "labels":
            return full.argmax(1).to(torch.uint8), logits
        return (full if self.output == "logits" else (full / self.temperature).softmax(1),)


def capture(net: Deployed, size: tuple[int, int] | None) -> torch.export.ExportedProgram:
    """`net` as a graph, for images of `size` (rows, columns), or of any size, in batches of any length."""
    shape = (2, *(size or TRACED_SIZE))
    images = torch.zeros(*shape, 3, dtype=torch.uint8) if net.input == "uint8" else torch.zeros(2, 3, *shape[1:])
    first = 1 if net.input == "uint8" else 2
    free = dict.fromkeys((0, *(() if size else (first, first + 1))), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        return torch.export.export(net, (images,), dynamic_shapes=(free,), strict=False)


def write_exported(
    path: Path, net: Deployed, description: Mapping[str, Any], size: tuple[int, int] | None = None
) -> None:
    """Write `net` as the suffix says, `.onnx` or `.pt2`, with its description, see `network.checkpoint.describe`.

    size: rows and columns of the images; None: any. Raises ValueError if a package is missing, or if the network cannot
    be traced.
    """
    notes = {"input": net.input, "output": net.output, "size": size, **description}
    if path.suffix == ONNX:
        check_packages(path)
    try:
        program = capture(net, size)
        if path.suffix != ONNX:
            torch.export.save(program, path, extra_files={NOTE: json_text(notes)})
            return
        names = [net.output, *([COARSE] if net.output == "labels" else [])]
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # of torchvision's operators, which no network has
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch about itself
            graph = torch.onnx.export(program, dynamo=True, verbose=False, input_names=[IMAGES], output_names=names)
        assert graph is not None
        for value in (graph.model.graph.inputs[0], graph.model.graph.outputs[0]):
            free = iter(("batch", "height", "width"))
            assert value.shape is not None
            value.shape = type(value.shape)([side if isinstance(side, int) else next(free) for side in value.shape])
        graph.model.metadata_props.update({key: json_text(value) for key, value in notes.items()})
        graph.save(path)
    except (RuntimeError, TypeError, AssertionError) as error:
        wayout = "" if size else " Give a fixed --size."
        raise ValueError(f"the network cannot be exported: {one_line(error)[:200]}.{wayout}") from error


def quantise(path: Path, images: Sequence[NDArray[np.uint8]]) -> None:
    """Have the convolutions of an ONNX file compute in 8 bits, each output channel with a scale of its own.

    All but the first, whose rounding alone would change eight times as many labels as that of all others together.
    images: RGB [H, W, 3], which the range of each map is measured on.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = iter([{IMAGES: image[None]} for image in images])
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        first = next(node.name for node in onnx.load(prepared).graph.node if node.op_type == "Conv")
        quantize_static(
            prepared, path, SimpleNamespace(get_next=lambda: next(feeds, None)), per_channel=True,
            op_types_to_quantize=["Conv"], nodes_to_exclude=[first],
            weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8,
        )  # fmt: skip


def check_packages(path: Path) -> None:
    """Raises ValueError that says how to install what ONNX files need, if something is missing."""
    if missing := [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]:
        raise ValueError(f"{path}: ONNX files need more packages: pip install {' '.join(missing)}")


class ExportedNetwork(nn.Module):
    """An exported file as a network for the predictor: normalised images [B, 3, H, W] -> logits.

    ONNX Runtime runs ONNX files: on a GPU if its build for GPUs is installed, else on as many cores as PyTorch. PyTorch
    runs the others, on the CPU. checkpoint: what the file says of itself.
    """

    def __init__(self, path: Path, notes: Mapping[str, Any], run: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.path, self.run = path, run
        self.input, self.output, self.size = notes["input"], notes["output"], notes["size"]
        self.checkpoint: Checkpoint = as_described(notes, {}, path)
        self.mean, self.std = (
            torch.tensor(values).view(3, 1, 1) for values in (self.checkpoint.mean, self.checkpoint.std)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, C, h, w] float32, which may be coarser, for normalised images [B, 3, H, W]."""
        height, width = images.shape[2:]
        if self.size and tuple(self.size) != (height, width):
            rows, columns = self.size
            raise ValueError(
                f"{self.path} takes images of {columns}x{rows} pixels only, not {width}x{height}; "
                "export it without --size."
            )
        here = images.float().cpu()
        if self.input == "uint8":
            here = ((here * self.std + self.mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        last = self.run(here.contiguous())[-1].to(images.device)
        return last.log() * self.checkpoint.temperature if self.output == "probabilities" else last

    def label(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the file itself gives for RGB images [B, H, W, 3]: the most probable train ids [B, H, W]."""
        here = torch.from_numpy(np.ascontiguousarray(images))
        if self.input == "float":
            here = normalise(here.permute(0, 3, 1, 2), self.checkpoint.mean, self.checkpoint.std).contiguous()
        first = self.run(here)[0]
        return (first if self.output == "labels" else first.argmax(1).to(torch.uint8)).numpy()


def open_exported(path: Path | str) -> ExportedNetwork | None:
    """The network in a file of `write_exported`; None if it is an ONNX file of another program.

    Raises FileNotFoundError, or ValueError if the file is damaged or a package is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    if path.suffix == ONNX:
        check_packages(path)
    try:
        notes, run = _open_onnx(path) if path.suffix == ONNX else _open_pt2(path)
        return ExportedNetwork(path, notes, run) if notes else None
    except (KeyError, TypeError):
        return None
    except Exception as error:  # ONNX Runtime's own exceptions have no common ancestor
        raise ValueError(f"{path}: damaged, or no file of export.py: {one_line(error)[:200]}") from error


def _open_onnx(path: Path) -> tuple[dict[str, Any], Callable[[Tensor], list[Tensor]]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    there = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
    session = onnxruntime.InferenceSession(path, options, providers)

    def run(images: Tensor) -> list[Tensor]:
        outputs: list[NDArray[Any]] = session.run(None, {IMAGES: images.numpy()})
        return [torch.from_numpy(np.asarray(output)) for output in outputs]

    notes = session.get_modelmeta().custom_metadata_map
    if "format" not in notes:
        return {}, run
    # ONNX Runtime's quantisation adds notes of its own, which are no JSON.
    return {key: json.loads(value) for key, value in notes.items() if not key.startswith("onnx.")}, run


def _open_pt2(path: Path) -> tuple[dict[str, Any], Callable[[Tensor], list[Tensor]]]:
    extra = {NOTE: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return json.loads(extra[NOTE]), lambda images: list(module(images))
