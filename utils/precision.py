"""Which number format a device computes in."""

from __future__ import annotations

import torch

from utils.copies import to_device


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
