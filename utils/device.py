"""Which device a command runs on."""

from __future__ import annotations

import torch

from utils.distributed import processes


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
    if device.index is not None and processes().local_count > 1:
        raise ValueError(f"--device {name}: under torchrun each process needs a GPU of its own. Use --device cuda.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = processes().local_rank if device.index is None else device.index
    if index >= count:
        there = f"There are {count}: cuda:0 to cuda:{count - 1}" if count else "PyTorch sees no CUDA device here"
        raise ValueError(f"--device {name!r}: no CUDA device {index}. {there}; --device cpu always works.")
    return torch.device("cuda", index)
