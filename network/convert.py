"""Write weights as a small file to pass on: `python -m network.convert FILE --out OUT.safetensors`."""

from __future__ import annotations

from dataclasses import dataclass

from config import ARCHITECTURES, ErrorConfig
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """what to convert"""

    file: str = option("", "checkpoint of this project, or ImageNet weights with --arch", "file", required=True)
    arch: str | None = option(
        None,
        "write only the trunk, for this architecture, from a file with torchvision's, timm's, the published or this "
        "project's keys: " + ", ".join(ARCHITECTURES),
    )
    out: str = option("", "file to write, *.safetensors", required=True)


@dataclass(frozen=True)
class ConvertConfig:
    """Convert weights to half precision, without the optimizer's state: a whole network, or a trunk."""

    files: FilesConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(ConvertConfig)

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from network.checkpoint import SAFETENSORS, Checkpoint, load_checkpoint, save_checkpoint
from network.deepv3 import build_network
from network.weights import load_trunk_weights
from utils.command import run_command


def main(config: ConvertConfig) -> int:
    """Convert as `config` says. Returns the exit code."""
    out = Path(config.files.out)
    if out.suffix != SAFETENSORS:
        raise ValueError(f"--out {out} must end in {SAFETENSORS}.")
    if config.files.arch:
        net = build_network(config.files.arch, 1)
        print(f"trunk of {config.files.arch}: {load_trunk_weights(net, config.files.file).summary()}")
        trunk = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
        save_checkpoint(out, Checkpoint(state_dict=halve(trunk)))
    else:
        checkpoint = load_checkpoint(config.files.file)
        if checkpoint.arch is None:
            raise ValueError(f"{config.files.file} does not name its network; for ImageNet weights give --arch.")
        weights, flags = halve(checkpoint.state_dict), without_paths(checkpoint.config)
        save_checkpoint(out, replace(checkpoint, state_dict=weights, config=flags))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def halve(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision. Batch norms stay: they are small, and a variance may exceed half precision's range."""
    return {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}


def without_paths(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The flags of a training, without the folders of the machine that it ran on."""
    return {
        group: {name: value for name, value in values.items() if not (isinstance(value, str) and "/" in value)}
        for group, values in flags.items()
    }


if __name__ == "__main__":
    run_command(main, CONFIG)
