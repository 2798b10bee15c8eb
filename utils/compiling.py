"""torch.compile, with its most common failure, a missing compiler, reported early."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from utils.kernels import why_no_triton

_COMPILERS = ("g++", "clang++", "cl")


def compiled(net: nn.Module, device: torch.device, *, frozen: bool = False) -> nn.Module:
    """`net` compiled, which happens at the first image and takes up to a minute; again at some of the next sizes.

    frozen: for evaluation; on a CPU the weights, as they are by then, are built in and laid out for the machine. Raises
    ValueError where the compiler that it needs is missing.
    """
    if device.type == "cuda" and (problem := why_no_triton()):
        raise ValueError(f"--compile on a GPU needs Triton: {problem}.")
    compilers = (os.environ["CXX"],) if "CXX" in os.environ else _COMPILERS
    if device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ValueError("--compile on a CPU needs a C++ compiler (apt install g++), or one that CXX names.")
    return _Frozen(net) if frozen and device.type == "cpu" else torch.compile(net)  # type: ignore[return-value]


class _Frozen(nn.Module):
    """A network compiled with its weights as constants, so that activations join the convolutions before them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = torch.compile(net)

    def forward(self, images: Tensor) -> Tensor:
        """What the network gives, without gradients."""
        from torch._inductor import config  # takes half a second, which only --compile should cost

        # As an option of torch.compile it would come too late: tracing, before, makes the weights inputs.
        with torch.no_grad(), config.patch(freezing=True):
            logits: Tensor = self.net(images)
        return logits
