"""The settings of the commands on video, propagate.py and `python -m video.train`; see config.py."""

from __future__ import annotations

from dataclasses import dataclass

from config import AUTOCAST, DATASET_CHOICES, DeviceConfig, ErrorConfig, RunConfig, SetConfig, WorkersConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE, option


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """the frames"""

    frames: str = option("", "folder of frames, including subfolders, or a video file", required=True)
    val_share: float = option(0.1, "share of each sequence, at its end, that is held out for scoring", must_be=SHARE)
    num_val: int = option(32, "score at most this many clips, spread over the held-out part", must_be=POSITIVE)
    crop_size: int = option(256, "side of the square crop, in pixels; smaller frames are used whole", must_be=POSITIVE)
    batch: int = option(8, "crops per step", must_be=POSITIVE)
    repeat: int = option(1, "visit each clip this many times per epoch; for short videos", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """the network"""

    mode: str = option(
        "reconstruction",
        "reconstruction: motion between two known frames, as --flow sdc needs it; prediction: to the frame after them",
        choices=("reconstruction", "prediction"),
    )
    width: int = option(32, "channels of the first layer, a multiple of 4; the others follow", must_be=POSITIVE)
    snapshot: str | None = option(None, "checkpoint to start from; it determines the width")


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    """the optimizer, Adam"""

    lr: float = option(1e-4, "initial learning rate; it falls to a tenth during training", must_be=POSITIVE)
    weight_decay: float = option(0.0, "weight decay", must_be=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class VideoRunConfig(RunConfig):
    """the run and where it is kept"""

    exp: str = option("sdc", "name of the run, whose folder is <ckpt>/<exp>, plus _<tb_tag>, plus _test_mode")
    max_epoch: int = option(100, "number of epochs", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class VideoDeviceConfig(DeviceConfig):
    """the machine"""

    num_workers: int | None = option(None, "worker processes; default: without a GPU none", must_be=NOT_NEGATIVE)
    bf16: bool | None = option(None, AUTOCAST)


@dataclass(frozen=True, kw_only=True)
class VideoTrainConfig:
    """Train an SDC-Net on unlabelled frames: python -m video.train --frames DIR."""

    run: VideoRunConfig
    net: NetConfig
    frames: FramesConfig
    optim: AdamConfig
    device: VideoDeviceConfig
    errors: ErrorConfig


@dataclass(frozen=True, kw_only=True)
class PropagateDataConfig(SetConfig):
    """the data"""

    dataset: str = option("", f"data set; with --video, the one whose classes the labels use: {DATASET_CHOICES}")
    split: str | None = option(
        None, "labelled frames to start from; default: train; with --video all", choices=("train", "val", "trainval")
    )
    video: str = option("", "instead of a data set: a video file, or a folder of its numbered frames", "--frames")
    labels: str = option(
        "", "folder of label files for --video, PNG, named like the frames or, for a video file, 000120.png"
    )
    classes: str | None = option(
        None, "what the labels mean (PREPARE_DATASETS.md); default: classes.json in or next to --labels, or --dataset"
    )


@dataclass(frozen=True, kw_only=True)
class PropagationConfig:
    """the propagation"""

    propagate: int = option(3, "frames to make before and after each labelled one", must_be=POSITIVE)
    stride: int = option(1, "difference of frame numbers between neighbouring frames", must_be=POSITIVE)
    flow: str = option(
        "dis",
        "motion: dis needs no weights; raft needs torchvision; sdc refines dis; exact works for drawn streets",
        choices=("dis", "raft", "sdc", "exact"),
    )
    flow_weights: str | None = option(None, "weights of raft or sdc")
    mode: str = option("joint", "what is moved: image and labels, or the labels only", choices=("joint", "label"))
    keep: str = option("", "void tests to switch off, comma-separated: hidden, outside, residual")

    @property
    def kept_tests(self) -> tuple[str, ...]:
        """The names in --keep, sorted."""
        return tuple(sorted({test.strip() for test in self.keep.split(",") if test.strip()}))


@dataclass(frozen=True, kw_only=True)
class PropagateOutputConfig:
    """results"""

    out: str | None = option(
        None, "root of the results, for train.py --propagated_dir; default: the data set's; with --video, a new set's"
    )
    resume: bool = option(False, "skip pairs that already exist and were made with the same settings")
    dry_run: bool = option(False, "report what would be written and what is missing; write nothing")


@dataclass(frozen=True, kw_only=True)
class PropagateConfig:
    """Propagate labels along video to the frames around the labelled ones, for train.py --maxSkip."""

    data: PropagateDataConfig
    propagation: PropagationConfig
    output: PropagateOutputConfig
    device: WorkersConfig
    errors: ErrorConfig
