"""The settings of the commands on video, as those of all others in config.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import DATASET_CHOICES, DeviceConfig, SetConfig
from utils.flags import POSITIVE, option


@dataclass(frozen=True, kw_only=True)
class PropagateDataConfig(SetConfig):
    """the data"""

    dataset: str = option("", f"data set, or of --video whose classes the labels have: {DATASET_CHOICES}")
    split: str | None = option(None, "train, val or trainval; default: train, and all that is labelled of --video")
    video: str = option("", "instead of a data set: a video file, or a folder of its numbered frames", "--frames")
    labels: str = option(
        "",
        "label files for --video, PNG, named like the frames; for a file by their numbers counted from 0: 000120.png",
    )
    classes: str | None = option(
        None, "what they mean (PREPARE_DATASETS.md); default: classes.json in or beside their folder, or --dataset"
    )


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """the propagation"""

    propagate: int = option(3, "frames made before and after each labelled one", must_be=POSITIVE)
    stride: int = option(
        1, "frame numbers from one frame to the next, where the video is thinned out", must_be=POSITIVE
    )
    flow: str = option(
        "dis",
        "motion: dis needs no weights; raft needs torchvision; exact knows drawn streets",
        choices=("dis", "raft", "sdc", "exact"),
    )
    flow_weights: str | None = option(None, "weights of raft or sdc")
    mode: str = option(
        "joint", "joint: image and labels are moved; label: beside the true image", choices=("joint", "label")
    )
    keep: str = option("", "void tests to switch off, comma-separated: hidden, outside, residual")


@dataclass(frozen=True, kw_only=True)
class PropagateOutputConfig:
    """results"""

    out: str | None = option(
        None, "root of the results, for train.py --propagated_dir; default: the data set's own. For --video a new set's"
    )
    resume: bool = option(False, "leave out pairs that are there, made with the same settings")
    dry_run: bool = option(False, "say what would be written and what is missing; write nothing")


@dataclass(frozen=True, kw_only=True)
class PropagateConfig:
    """Carry labels along video to the frames around the labelled ones, for train.py --maxSkip."""

    data: PropagateDataConfig
    propagation: PropagationConfig
    output: PropagateOutputConfig
    device: DeviceConfig
