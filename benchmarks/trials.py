"""Compare short training runs; each is trained and scored by the project's own commands, and kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BATCH = 8
QUIET = {"check": True, "stdout": subprocess.DEVNULL}


@dataclass(frozen=True)
class Trial:
    """A data set, and how the light network is trained on it, apart from the settings that are compared."""

    root: Path  # for runs and results
    dataset: str
    data: Path
    flags: tuple[str, ...]

    def score(self, name: str, seed: int, flags: Sequence[str | Path]) -> dict[str, float]:
        """Train with `flags` added, score the last weights on the test split, and return the metrics."""
        described = " ".join(map(str, (self.dataset, self.data.resolve(), *self.flags, *flags)))
        mark = hashlib.sha256(described.encode()).hexdigest()[:8]  # results of other flags belong to another trial
        exp = f"{name.replace(', ', '_').replace(' ', '_')}_{seed}_{mark}"
        result = self.root / "results" / exp / f"{self.dataset}_test" / "metrics.json"
        if not result.is_file():
            shutil.rmtree(self.root / "runs" / exp, ignore_errors=True)
            subprocess.run(
                [sys.executable, "train.py", "--dataset", self.dataset, "--dataset_dir", self.data,
                 "--arch", "DeepMNV3V3PlusD_m1", "--adam", "--weight_decay", "0.02", "--poly_exp", "0.9",
                 "--bs_mult", str(BATCH), "--no-gblur",
                 "--seed", str(seed), "--ckpt", self.root / "runs", "--tb_path", self.root / "tb",
                 "--exp", exp, *self.flags, *flags],
                **QUIET,
            )  # fmt: skip
            subprocess.run(
                [sys.executable, "eval.py", "--snapshot", self.root / "runs" / exp / "last.pth",
                 "--dataset_dir", self.data, "--split", "test", "--inference_mode", "pooling", "--single_scale",
                 "--no_flip", "--ckpt_path", self.root / "results" / exp],
                **QUIET,
            )  # fmt: skip
        return json.loads(result.read_text(encoding="utf-8"))

    def compare(self, ways: Mapping[str, Sequence[str | Path]], num_seeds: int, scores: Sequence[str]) -> None:
        """Print a row per variant: `scores` (names in metrics.json) per seed, and the differences from the first."""
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for seed in range(num_seeds):
            for name, flags in ways.items():
                found[name].append(self.score(name, seed, flags))
                told = ", ".join(f"{score} {100 * found[name][-1][score]:.2f}" for score in scores)
                print(f"seed {seed}, {name}: {told}", flush=True)
        first = next(iter(ways))
        for score in scores:
            print(f"\n| {score} | per seed | mean | minus {first}, per seed |\n|---|---|---|---|")
            for name, metrics in found.items():
                values = [100 * metric[score] for metric in metrics]
                apart = [value - 100 * base[score] for value, base in zip(values, found[first], strict=True)]
                each = ", ".join(f"{value:.1f}" for value in values)
                print(f"| {name} | {each} | {statistics.mean(values):.1f} | {', '.join(f'{d:+.1f}' for d in apart)} |")
