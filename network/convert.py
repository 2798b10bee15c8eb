"""Write a trunk's ImageNet weights as a small file: `python -m network.convert FILE --arch ARCH --out OUT`."""

from __future__ import annotations

from dataclasses import dataclass

from config import ErrorConfig
from network.names import ARCHITECTURES
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """what to convert"""

    file: str = option("", "ImageNet weights with torchvision's, timm's or the published keys", "file", required=True)
    arch: str = option("", "architecture whose trunk they are for: " + ", ".join(ARCHITECTURES), required=True)
    out: str = option("", "file to write; it should end in .safetensors", required=True)


@dataclass(frozen=True)
class ConvertConfig:
    """Convert a trunk's ImageNet weights: this project's keys and normalisation, convolutions in half precision."""

    files: FilesConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(ConvertConfig)

from pathlib import Path

from safetensors.torch import save_file

from network.build import build_network
from network.weights import load_trunk_weights
from utils.command import run_command
from utils.files import atomic_path


def main(config: ConvertConfig) -> int:
    """Convert as `config` says. Returns the exit code."""
    net = build_network(config.files.arch, 1)
    report = load_trunk_weights(net, config.files.file)
    trunk = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    # Batch norms stay as they are: they are small, and a variance may exceed half precision's range.
    halved = {key: value.half() if value.ndim > 1 else value for key, value in trunk.items()}
    out = Path(config.files.out)
    with atomic_path(out) as temporary:
        save_file({key: value.contiguous() for key, value in halved.items()}, temporary, {"format": "pt"})
    print(f"{report.summary()}; wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run_command(main, CONFIG)
