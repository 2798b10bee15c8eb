"""Which device a command runs on."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.distributed import find_processes
from utils.parallel import AHEAD, Stopwatch


@cache
def why_no_triton() -> str:
    """Why Triton's kernels cannot run here; empty if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    try:
        from triton.runtime import driver

        _ = driver.active.utils  # compiled with the machine's C compiler on first access
    except Exception as error:  # whatever is missing, PyTorch works without Triton
        return f"Triton cannot build its kernels ({type(error).__name__}; it needs gcc and Python's headers)"
    return ""


def resolve_device(name: str) -> torch.device:
    """The device that `--device` names: `auto` is a GPU if there is one, else the CPU.

    Under `torchrun`, `auto` and `cuda` mean each process's own GPU. Raises ValueError for a device that does not exist,
    or that several processes would share.
    """
    try:
        device = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
    except RuntimeError:
        raise ValueError(f"--device {name!r} is unknown. Choose one of: auto, cpu, cuda, cuda:<index>.") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"--device {name!r} is not supported. Choose one of: auto, cpu, cuda, cuda:<index>.")
    if device.index is not None and find_processes().local_world_size > 1:
        raise ValueError(f"--device {name}: under torchrun each process needs a GPU of its own. Use --device cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = find_processes().local_rank if device.index is None else device.index
    if index >= count:
        there = f"There are {count}: cuda:0 to cuda:{count - 1}" if count else "PyTorch sees no CUDA device here"
        raise ValueError(f"--device {name!r}: no CUDA device {index}. {there}; --device cpu always works.")
    return torch.device("cuda", index)


def to_device(table: Tensor, device: torch.device) -> Tensor:
    """`table` on the device, without waiting for pending work of a GPU; a plain copy would wait."""
    return _pinned(table.contiguous()).to(device, non_blocking=True) if device.type == "cuda" else table.to(device)


def uploaded(picture: NDArray[np.uint8], device: torch.device) -> Tensor:
    """The image on the device; a copy to a GPU overlaps with the work on earlier images.

    On a CPU it may share the memory of `picture`.
    """
    here = torch.from_numpy(np.ascontiguousarray(picture))
    if device.type != "cuda":
        return here
    work, queue = torch.cuda.current_stream(device), uploads(device)
    with torch.cuda.stream(queue):
        there = _pinned(here).to(device, non_blocking=True)
    work.wait_stream(queue)
    there.record_stream(work)
    return there


class Arriving:
    """Labels being copied from a device to the host; meanwhile, a GPU continues with the next image."""

    def __init__(self, labels: Tensor) -> None:
        """labels: any shape, uint8."""
        self._host = labels
        self._copied: torch.cuda.Event | None = None
        if labels.is_cuda:
            queue = downloads(labels.device)
            queue.wait_stream(torch.cuda.current_stream(labels.device))
            self._host = _pinned(torch.empty(labels.shape, dtype=labels.dtype))
            with torch.cuda.stream(queue):
                self._host.copy_(labels, non_blocking=True)
            labels.record_stream(queue)
            self._copied = torch.cuda.Event(blocking=True)  # waiting sleeps instead of spinning
            self._copied.record(queue)

    def array(self) -> NDArray[np.uint8]:
        """Wait for the labels and return them."""
        if self._copied is not None:
            self._copied.synchronize()
        array: NDArray[np.uint8] = self._host.numpy()
        return array


@cache
def uploads(device: torch.device) -> torch.cuda.Stream:
    """The queue of copies to the GPU."""
    return torch.cuda.Stream(device)


@cache
def downloads(device: torch.device) -> torch.cuda.Stream:
    """The queue of copies from the GPU."""
    return torch.cuda.Stream(device)


def _pinned(here: Tensor) -> Tensor:
    """`here` in pinned memory, from which a GPU copies asynchronously; unchanged if the system allows no more of it."""
    try:
        return here.pin_memory()
    except RuntimeError:
        return here


def autocast_dtype(device: torch.device, *, bf16: bool | None, fp16: bool) -> torch.dtype | None:
    """The autocast type, or None for float32 throughout.

    bf16: True, False, or None for "if the hardware supports it". fp16 overrides that default. Raises
    ValueError for fp16 on a CPU.
    """
    if fp16:
        if device.type == "cpu":
            raise ValueError("--fp16 needs a CUDA device; use --bf16 on a CPU.")
        return torch.float16
    wanted = has_bf16(device) if bf16 is None else bf16
    return torch.bfloat16 if wanted else None


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 rather than emulating it, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, so it may go
    return bool(supported and supported())


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether the device is a CPU with AMX, which multiplies bfloat16 matrices many times as fast as float32 ones."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, so it may go
    return device.type == "cpu" and bool(supported and supported())


def is_hopper(device: torch.device) -> bool:
    """Whether the device is a GPU of NVIDIA's Hopper generation (H100, H200)."""
    if device.type != "cuda" or torch.version.cuda is None:  # PyTorch also calls AMD's GPUs "cuda"
        return False
    return torch.cuda.get_device_capability(device)[0] == 9


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 [B, 3, H, W] in 0..255 -> float32, channels last, normalised by mean and std (both for values in 0..1)."""
    scale = to_device(torch.tensor(std).mul_(255).reciprocal_().view(1, -1, 1, 1), images.device)
    shift = to_device(torch.tensor(mean).mul_(255).view(1, -1, 1, 1), images.device)
    pixels = images.contiguous(memory_format=torch.channels_last).float()
    return pixels.sub_(shift).mul_(scale)


_COMPILERS = ("g++", "clang++", "cl")


def compiled(net: nn.Module, device: torch.device, *, frozen: bool = False) -> nn.Module:
    """`net` compiled; this happens at the first image and takes up to a minute, and again for some new image sizes.

    frozen: for evaluation; on a CPU, the weights at compile time become constants in a layout that suits the machine.
    Raises ValueError if the required compiler is missing.
    """
    if device.type == "cuda" and (problem := why_no_triton()):
        raise ValueError(f"--compile on a GPU needs Triton: {problem}.")
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("--compile on a CPU needs a C++ compiler (apt install g++); CXX may name one.")
    return _Frozen(net) if frozen and device.type == "cpu" else torch.compile(net)  # type: ignore[return-value]


class _Frozen(nn.Module):
    """A network compiled with its weights as constants, so that activations fuse with the convolutions before them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = torch.compile(net)

    def forward(self, images: Tensor) -> Tensor:
        """The network's output, without gradients."""
        from torch._inductor import config  # takes half a second, so only with --compile

        # As an option of torch.compile it would come too late: tracing happens first and makes the weights inputs.
        with torch.no_grad(), config.patch(freezing=True):
            logits: Tensor = self.net(images)
        return logits


class DeviceQueue(Stopwatch):
    """Measures how long a device works. A GPU runs the work of a block later, so its own clock is used.

    A block counts from the start of its first operation to the end of its last. The work of at most `AHEAD` blocks is
    queued, to limit memory; a further block waits before it starts.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._given: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work."""
        if self._device.type != "cuda":
            with super().working():
                yield
            return
        while len(self._given) >= AHEAD:
            self._finish_first()
        begun, done = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
        work = torch.cuda.current_stream(self._device)
        begun.record(work)
        try:
            yield
        finally:
            done.record(work)
            self._given.append((begun, done))

    @property
    def seconds(self) -> float:
        """Working time so far; waits for the work queued on a GPU."""
        while self._given:
            self._finish_first()
        return super().seconds

    def _finish_first(self) -> None:
        begun, done = self._given.popleft()
        done.synchronize()
        self._add(begun.elapsed_time(done) / 1000)


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `x` [B, C, h, w] bilinearly to `size` (rows, columns), corner pixels onto corner pixels.

    Published weights were trained with aligned corners; the other convention shifts thin objects.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
