"""Optical flow estimators by name."""

from __future__ import annotations

import torch

from video.flow import DisFlow, Flow
from video.raft import load_raft
from video.sdc import SdcFlow, load_sdc

ESTIMATORS = ("dis", "raft", "sdc")  # `exact`, for drawn streets, is geometry: video/exact.py


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
