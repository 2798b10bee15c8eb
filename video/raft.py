"""RAFT (Teed and Deng, ECCV 2020) from torchvision, which is optional: `pip install torchvision`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.checkpoint import load_checkpoint
from utils.images import Uint8Array
from video.warping import FlowArray

MULTIPLE = 8  # both sides must be multiples of it; RAFT's pyramid also needs at least 128 pixels
SMALLEST = 128


def load_raft(weights: str, device: torch.device | str) -> RaftFlow:
    """RAFT with weights published by torchvision; the file determines whether it is the large or the small one.

    Raises ImportError without torchvision, FileNotFoundError without the file, ValueError if it does not hold RAFT.
    """
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no such file: {weights}")
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except ImportError as error:
        raise ImportError(
            f"--flow raft needs torchvision, in the version built for torch {torch.__version__} ({error}). "
            "Install it, or choose --flow dis."
        ) from error
    state = load_checkpoint(weights).state_dict
    for make in (raft_large, raft_small):
        net = make(weights=None, progress=False)
        if net.state_dict().keys() == state.keys():
            net.load_state_dict(state)
            return RaftFlow(net.eval().to(device))
    raise ValueError(f"{weights} holds neither torchvision's raft_large nor its raft_small.")


class RaftFlow:
    """Flow from a network that maps two images [1, 3, H, W] in -1 … 1 to a list of flows, the last one the best."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    @torch.inference_mode()
    def __call__(self, image: Uint8Array, other: Uint8Array, beyond: Uint8Array | None = None) -> FlowArray:
        """See `video.flow.Flow`."""
        height, width = image.shape[:2]
        flow: Tensor = self._net(self._prepared(image), self._prepared(other))[-1]
        return np.ascontiguousarray(flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy())

    def _prepared(self, image: Uint8Array) -> Tensor:
        height, width = image.shape[:2]
        missing = [max(SMALLEST, side + -side % MULTIPLE) - side for side in (width, height)]
        device = next(self._net.parameters()).device
        values = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(values, (0, missing[0], 0, missing[1]), mode="replicate")
