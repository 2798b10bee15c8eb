"""Every setting of every command: one field = one flag = one default = one help text. Read-only after parsing.

Those of the commands on data sets and video stand in datasets/settings.py, datasets/synthetic/settings.py and
video/settings.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from datasets.registry import NAMES
from network.names import ARCHITECTURES
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE, option

# Where each data set lies where neither --dataset_dir nor its environment variable KERBLINE_<NAME> says so.
DATASET_ROOTS = {
    "camvid": "data/camvid",
    "camvid32": "data/camvid32",
    "cityscapes": "data/cityscapes",
    "folder": "data/folder",
    "kitti": "data/kitti",
    "mapillary": "data/mapillary",
    "mapillary2": "data/mapillary2",
    "streets": "data/streets",
}

DATASET_CHOICES = ", ".join(NAMES)
MAX_MEMORY = "GiB for an image's pixels and probabilities; the network's own, which follows from the tile, come on top"
BF16 = "compute in bfloat16: faster where the device has it; about one label in 500 changes"
COMPILE = "torch.compile the network: faster, after up to a minute for the first picture and for some of other sizes"

# Of a crop, in pixels. OpenCV ends with an error of its own where a picture is so large that no memory holds it.
LARGEST_SIDE = 16384


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """the run and where it is kept"""

    exp: str = option(
        "default", "name of the run; its folder is <ckpt>/<exp>, or <ckpt>/<exp>_<tb_tag>; --test_mode adds _test_mode"
    )
    tb_tag: str = option("", "added to the run's name")
    ckpt: str = option("logs/ckpt", "folder of the run folders")
    tb_path: str = option("logs/tb", "folder of the TensorBoard logs; the run folder holds a link to its own")
    max_epoch: int = option(180, "number of epochs", must_be=POSITIVE)
    start_epoch: int = option(
        0, "first epoch, counted from 0; with --resume the checkpoint decides", must_be=NOT_NEGATIVE
    )
    max_minutes: float = option(
        0.0,
        "plan learning rate and --rlx_off_epoch for this many minutes, then validate and end, at the latest after "
        "--max_epoch (--max_cu_epoch counts epochs as ever); 0: train --max_epoch epochs",
        must_be=NOT_NEGATIVE,
    )
    val_interval: int = option(1, "validate every so many epochs, and after the last", must_be=POSITIVE)
    seed: int = option(0, "everything random follows from it", must_be=NOT_NEGATIVE)
    resume: bool = option(False, "go on where the run folder's last.pth stopped; starts anew if there is none")
    test_mode: bool = option(False, "run two iterations of training and validation, to see that everything works")

    def __post_init__(self) -> None:
        if 0 < self.max_epoch <= self.start_epoch and not self.resume:
            raise ValueError(
                f"--start_epoch {self.start_epoch} must be below --max_epoch {self.max_epoch}, or nothing is trained."
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """the network"""

    arch: str = option("network.deepv3.DeepWV3Plus", "architecture, full or short name: " + ", ".join(ARCHITECTURES))
    trunk: str = option("resnet101", "accepted and ignored: each architecture's name says its trunk")
    snapshot: str | None = option(None, "checkpoint to start from; a head for other classes is left out")
    trunk_weights: str | None = option(
        None, "local file with ImageNet weights of the trunk; nothing is ever downloaded"
    )
    restore_optimizer: bool = option(False, "take optimizer and epoch from --snapshot too; flags decide the schedule")
    freeze_trunk: bool = option(False, "train the head only")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """the data"""

    dataset: str = option("cityscapes", f"data set: {DATASET_CHOICES}")
    dataset_dir: str | None = option(
        None, "its root folder; else the environment variable KERBLINE_<NAME>, else DATASET_ROOTS in config.py"
    )
    train_split: str = option("train", "split to train on; ignored where --cv names a fold")
    cv: int | None = option(None, "cross-validation fold; default: the official split, or fold 0 where there is none")
    class_uniform_pct: float = option(
        0.5, "share of an epoch's crops that are centred on classes drawn uniformly", must_be=SHARE
    )
    class_uniform_tile: int = option(1024, "one centre per class and tile of this side, in pixels", must_be=POSITIVE)
    coarse_boost_classes: str | None = option(
        None, "train ids, comma-separated, for which coarse images join the class-uniform choice"
    )
    max_cu_epoch: int = option(
        100000, "from this epoch on every image once, no class-uniform crops", must_be=NOT_NEGATIVE
    )
    maxSkip: int = option(  # noqa: N815
        0, "add propagated frames up to this many steps away to the class-uniform choice", must_be=NOT_NEGATIVE
    )
    propagated_dir: str | None = option(
        None, "where --maxSkip looks: what propagate.py --out named; default: the data set's own folder"
    )
    scf: bool = option(False, "add KITTI's scene-flow frames, with propagated labels, to the class-uniform choice")
    bs_mult: int = option(2, "training crops per process and step", must_be=POSITIVE)
    bs_mult_val: int = option(1, "validation images per process and step", must_be=POSITIVE)
    index_dir: str = option("logs/index", "folder where the places of the classes are kept for class-uniform sampling")
    cache_dir: str | None = option(
        None, "decode each image once and keep it in this folder, 4 bytes per pixel; default: decode each time"
    )
    skip_bad: int = option(
        0,
        "leave out training files that cannot be read up to so many times, per process, with a warning",
        must_be=NOT_NEGATIVE,
    )
    repeat: int = option(1, "visit the training images this many times an epoch; for small data sets", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """augmentation"""

    crop_size: int = option(
        720, "side of the square training crop, in pixels", must_be=POSITIVE, at_most=LARGEST_SIDE
    )
    crop_width: int | None = option(
        None,
        "width of the crop where it is no square; --crop_size is its height",
        must_be=POSITIVE,
        at_most=LARGEST_SIDE,
    )
    pre_size: int | None = option(
        None,
        "resize the shorter side of training images to this first, in pixels; validation is at full size",
        must_be=POSITIVE,
        at_most=LARGEST_SIDE,
    )
    scale_min: float = option(0.5, "smallest random scale", must_be=POSITIVE)
    scale_max: float = option(2.0, "largest random scale", must_be=POSITIVE)
    color_aug: float = option(
        0.25, "strength of the random brightness, contrast, saturation and hue; 0: off", must_be=SHARE
    )
    gblur: bool = option(True, "random Gaussian blur")
    bblur: bool = option(False, "random bilateral blur instead")


@dataclass(frozen=True, kw_only=True)
class TrainAugmentConfig(AugmentConfig):
    """augmentation"""

    dump_augmentation_images: bool = option(False, "write the first batch's crops and labels to the run folder")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """the loss"""

    img_wt_loss: bool = option(False, "cross entropy with class weights per image")
    jointwtborder: bool = option(False, "label relaxation at class borders")
    batch_weighting: bool = option(False, "class weights per batch instead of per image")
    wt_bound: float = option(1.0, "upper bound of the class weights; 0: unweighted", "-wb", must_be=NOT_NEGATIVE)
    strict_bdr_cls: str = option("", "train ids, comma-separated, that are NOT relaxed at their own pixels")
    rlx_off_epoch: int = option(-1, "epoch from which the relaxation is off; -1: never")
    rlx_border: int = option(1, "reach of the relaxation, in pixels", must_be=POSITIVE)
    class_balance: float = option(
        0.0, "weight classes by (median share / share) to this power over the training labels; 0: off", must_be=SHARE
    )
    published_loss: bool = option(
        False, "scale and couple the losses of a batch as the published code does, to use its learning rates"
    )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """the optimizer and its schedule"""

    lr: float = option(0.002, "learning rate at the start", must_be=POSITIVE)
    lr_schedule: str = option(
        "poly",
        "poly, or scl-poly: poly until --rlx_off_epoch, then a restart at lr * --rescale",
        choices=("poly", "scl-poly"),
    )
    poly_exp: float = option(1.0, "exponent of the poly schedule", must_be=POSITIVE)
    rescale: float = option(1.0, "scl-poly: learning rate of the restart, as a factor of --lr", must_be=POSITIVE)
    repoly: float = option(1.5, "scl-poly: exponent after the restart", must_be=POSITIVE)
    warmup_epochs: float = option(
        0.0, "rise linearly to --lr over so many epochs; with --max_minutes their share of it", must_be=NOT_NEGATIVE
    )
    sgd: bool = option(True, "SGD with momentum, unless --adam is given")
    adam: bool = option(False, "AdamW instead of SGD, whatever --sgd says (Adam with decoupled weight decay)")
    amsgrad: bool = option(False, "AMSGrad variant of --adam")
    weight_decay: float = option(1e-4, "weight decay", must_be=NOT_NEGATIVE)
    momentum: float = option(0.9, "momentum of SGD", must_be=SHARE)
    accumulate: int = option(1, "add the gradients of so many batches to one step", must_be=POSITIVE)
    clip_norm: float = option(0.0, "clip the gradient's norm to this; 0: off", must_be=NOT_NEGATIVE)
    ema: float = option(
        0.0, "score and keep a moving average of the weights with this decay a step, say 0.998; 0: off", must_be=SHARE
    )
    hardnm: int = option(0, "accepted and ignored: hard negative mining of the published code, which no recipe uses")


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """the machine"""

    device: str = option("auto", "auto, cpu, cuda or cuda:<index>")
    num_workers: int | None = option(
        None, "processes that read or make samples; default: one per core of this process", must_be=NOT_NEGATIVE
    )
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class PrecisionConfig:
    """precision and processes (several GPUs: start with torchrun)"""

    bf16: bool | None = option(None, "bfloat16 autocast; default: where the device has it")
    fp16: bool = option(False, "float16 autocast with loss scaling")
    apex: bool = option(False, "accepted: processes and mixed precision are PyTorch's own")
    syncbn: bool = option(False, "batch norm over all processes")
    compile: bool = option(False, "torch.compile the network")
    local_rank: int = option(0, "accepted: torchrun sets LOCAL_RANK", "--local_rank", "--local-rank")


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
    device: DeviceConfig


@dataclass(frozen=True, kw_only=True)
class SnapshotConfig:
    """the checkpoint"""

    snapshot: str = option("", "checkpoint file", required=True)
    arch: str | None = option(
        None, "its architecture; default: what the checkpoint says. Names: " + ", ".join(ARCHITECTURES)
    )
    dataset: str | None = option(
        None, f"the data set it was trained on; default: what the checkpoint says. One of: {DATASET_CHOICES}"
    )


@dataclass(frozen=True, kw_only=True)
class DemoSnapshotConfig(SnapshotConfig):
    """the checkpoint"""

    snapshot: str = option("./pretrained_models/cityscapes_best.pth", "checkpoint file", required=True)


@dataclass(frozen=True, kw_only=True)
class EvalDataConfig:
    """the data"""

    dataset_dir: str | None = option(
        None, "root folder; else the environment variable KERBLINE_<NAME>, else DATASET_ROOTS in config.py"
    )
    split: str = option("val", "split to evaluate; one without labels is predicted, not scored")
    cv_split: int | None = option(
        None, "cross-validation fold that --split means; default: the one the checkpoint was trained with", "--cv"
    )
    mode: str = option("fine", "accepted: fine labels are always used", choices=("fine",))
    split_index: int = option(0, "evaluate part number so-and-so of the images, counted from 0", must_be=NOT_NEGATIVE)
    split_count: int = option(1, "in how many parts the images are cut", must_be=POSITIVE)
    dataset_cls: str | None = option(None, "accepted and ignored: --dataset says it")


@dataclass(frozen=True, kw_only=True)
class EvalInferenceConfig:
    """inference"""

    inference_mode: str = option(
        "sliding", "sliding: overlapping tiles; pooling: the whole image at once", "-im", choices=("sliding", "pooling")
    )
    crop_size: int = option(1024, "side of a tile, in pixels", must_be=POSITIVE)
    sliding_overlap: float = option(1 / 3, "share of a tile that its neighbour covers too, below 1", must_be=SHARE)
    scales: str = option("0.5,1.0,2.0", "scales to average over, comma-separated")
    single_scale: bool = option(False, "scale 1 only")
    no_flip: bool = option(False, "do not average with the mirrored image")
    batch_size: int = option(1, "tiles per step", must_be=POSITIVE)
    max_memory: float = option(4.0, MAX_MEMORY, must_be=POSITIVE)
    bf16: bool = option(False, BF16)
    compile: bool = option(False, COMPILE)
    fixed_aspp_pool: bool = option(False, "accepted and ignored: image pooling always covers the network's input")
    dist_bn: bool = option(False, "accepted and ignored: no batch statistics are taken in evaluation")
    profile: bool = option(False, "print where the time went")
    trunk: str = option("resnet101", "accepted and ignored: each architecture's name says its trunk")
    test_mode: bool = option(False, "evaluate two images only, to see that everything works")


@dataclass(frozen=True, kw_only=True)
class EvalOutputConfig:
    """results"""

    ckpt_path: str | None = option(None, "folder of the results; default: eval beside the checkpoint")
    exp_name: str | None = option(None, "name of the results' sub-folder; default: <data set>_<split>, and the fold")
    dump_images: bool = option(False, "write rgb/, pred/ (label ids), compose/ and diff/ pictures")
    resume: bool = option(False, "go on with an interrupted run")


@dataclass(frozen=True, kw_only=True)
class EvalDeviceConfig(DeviceConfig):
    """the machine"""

    num_workers: int | None = option(4, "threads that score and write beside the network", must_be=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score a checkpoint on a split, or predict a split without labels."""

    model: SnapshotConfig
    data: EvalDataConfig
    inference: EvalInferenceConfig
    output: EvalOutputConfig
    device: EvalDeviceConfig


