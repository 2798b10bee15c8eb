"""torch.compile, with its one frequent failure told beforehand."""

from __future__ import annotations

import os
import shutil

import torch
from torch import nn

_COMPILERS = ("g++", "clang++", "cl")


def compiled(net: nn.Module, device: torch.device, *, frozen: bool = False) -> nn.Module:
    """`net` compiled; that happens when an image size is first seen, and takes a minute.

    frozen: for evaluation, with the weights laid out for the machine. Raises ValueError where a CPU lacks a compiler.
    """
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("--compile on a CPU needs a C++ compiler (apt install g++), or one that CXX names.")
    return torch.compile(net, options={"freezing": True} if frozen else None)  # type: ignore[return-value]
