"""The settings of the commands that predict, count, submit and export; see config.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from config import ARCHITECTURES, DATASET_CHOICES, DATASET_DIR, DeviceConfig, ErrorConfig, IgnoredConfig
from utils.flags import NOT_NEGATIVE, POSITIVE, SHARE, option

PHOTO = str(Path(__file__).parent.parent / "docs" / "photos" / "highway.jpg")
SNAPSHOT = str(Path(__file__).parent.parent / "pretrained_models" / "camvid_light.safetensors")

MAX_MEMORY = 4.0  # GiB for an image's pixels and probabilities
OVERLAP = 1 / 3  # share of a tile that its neighbour also covers
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")  # optional


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """inference"""

    scales: str = option("1.0", "scales to average over, comma-separated")
    max_memory: float = option(
        MAX_MEMORY, "GiB for an image's pixels and probabilities, besides the network's own memory", must_be=POSITIVE
    )
    bf16: bool = option(False, "compute in bfloat16: faster if the device supports it; one label in 500 changes")
    compile: bool = option(False, "torch.compile the network: faster, after up to a minute for some new sizes")


@dataclass(frozen=True, kw_only=True)
class SnapshotConfig:
    """the checkpoint"""

    snapshot: str = option("", "checkpoint file", required=True)
    arch: str | None = option(None, f"its architecture; default: as stored in it. Names: {', '.join(ARCHITECTURES)}")
    dataset: str | None = option(None, f"its data set; default: as stored in it. One of: {DATASET_CHOICES}")


@dataclass(frozen=True, kw_only=True)
class DemoSnapshotConfig(SnapshotConfig):
    """the checkpoint"""

    snapshot: str = option(SNAPSHOT, "checkpoint file; default: the network that this project carries")


@dataclass(frozen=True, kw_only=True)
class EvalDataConfig:
    """the data"""

    dataset_dir: str | None = option(None, DATASET_DIR)
    split: str = option("val", "split to evaluate; a split without labels is predicted, not scored")
    cv_split: int | None = option(
        None, "cross-validation fold that --split refers to; default: the one the checkpoint was trained with", "--cv"
    )
    split_index: int = option(0, "index of the part to evaluate, counted from 0", must_be=NOT_NEGATIVE)
    split_count: int = option(1, "number of parts to split the images into", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class EvalInferenceConfig(PredictConfig):
    """inference"""

    inference_mode: str = option(
        "sliding", "sliding: overlapping tiles; pooling: the whole image at once", "-im", choices=("sliding", "pooling")
    )
    crop_size: int = option(1024, "side of a tile, in pixels", must_be=POSITIVE)
    sliding_overlap: float = option(OVERLAP, "share of a tile that its neighbour also covers, below 1", must_be=SHARE)
    scales: str = option("0.5,1.0,2.0", "scales to average over, comma-separated")
    single_scale: bool = option(False, "scale 1 only")
    no_flip: bool = option(False, "do not average with the mirrored image")
    batch_size: int = option(1, "tiles per step", must_be=POSITIVE)
    calibrate: bool = option(
        False, "first fit a temperature for the probabilities to the split's labels, and store it in the checkpoint"
    )
    profile: bool = option(False, "print how long each step took")
    test_mode: bool = option(False, "evaluate two images only, to check that everything works")


@dataclass(frozen=True, kw_only=True)
class EvalOutputConfig:
    """results"""

    ckpt_path: str | None = option(None, "folder of the results; default: eval, next to the checkpoint")
    exp_name: str | None = option(None, "name of the results' subfolder; default: <data set>_<split>, and the fold")
    num_workers: int = option(4, "threads that score and write while the network runs", must_be=NOT_NEGATIVE)
    outputs: str = option(
        "", "also write images to folders of these names: pred (label ids), rgb, maps, compose, diff, confidence"
    )
    dump_images: bool = option(False, "write all of these but confidence")
    resume: bool = option(False, "continue an interrupted run: keep results made with the same settings")


@dataclass(frozen=True, kw_only=True)
class EvalIgnoredConfig(IgnoredConfig):
    """accepted for old command lines, without effect"""

    mode: str = option("fine", "fine labels are always used", choices=("fine",))
    dataset_cls: str | None = option(None, "--dataset determines the classes")
    fixed_aspp_pool: bool = option(False, "image pooling always covers the network's input")
    dist_bn: bool = option(False, "evaluation takes no batch statistics")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score a checkpoint on a split, or predict a split without labels."""

    model: SnapshotConfig
    data: EvalDataConfig
    inference: EvalInferenceConfig
    output: EvalOutputConfig
    device: DeviceConfig
    errors: ErrorConfig
    ignored: EvalIgnoredConfig


