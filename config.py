"""The settings of train.py, and those that several commands share: one field = one flag = one default = one help text.

Read-only after parsing. The other commands' settings are in inference/settings.py (evaluation, demos, percentages,
submission, export), training/compare.py and video/settings.py, or in the command itself.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from datasets.specs.registry import NAMES
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE, option, parse_numbers

# Where each data set is if neither --dataset_dir nor its environment variable KERBLINE_<NAME> is given.
DATASET_ROOTS = {name: f"data/{name}" for name in NAMES}

# Help texts that several commands share.
DATASET_CHOICES = ", ".join(NAMES)
DATASET_DIR = "root folder of the data set; default: the environment variable KERBLINE_<NAME>, or data/<name>"
CV = "cross-validation fold; default: the official split, or fold 0 if there is none"
AUTOCAST = "bfloat16 autocast; default: on if the device computes bfloat16 in hardware"
NUM_WORKERS = "worker processes; default: one per core available to this process"

AS_IN_TRAINING = "--inference_mode pooling --single_scale --no_flip"  # with these, eval.py scores as train.py does

# Of a crop, in pixels. If an image is too large for memory, OpenCV fails with an error that names no flag.
LARGEST_SIDE = 16384

ARCHITECTURES: tuple[str, ...] = (
    "DeepWV3Plus", "DeepSRNX50V3PlusD_m1", "DeepSRNX101V3PlusD_m1",
    "DeepR18V3PlusD_m1", "DeepR50V3PlusD_m1", "DeepR101V3PlusD_m1",
    "DeepMNV3V3PlusD_m1", "DeepEffLite0V3PlusD_m1", "DeepEffLite1V3PlusD_m1", "DeepEffLite2V3PlusD_m1",
    "DinoV2SmallDPT", "DinoV2BaseDPT", "DinoV2SmallLinear",
)  # fmt: skip


def short_name(arch: str) -> str:
    """The name of an architecture without its module: recipes of the published code use the full name."""
    return arch.removeprefix("network.deepv3.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """the run and where it is kept"""

    exp: str = option("default", "name of the run, whose folder is <ckpt>/<exp>, plus _<tb_tag>, plus _test_mode")
    tb_tag: str = option("", "suffix of the run's name")
    ckpt: str = option("logs/ckpt", "folder of the run folders")
    tb_path: str = option("logs/tb", "folder of the TensorBoard logs; the run folder holds a link to those of the run")
    max_epoch: int = option(180, "number of epochs", must_be=POSITIVE)
    start_epoch: int = option(0, "first epoch, from 0; with --resume the checkpoint decides", must_be=NOT_NEGATIVE)
    max_minutes: float = option(
        0.0, "fit the learning rate schedule to this many minutes, then stop, at the latest after --max_epoch; "
        "runs then differ in their steps, so compare runs of equal --max_epoch; 0: no limit", must_be=NOT_NEGATIVE,
    )  # fmt: skip
    ckpt_minutes: float = option(
        10.0, "write last.pth every N minutes, also in the middle of an epoch; 0: only at its end", must_be=NOT_NEGATIVE
    )
    val_interval: int = option(1, "validate every N epochs, and after the last", must_be=POSITIVE)
    seed: int = option(0, "seed of everything random", must_be=NOT_NEGATIVE)
    resume: bool = option(False, "resume from the run folder's last.pth; starts a new run if there is none")
    test_mode: bool = option(False, "run two steps of training and validation, to check that everything works")

    def __post_init__(self) -> None:
        if 0 < self.max_epoch <= self.start_epoch and not self.resume:
            raise ValueError(f"--start_epoch {self.start_epoch} must be below --max_epoch {self.max_epoch}.")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """the network"""

    arch: str = option("network.deepv3.DeepWV3Plus", "architecture, full or short name: " + ", ".join(ARCHITECTURES))
    snapshot: str | None = option(None, "checkpoint to start from; a head with other classes is not loaded")
    trunk_weights: str | None = option(
        None, "file with ImageNet weights of the trunk, or 'imagenet': those carried along or in pretrained_models/"
    )
    restore_optimizer: bool = option(False, "also restore optimizer and epoch from --snapshot")
    freeze_trunk: bool = option(False, "train the head only")
    aspp_rates: str = option("", "dilations of the pyramid, as 3,6,9 for small images; default: the architecture's own")
    refine: bool = option(False, "add a decoder stage at stride 2, for thin objects; for the light networks")
    checkpoint_activations: bool = option(
        False, "save memory in training: compute each block of the trunk a second time instead of keeping its maps"
    )
    trunk_freeze_bn: bool = option(False, "keep the statistics of the trunk's batch norms; for very small batches")

    @property
    def head(self) -> dict[str, Any]:
        """In what the head differs from the architecture's usual one. Raises ValueError for rates that cannot be."""
        options = {"rates": parse_numbers(self.aspp_rates, "--aspp_rates", positive=True), "refine": self.refine}
        return {name: value for name, value in options.items() if value}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """the data"""

    dataset: str = option("cityscapes", f"data set: {DATASET_CHOICES}")
    dataset_dir: str | None = option(None, DATASET_DIR)
    train_split: str = option("train", "split to train on; ignored if --cv is given")
    cv: int | None = option(None, CV)
    class_uniform_pct: float = option(0.5, "share of crops centred on uniformly drawn classes", must_be=SHARE)
    class_uniform_tile: int = option(1024, "side of the tiles that each offer one centre per class", must_be=POSITIVE)
    paste: float = option(0.0, "share of crops onto which rare classes of another image are pasted", must_be=SHARE)
    coarse_boost_classes: str | None = option(None, "train ids for whose crops coarse images are also used, as 3,5")
    max_cu_epoch: int = option(100000, "from this epoch on, each image once, no such crops", must_be=NOT_NEGATIVE)
    maxSkip: int = option(  # noqa: N815
        0, "add propagated frames up to this many steps away to the class-uniform sampling", must_be=NOT_NEGATIVE
    )
    propagated_dir: str | None = option(None, "where --maxSkip looks (propagate.py's --out); default: the data set")
    scf: bool = option(False, "add KITTI's scene-flow frames, with propagated labels, to the class-uniform sampling")
    bs_mult: int = option(2, "training crops per process and step", must_be=POSITIVE)
    bs_mult_val: int = option(1, "validation images per process and step", must_be=POSITIVE)
    index_dir: str = option("logs/index", "folder of the class positions found for class-uniform sampling")
    cache_dir: str | None = option(None, "folder to keep decoded images in, 4 bytes per pixel; default: decode again")
    skip_bad: int = option(0, "skip up to this many unreadable training files, per process", must_be=NOT_NEGATIVE)
    repeat: int = option(1, "visit the images this many times per epoch; for small data sets", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """the data"""

    dataset: str = option("", f"data set: {DATASET_CHOICES}", required=True)
    dataset_dir: str | None = option(None, DATASET_DIR)
    split: str | None = option(None, "one split; default: all splits present, except video")
    cv: int | None = option(None, CV)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """augmentation"""

    crop_size: int = option(720, "side of the square training crop, in pixels", must_be=POSITIVE, at_most=LARGEST_SIDE)
    crop_width: int | None = option(None, "its width, if not square", must_be=POSITIVE, at_most=LARGEST_SIDE)
    pre_size: int | None = option(
        None, "first resize training images, their shorter side to this", must_be=POSITIVE, at_most=LARGEST_SIDE
    )
    scale_min: float = option(0.5, "smallest random scale", must_be=POSITIVE)
    scale_max: float = option(2.0, "largest random scale", must_be=POSITIVE)
    color_aug: float = option(0.25, "strength of random brightness, contrast, saturation, hue; 0: off", must_be=SHARE)
    gblur: bool = option(True, "random Gaussian blur")
    bblur: bool = option(False, "random bilateral blur instead of --gblur")


@dataclass(frozen=True, kw_only=True)
class TrainAugmentConfig(AugmentConfig):
    """augmentation"""

    dump_augmentation_images: bool = option(False, "write the first batch's crops and labels to the run folder")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """the loss"""

    img_wt_loss: bool = option(False, "cross entropy with class weights per image")
    relax: bool = option(False, "cross entropy with labels relaxed at class borders; nothing else changes")
    jointwtborder: bool = option(False, "--relax, and class weights per image: two differences from cross entropy")
    batch_weighting: bool = option(False, "class weights per batch instead of per image")
    wt_bound: float = option(1.0, "upper bound of the class weights; 0: unweighted", "-wb", must_be=NOT_NEGATIVE)
    strict_bdr_cls: str = option("", "train ids, comma-separated, whose own pixels are NOT relaxed")
    rlx_off_epoch: int = option(-1, "epoch at which the relaxation is switched off; -1: never")
    rlx_border: int = option(1, "reach of the relaxation around a border, in pixels", must_be=POSITIVE)
    class_balance: float = option(0.0, "power of the class weights median share / share; 0: off", must_be=SHARE)
    jaccard: float = option(0.0, "add the soft Jaccard loss of a batch's classes, times this", must_be=NOT_NEGATIVE)
    published_loss: bool = option(False, "scale the losses of a batch as the published code, to use its learning rates")

    @property
    def relaxes(self) -> bool:
        """Whether labels are relaxed."""
        return self.relax or self.jointwtborder


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """the optimizer and its schedule"""

    lr: float = option(0.002, "initial learning rate", must_be=POSITIVE)
    trunk_lr: float = option(1.0, "learning rate of the trunk, as a factor of --lr", must_be=POSITIVE)
    layer_decay: float = option(
        1.0, "learning rate of each stage of the trunk (block of a transformer), as a factor of the next one's",
        must_be=POSITIVE, at_most=1,
    )  # fmt: skip
    lr_schedule: str = option("poly", "scl-poly restarts at --rlx_off_epoch", choices=("poly", "scl-poly"))
    poly_exp: float = option(1.0, "exponent of the poly schedule", must_be=POSITIVE)
    rescale: float = option(1.0, "scl-poly: learning rate of the restart, as a factor of --lr", must_be=POSITIVE)
    repoly: float = option(1.5, "scl-poly: exponent after the restart", must_be=POSITIVE)
    warmup_epochs: float = option(0.0, "raise the learning rate linearly for so many epochs", must_be=NOT_NEGATIVE)
    sgd: bool = option(True, "SGD with momentum, unless --adam is given")
    adam: bool = option(False, "AdamW (Adam with decoupled weight decay) instead of SGD, whatever --sgd says")
    amsgrad: bool = option(False, "AMSGrad variant of --adam")
    weight_decay: float = option(1e-4, "weight decay", must_be=NOT_NEGATIVE)
    momentum: float = option(0.9, "momentum of SGD", must_be=SHARE)
    accumulate: int = option(1, "accumulate gradients over this many batches", must_be=POSITIVE)
    global_batch: int = option(
        0, "crops a step of all processes, by as much --accumulate as that takes; the learning rate stays; 0: off",
        must_be=NOT_NEGATIVE,
    )  # fmt: skip
    max_bad_steps: int = option(
        0, "skip up to this many steps whose loss or gradient is NaN or infinite; waits for the GPU at each step",
        must_be=NOT_NEGATIVE,
    )  # fmt: skip
    clip_norm: float = option(0.0, "clip the gradient's norm to this; 0: off", must_be=NOT_NEGATIVE)
    ema: float = option(0.0, "score and save a moving average of the weights, of this decay per step", must_be=SHARE)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """the machine"""

    device: str = option("auto", "auto, cpu, cuda, cuda:<index> or mps (Apple; untested)")


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(DeviceConfig):
    """the machine"""

    num_workers: int | None = option(None, NUM_WORKERS, must_be=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """precision and processes (several GPUs: start with torchrun)"""

    bf16: bool | None = option(None, AUTOCAST)
    fp16: bool = option(False, "float16 autocast with loss scaling")
    syncbn: bool = option(False, "synchronise batch norm over all processes")
    compile: bool = option(False, "torch.compile the network")
    bf16_gradients: bool = option(False, "GPUs exchange gradients in bfloat16: half the bytes, for slow networks")
    bucket_mb: int = option(25, "MB of gradients that processes exchange at a time", must_be=POSITIVE)
    deterministic: bool = option(False, "the same bits each time on the same machine, also on a GPU; slower there")
    timeout: float = option(10.0, "minutes to wait for a process that hangs", must_be=POSITIVE)

    def __post_init__(self) -> None:
        if self.fp16 and self.bf16:
            raise ValueError("--fp16 and --bf16 exclude each other; give one of them.")


@dataclass(frozen=True, kw_only=True)
class ErrorConfig:
    """errors"""

    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class IgnoredConfig:
    """accepted for old command lines, without effect"""

    trunk: str = option("resnet101", "each architecture has its own trunk")


@dataclass(frozen=True, kw_only=True)
class TrainIgnoredConfig(IgnoredConfig):
    """accepted for old command lines, without effect"""

    hardnm: int = option(0, "hard negative mining, which no recipe of the published code uses")
    apex: bool = option(False, "processes and mixed precision are PyTorch's own")
    local_rank: int = option(0, "torchrun sets LOCAL_RANK", "--local_rank", "--local-rank")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    augment: TrainAugmentConfig
    loss: LossConfig
    optim: OptimConfig
    precision: PrecisionConfig
    device: WorkersConfig
    errors: ErrorConfig
    ignored: TrainIgnoredConfig


# Groups that do not change what a command computes: checkpoints and logs do not keep them.
_NOT_KEPT = ("errors", "ignored")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings of a command, or of one of its groups, as plain Python values, for checkpoints and logs."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_KEPT}
