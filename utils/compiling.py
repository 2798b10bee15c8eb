"""torch.compile, with its most common failure, a missing compiler, reported early."""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from utils.kernels import why_no_triton

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