@dataclass(frozen=True, kw_only=True)
class DemoInputConfig:
    """the picture or video"""

    demo_image: str = option("", "image to segment", "--demo-image")
    demo_video: str = option("", "video file to segment instead, or the number of a camera", "--demo-video")
    temporal: bool = option(
        False, "smooth a video's classes along its motion, so that they flicker less; takes more memory"
    )
    max_frames: int | None = option(None, "stop a video after so many frames; a camera: Ctrl-C", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class DemoFolderInputConfig:
    """the pictures"""

    demo_folder: str = option(
        "",
        "folder of images, sub-folders included, or a quoted pattern like 'photos/**/*.jpg'; other files are left out",
        "--demo-folder",
        required=True,
    )


@dataclass(frozen=True, kw_only=True)
class DemoOutputConfig:
    """inference and results"""

    save_dir: str = option("./save", "folder of the results: <name>_color.png, _overlay.png, _ids.png", "--save-dir")
    classes: str = option("", "names of classes to show, comma-separated; all else is grey, in _color.png black")
    scales: str = option("1.0", "scales to average over, comma-separated")
    flip: bool = option(False, "average with the mirrored image")
    tile: int | None = option(None, "cut the image into overlapping tiles of this side, in pixels", must_be=POSITIVE)
    max_memory: float = option(4.0, MAX_MEMORY, must_be=POSITIVE)
    bf16: bool = option(False, BF16)
    compile: bool = option(False, COMPILE)


@dataclass(frozen=True, kw_only=True)
class DemoFolderOutputConfig(DemoOutputConfig):
    """inference and results"""

    resume: bool = option(False, "leave out pictures whose results are there, made with the same settings")


@dataclass(frozen=True, kw_only=True)
class DemoDeviceConfig(DeviceConfig):
    """the machine"""

    num_workers: int | None = option(None, "accepted and ignored: threads read and write beside the network")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Segment one picture or video."""

    input: DemoInputConfig
    model: DemoSnapshotConfig
    output: DemoOutputConfig
    device: DemoDeviceConfig


@dataclass(frozen=True, kw_only=True)
class DemoFolderConfig:
    """Segment a folder of pictures."""

    input: DemoFolderInputConfig
    model: DemoSnapshotConfig
    output: DemoFolderOutputConfig
    device: DemoDeviceConfig


@dataclass(frozen=True, kw_only=True)
class PercentageConfig:
    """what to count"""

    path: str | None = option(
        None,
        "colour mask, id map, or a folder of them; default: ./save, or what DEFAULT_PATH in Pixel_percentage.py says",
        "path",
    )
    dataset: str = option("cityscapes", f"whose classes: {DATASET_CHOICES}")
    dataset_dir: str | None = option(None, "root folder of a data set that tells its classes itself, like folder")
    ids: str = option(
        "auto",
        "what a one-channel file holds: label ids as in the data set's files, or train ids",
        choices=("auto", "label", "train"),
    )
    csv: str | None = option(None, "also write the table to this CSV file")
    json: str | None = option(None, "also write the table to this JSON file")
    plot: str | None = option(None, "also draw the shares into this picture")
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class PixelPercentageConfig:
    """Count the pixels of each class."""

    input: PercentageConfig


@dataclass(frozen=True, kw_only=True)
class SubmissionInputConfig:
    """what to check"""

    path: str | None = option(
        None, "result folder of eval.py, or a folder or zip of label ids", "path", required=True
    )
    dataset: str | None = option(None, f"data set; default: what eval.py wrote there. One of: {DATASET_CHOICES}")
    dataset_dir: str | None = option(None, "its root folder; default: what eval.py wrote there")
    split: str | None = option(None, "its split; default: what eval.py wrote there, or test")
    cv_split: int | None = option(None, "its cross-validation fold; default: what eval.py wrote there")
    zip: str | None = option(None, "write the files, if they are right, into this zip, and check that too")
    debug: bool = option(False, "show the traceback of an error")


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """Check predictions before a benchmark's server does, and zip them."""

    input: SubmissionInputConfig


def as_dict(config: Any) -> dict[str, Any]:
    """Plain Python values, for checkpoints and logs."""
    return dataclasses.asdict(config)