@dataclass(frozen=True, kw_only=True)
class DemoInputConfig:
    """the image or video"""

    demo_image: str = option("", "image to segment", "--demo-image")
    demo_video: str = option("", "video file to segment instead, or a camera's number", "--demo-video")
    temporal: bool = option(False, "smooth a video's classes along its motion, so that they flicker less")
    max_frames: int | None = option(None, "stop after so many frames; a camera also stops on Ctrl-C", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class DemoFolderInputConfig:
    """the images"""

    demo_folder: str = option(
        "", "folder of images and subfolders, or a quoted pattern like 'a/**/*.jpg'", "--demo-folder", required=True
    )
    resume: bool = option(False, "skip images that already have results made with the same settings")


@dataclass(frozen=True, kw_only=True)
class DemoOutputConfig(PredictConfig):
    """inference and results"""

    save_dir: str = option("./save", "folder of the results: <name>_color.png, _overlay.png, _ids.png", "--save-dir")
    outputs: str = option("ids,color,overlay", "which results to write: these, or confidence (probabilities in 255ths)")
    classes: str = option("", "classes to show, by name, comma-separated; all else is grey, and black in _color.png")
    flip: bool = option(False, "average with the mirrored image")
    tile: int | None = option(None, "cut the image into overlapping tiles of this side, in pixels", must_be=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class DemoIgnoredConfig:
    """accepted for old command lines, without effect"""

    num_workers: int | None = option(None, "reading and writing always use threads")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Segment one image or video."""

    input: DemoInputConfig
    model: DemoSnapshotConfig
    output: DemoOutputConfig
    device: DeviceConfig
    errors: ErrorConfig
    ignored: DemoIgnoredConfig


@dataclass(frozen=True, kw_only=True)
class DemoFolderConfig:
    """Segment a folder of images."""

    input: DemoFolderInputConfig
    model: DemoSnapshotConfig
    output: DemoOutputConfig
    device: DeviceConfig
    errors: ErrorConfig
    ignored: DemoIgnoredConfig


@dataclass(frozen=True, kw_only=True)
class PercentageConfig:
    """what to count"""

    path: str | None = option(
        None, "colour mask, id map, or a folder of them; default: ./save (DEFAULT_PATH in Pixel_percentage.py)", "path"
    )
    dataset: str = option("cityscapes", f"data set that defines the classes: {DATASET_CHOICES}")
    dataset_dir: str | None = option(None, "root folder of a data set that defines its own classes, such as folder")
    ids: str = option(
        "auto", "what one channel holds: the data set's label ids, or train ids", choices=("auto", "label", "train")
    )
    csv: str | None = option(None, "also write the table to this CSV file")
    json: str | None = option(None, "also write the table to this JSON file")
    plot: str | None = option(None, "also plot the shares to this image")


@dataclass(frozen=True, kw_only=True)
class PixelPercentageConfig:
    """Count the pixels of each class."""

    input: PercentageConfig
    errors: ErrorConfig


@dataclass(frozen=True, kw_only=True)
class SubmissionInputConfig:
    """what to check"""

    path: str | None = option(None, "result folder of eval.py, or a folder or zip of label ids", "path", required=True)
    dataset: str | None = option(None, f"data set; default: as recorded there by eval.py. One of: {DATASET_CHOICES}")
    dataset_dir: str | None = option(None, "its root folder; default: as recorded there by eval.py")
    split: str | None = option(None, "its split; default: as recorded there by eval.py, or test")
    cv_split: int | None = option(None, "its cross-validation fold; default: as recorded there by eval.py", "--cv")
    zip: str | None = option(None, "write the files, if they pass, to this zip, and check it too")


@dataclass(frozen=True, kw_only=True)
class SubmissionConfig:
    """Check predictions before submitting them to a benchmark server, and zip them."""

    input: SubmissionInputConfig
    errors: ErrorConfig


@dataclass(frozen=True, kw_only=True)
class ExportFileConfig:
    """the file"""

    out: str = option(
        "", "file to write: .onnx, .pt2 (torch.export), or .safetensors (weights with their description)", required=True
    )
    size: tuple[int, int] | None = option(None, "rows and columns of the images; default: any")
    input: str = option(
        "uint8", "uint8: RGB [B, H, W, 3] as decoded; float: normalised, [B, 3, H, W]", choices=("uint8", "float")
    )
    output: str = option(
        "labels", "labels: train ids [B, H, W]; else [B, C, H, W]", choices=("labels", "logits", "probabilities")
    )
    half: bool = option(False, "compute in float16, or store the weights of .safetensors in it")
    int8: bool = option(False, "convolutions in 8 bits, scaled for --calibration's images (.onnx, --input uint8)")
    calibration: str = option(PHOTO, "image, or folder of images as the network will see, which --int8 measures")

    def __post_init__(self) -> None:
        if self.int8 and (self.half or self.input != "uint8" or not self.out.endswith(".onnx")):
            raise ValueError("--int8 needs an .onnx file and --input uint8, and excludes --half.")


@dataclass(frozen=True, kw_only=True)
class ExportCheckConfig:
    """checking it"""

    images: str = option(PHOTO, "image, or folder of images, on which the file must agree with PyTorch")
    dataset_dir: str | None = option(None, "root folder of labelled data to score the file on, beside the checkpoint")
    split: str = option("val", "their split")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a network for programs without this project, and check the file against PyTorch."""

    file: ExportFileConfig
    model: DemoSnapshotConfig
    check: ExportCheckConfig
    errors: ErrorConfig
