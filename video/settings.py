"""The settings of the commands on video, propagate.py and `python -m video.train`; see config.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import DATASET_CHOICES, DeviceConfig, RunConfig
from datasets.settings import SetConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE, option


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """the frames"""

    frames: str = option(
        "", "folder of frames, its sub-folders included, or a video file; no labels are read", required=True
    )
    val_share: float = option(0.1, "share of each sequence, its end, that is held out to score on", must_be=SHARE)
    num_val: int = option(32, "score at most so many places, spread over what is held out", must_be=POSITIVE)
    crop_size: int = option(256, "side of the square training crop, in pixels; smaller frames are taken whole",
                            must_be=POSITIVE)  # fmt: skip
    batch: int = option(8, "crops a step", must_be=POSITIVE)
    repeat: int = option(1, "visit each place this many times an epoch; for short videos", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """the network"""

    mode: str = option(
        "reconstruction",
        "reconstruction: motion between two known frames, which --flow sdc wants; prediction: to the frame after them",
        choices=("reconstruction", "prediction"),
    )
    width: int = option(32, "channels of the first layer, a multiple of 4; the others follow", must_be=POSITIVE)
    snapshot: str | None = option(None, "checkpoint to start from; it says the width")


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """the optimizer, Adam"""

    lr: float = option(1e-4, "learning rate; it falls to a tenth over the training", must_be=POSITIVE)
    weight_decay: float = option(0.0, "weight decay", must_be=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class VideoRunConfig(RunConfig):
    """the run and where it is kept"""

    exp: str = option(
        "sdc", "name of the run; its folder is <ckpt>/<exp>, or <ckpt>/<exp>_<tb_tag>; --test_mode adds _test_mode"
    )
    max_epoch: int = option(100, "number of epochs", must_be=POSITIVE)
    max_minutes: float = option(
        0.0,
        "plan the learning rate for this many minutes, then score and end, at the latest after --max_epoch; "
        "0: train --max_epoch epochs",
        must_be=NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class VideoDeviceConfig(DeviceConfig):
    """the machine"""

    num_workers: int | None = option(
        None, "loader processes; default: one per core beside a GPU, else none", must_be=NOT_NEGATIVE
    )
    bf16: bool | None = option(None, "bfloat16 autocast; default: where the device has it")


@dataclass(frozen=True, kw_only=True)
class VideoTrainConfig:
    """Train an SDC-Net on frames without labels: python -m video.train --frames DIR."""

    run: VideoRunConfig
    net: NetConfig
    frames: FramesConfig
    optim: AdamConfig
    device: VideoDeviceConfig


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
        "motion: dis needs no weights; raft needs torchvision; sdc refines dis; exact knows drawn streets",
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
