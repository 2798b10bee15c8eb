"""Compare short training runs; each is trained and scored by the project's own commands, and kept."""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from utils.parallel import default_num_workers

BATCH = 8
# From the trunk that the project carries, or from scratch.
IMAGENET = (
    "--arch", "DeepEffLite2V3PlusD_m1", "--trunk_weights", "imagenet", "--lr", "0.003", "--ema", "0.99",
    "--crop_size", "192", "--crop_width", "240", "--scale_min", "0.75", "--scale_max", "1.5", "--color_aug", "0.4",
)  # fmt: skip
SCRATCH = (
    "--arch", "DeepMNV3V3PlusD_m1", "--lr", "0.008", "--crop_size", "192", "--crop_width", "240",
    "--scale_min", "0.75", "--scale_max", "1.5", "--color_aug", "0.15",
)  # fmt: skip
QUIET = {"check": True, "stdout": subprocess.DEVNULL}


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that all trials have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder for data and runs")
    parser.add_argument("--camvid", type=Path, help="CamVid's folder, to use CamVid instead of streets")
    parser.add_argument("--seeds", type=int, default=3, help="training runs of each way")
    parser.add_argument("--parallel", type=int, default=1, help="trainings at a time, for a GPU that one leaves idle")
    parser.add_argument("--updates", type=int, default=300, help="optimizer steps per training, in whole epochs")
    return parser


def in_epochs(updates: int, data: Path) -> tuple[str, ...]:
    """Flags for as many epochs as `updates` fill, scored at the end."""
    epochs = str(updates // (len(list((data / "trainannot").iterdir())) // BATCH))
    return ("--max_epoch", epochs, "--val_interval", epochs)


@dataclass(frozen=True)
class Trial:
    """A data set, and how a light network is trained on it, apart from the settings that are compared."""

    root: Path  # for runs and results
    dataset: str
    data: Path
    flags: tuple[str, ...]
    parallel: int  # trainings at a time

    def run(self, name: str, seed: int, flags: Sequence[str | Path]) -> Path:
        """Train with `flags` added, and score the last weights on the test split. Returns the run folder."""
        described = " ".join(map(str, (self.dataset, self.data.resolve(), *self.flags, *flags)))
        mark = hashlib.sha256(described.encode()).hexdigest()[:8]  # results of other flags belong to another trial
        exp = f"{name.replace(', ', '_').replace(' ', '_')}_{seed}_{mark}"
        folder = self.root / "runs" / exp
        if not (folder / "eval" / f"{self.dataset}_test_last" / "metrics.json").is_file():
            subprocess.run(
                [sys.executable, "train.py", "--dataset", self.dataset, "--dataset_dir", self.data,
                 "--adam", "--weight_decay", "0.02", "--poly_exp", "0.9",
                 "--bs_mult", str(BATCH), "--no-gblur",
                 "--seed", str(seed), "--ckpt", self.root / "runs", "--tb_path", self.root / "tb",
                 "--num_workers", str(max(1, default_num_workers() // self.parallel)),
                 "--exp", exp, "--resume", *self.flags, *flags],
                **QUIET,
            )  # fmt: skip
            subprocess.run(
                [sys.executable, "eval.py", "--snapshot", folder / "last.pth",
                 "--dataset_dir", self.data, "--split", "test", "--inference_mode", "pooling", "--single_scale",
                 "--no_flip"],
                **QUIET,
            )  # fmt: skip
        print(f"seed {seed}, {name}: {folder}", flush=True)
        return folder

    def compare(self, ways: Mapping[str, Sequence[str | Path]], num_seeds: int) -> None:
        """Train each way with each seed, and compare the runs: comparison.csv in `root`."""
        runs = [(name, seed, flags) for seed in range(num_seeds) for name, flags in ways.items()]
        with ThreadPoolExecutor(self.parallel) as pool:
            folders = list(pool.map(lambda run: self.run(*run), runs))
        subprocess.run([sys.executable, "-m", "training.compare", *folders, "--out", self.root], check=True)
