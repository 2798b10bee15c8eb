"""Write a trunk's weights as a small file: `python -m network.convert FILE --arch ARCH --out OUT.safetensors`.

Of a whole network, `export.py --half` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass

from config import ARCHITECTURES, ErrorConfig
from utils.flags import option, parse_command_line


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """what to convert"""

    file: str = option("", "weights with keys of torchvision, timm, the published code or here", "file", required=True)
    arch: str = option("", "architecture whose trunk they are of: " + ", ".join(ARCHITECTURES), required=True)
    out: str = option("", "file to write, *.safetensors", required=True)


@dataclass(frozen=True)
class ConvertConfig:
    """Convert the weights of a trunk to half precision."""

    files: FilesConfig
    errors: ErrorConfig


if __name__ == "__main__":
    CONFIG = parse_command_line(ConvertConfig)

from pathlib import Path

from network.checkpoint import SAFETENSORS, Checkpoint, halve, save_checkpoint
from network.deepv3 import build_network
from network.weights import load_trunk_weights
from utils.command import run_command


def main(config: ConvertConfig) -> int:
    """Convert as `config` says. Returns the exit code."""
    arch, out = config.files.arch, Path(config.files.out)
    if out.suffix != SAFETENSORS:
        raise ValueError(f"--out {out} must end in {SAFETENSORS}.")
    net = build_network(arch, 1)
    print(f"trunk of {arch}: {load_trunk_weights(net, config.files.file).summary()}")
    trunk = {key: value for key, value in net.state_dict().items() if net.is_trunk_key(key)}
    save_checkpoint(out, Checkpoint(state_dict=halve(trunk)))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    run_command(main, CONFIG)
