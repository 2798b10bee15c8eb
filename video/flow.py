"""Optical flow between two images: the estimators' interface, and the one that needs no weights."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.checkpoint import load_checkpoint
from utils.images import Uint8Array
from video.sdc import SdcFlow, load_sdc
from video.warping import FlowArray

# Up to this many pixels, DIS searches at full size; above, at half: four times as fast, and details are large there.
SMALL = 1 << 19
SMALLEST = 16  # pixels per side; OpenCV's DIS may reject smaller images
SMOOTHNESS = 5.0  # of the motion; OpenCV's 20 smears it across object edges, and propagated labels lose mIoU


class Flow(Protocol):
    """Estimates the motion between two images of the same size."""

    def __call__(self, image: Uint8Array, other: Uint8Array, beyond: Uint8Array | None = None) -> FlowArray:
        """Two images [H, W, 3] uint8 RGB -> [H, W, 2] float32, pixels right and down.

        What is at pixel (x, y) of `image` is at (x, y) + flow[y, x] in `other`. beyond: the frame that is as far from
        `other` as `other` is from `image`, if there is one; only `sdc` looks at it.
        """
        ...


class DisFlow:
    """OpenCV's dense inverse search (Kroeger et al., ECCV 2016) on grey values."""

    def __call__(self, image: Uint8Array, other: Uint8Array, beyond: Uint8Array | None = None) -> FlowArray:
        """See `Flow`."""
        return self.refine(image, other, np.zeros((*image.shape[:2], 2), np.float32))

    def refine(self, image: Uint8Array, other: Uint8Array, start: FlowArray) -> FlowArray:
        """The flow, searched for around `start` [H, W, 2] float32. Raises ValueError if the images are too small."""
        if min(image.shape[:2]) < SMALLEST:
            raise ValueError(f"frames of {image.shape[1]}x{image.shape[0]} pixels are too small for --flow dis.")
        here, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, other))
        return _search(*here.shape).calc(here, there, start.copy())  # type: ignore[return-value]


def _search(height: int, width: int) -> cv2.DISOpticalFlow:
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    small = height * width <= SMALL
    dis.setFinestScale(0 if small else 1)
    dis.setPatchStride(3 if small else 4)
    dis.setVariationalRefinementAlpha(SMOOTHNESS)
    return dis


MULTIPLE = 8  # both sides must be multiples of it; RAFT's pyramid also needs at least 128 pixels
RAFT_SMALLEST = 128


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
        missing = [max(RAFT_SMALLEST, side + -side % MULTIPLE) - side for side in (width, height)]
        device = next(self._net.parameters()).device
        values = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(values, (0, missing[0], 0, missing[1]), mode="replicate")


ESTIMATORS = ("dis", "raft", "sdc")  # `exact`, for drawn streets, is geometry: video/flow_chain.py


def frames_beyond(name: str) -> int:
    """How many frames past the two that it is asked about the estimator of this name looks at, if there are any."""
    return 1 if name == "sdc" else 0


def build_flow(name: str, *, weights: str | None = None, device: torch.device | str = "cpu") -> Flow:
    """The estimator of this name, one of ESTIMATORS.

    weights: checkpoint file; `raft` and `sdc` need one. device: where their networks run; `dis` runs on the CPU.
    Raises ValueError for an unknown name and for missing or unneeded weights, ImportError if `raft` lacks
    torchvision, FileNotFoundError if the file does not exist.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"--flow '{name}' is unknown. Choose one of: {', '.join(ESTIMATORS)}, exact.")
    if name == "dis":
        if weights is not None:
            raise ValueError(f"--flow dis takes no weights, got {weights}. Choose raft or sdc, or omit the weights.")
        return DisFlow()
    if weights is None:
        raise ValueError(f"--flow {name} needs a checkpoint: give its file with --flow_weights.")
    if name == "raft":
        return load_raft(weights, device)
    return SdcFlow(load_sdc(weights, device), DisFlow())
