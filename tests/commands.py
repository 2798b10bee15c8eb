"""The entry points, as modules, with the config that describes each one's flags."""

from typing import Any

from config import TrainConfig
from datasets.show import ShowConfig
from datasets.streets.__main__ import StreetsConfig
from datasets.verify import VerifyConfig
from inference import settings
from network.convert import ConvertConfig
from training.compare import CompareConfig
from video.settings import PropagateConfig, VideoTrainConfig

CONFIGS: dict[str, Any] = {
    "train": TrainConfig,
    "eval": settings.EvalConfig,
    "demo": settings.DemoConfig,
    "demo_folder": settings.DemoFolderConfig,
    "export": settings.ExportConfig,
    "Pixel_percentage": settings.PixelPercentageConfig,
    "propagate": PropagateConfig,
    "datasets.verify": VerifyConfig,
    "datasets.show": ShowConfig,
    "datasets.streets.__main__": StreetsConfig,
    "inference.submission": settings.SubmissionConfig,
    "network.convert": ConvertConfig,
    "training.compare": CompareConfig,
    "video.train": VideoTrainConfig,
}
