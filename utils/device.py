"""Which device a command runs on, in which precision, and what happens to its memory."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.distributed import find_processes


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


def make_deterministic() -> None:
    """From now on this process computes the same bits each time, with the same number of threads, or says what cannot.

    To be called before the first computation on a GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def resolve_device(name: str) -> torch.device:
    """The device that `--device` names: `auto` is a GPU if there is one, else the CPU.

    Under `torchrun`, `auto` and `cuda` mean each process's own GPU. Raises ValueError for a device that does not exist,
    or that several processes would share.
    """
    try:
        device = torch.device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))
    except RuntimeError:
        device = torch.device("meta")  # refused like all others
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: PyTorch sees no Apple GPU here; --device cpu always works.")
    if device.type == "mps":
        return device
    if device.type != "cuda":
        raise ValueError(f"--device {name!r} is unknown. Choose one of: auto, cpu, mps, cuda, cuda:<index>.")
    if device.index is not None and find_processes().local_world_size > 1:
        raise ValueError(f"--device {name}: under torchrun each process needs a GPU of its own. Use --device cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = find_processes().local_rank if device.index is None else device.index
    if index >= count:
        there = f"There are {count}: cuda:0 to cuda:{count - 1}" if count else "PyTorch sees no CUDA device here"
        raise ValueError(f"--device {name!r}: no CUDA device {index}. {there}; --device cpu always works.")
    return torch.device("cuda", index)


def to_device(values: Tensor | NDArray[np.uint8], device: torch.device) -> Tensor:
    """`values` on the device, without waiting for pending work of a GPU; a plain copy would wait.

    On a CPU they may share their memory.
    """
    here = values.contiguous() if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    return pin(here).to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


def pin(here: Tensor) -> Tensor:
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
    if bf16 is None and device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif bf16 is None:
        bf16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())  # private, so it may go
    return torch.bfloat16 if bf16 else None


def normalise(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 [B, 3, H, W] in 0..255 -> float32, channels last, normalised by mean and std (both for values in 0..1)."""
    shift, scale = _shift_and_scale(tuple(mean), tuple(std), images.device)
    pixels = images.contiguous(memory_format=torch.channels_last).float()
    return pixels.sub_(shift).mul_(scale)


@cache
def _shift_and_scale(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    scale = torch.tensor(std).mul_(255).reciprocal_().view(1, -1, 1, 1)
    return to_device(torch.tensor(mean).mul_(255).view(1, -1, 1, 1), device), to_device(scale, device)


def compile_for(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` compiled; this happens at the first image and takes up to a minute, and again for some new image sizes.

    Raises ValueError if the required compiler is missing.
    """
    if device.type == "cuda" and (problem := why_no_triton()):
        raise ValueError(f"--compile on a GPU needs Triton: {problem}.")
    if device.type == "cpu" and not any(map(shutil.which, [os.environ.get("CXX", "g++"), "clang++", "cl"])):
        raise ValueError("--compile on a CPU needs a C++ compiler (apt install g++); CXX may name one.")
    return torch.compile(net)  # type: ignore[return-value]


# Memory of the process. Keeping and returning it needs glibc 2.33; elsewhere it does nothing.

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _NEVER = -1, -4, -1


class _HeapInfo(ctypes.Structure):
    """`struct mallinfo2`; bytes. Its eighth value, `uordblks`, is what is in use."""

    _fields_ = (("before", ctypes.c_size_t * 7), ("uordblks", ctypes.c_size_t), ("after", ctypes.c_size_t * 2))


def keep_freed_memory() -> None:
    """Keep freed memory for the next array instead of returning it to the system.

    Arrays may have any size, in threads other than the main one up to 64 MiB. Otherwise the arrays of images, and a
    network's activations on a CPU, are returned each time, and new pages, which the system must clear, can cost as
    much as the work on them.
    """
    glibc = find_glibc()
    if glibc is not None:
        glibc.mallopt(_M_MMAP_MAX, 0)  # all arrays live on the heap
        glibc.mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Return kept memory to the system if it exceeds a GiB: the next arrays have other sizes and may not fit."""
    glibc = find_glibc()
    statistics = Path("/proc/self/statm")
    if glibc is not None and statistics.exists():
        held = int(statistics.read_text().split()[1]) * mmap.PAGESIZE
        if held - glibc.mallinfo2().uordblks > 1 << 30:
            glibc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a device's, or the computer's own as reported by NumPy or PyTorch."""
    is_told = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return is_told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def find_glibc() -> ctypes.CDLL | None:
    """The C library, if it can keep and return memory as needed here; else None."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _HeapInfo
    except (AttributeError, OSError, TypeError):  # an older or another one; on Windows, CDLL needs a name
        return None
    return library


def upsample(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize `x` [B, C, h, w] bilinearly to `size` (rows, columns), corner pixels onto corner pixels.

    Published weights were trained with aligned corners; the other convention shifts thin objects.
    """
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
