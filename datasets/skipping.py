"""Training skips unreadable files, up to `--skip_bad` of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from datasets.segmentation import Draw, TrainingSet
from utils.command import USER_ERRORS, one_line

# An image, its labels, and a message for each unreadable pair that they replace.
Sample = tuple[Tensor, Tensor, list[str]]


class SkippingSet(Dataset[Sample]):
    """`samples`, with another image in place of one that cannot be read; which one depends only on the draw.

    num_images: the substitute is one of this many first pairs. skip_bad: replacements before the error is raised.
    """

    def __init__(self, samples: TrainingSet, num_images: int, skip_bad: int) -> None:
        self.samples = samples
        self.num_images = num_images
        self.skip_bad = skip_bad

    def __getitem__(self, draw: Draw) -> Sample:
        problems: list[str] = []
        while True:
            try:
                return *self.samples[draw], problems
            except USER_ERRORS as error:
                if len(problems) == self.skip_bad:
                    raise
                problems.append(one_line(error))
            generator = np.random.default_rng((self.samples.seed, draw.epoch, draw.place, len(problems)))
            draw = replace(draw, pair_index=int(generator.integers(self.num_images)), center=None)


class TrainLoader:
    """Batches of (images [B, 3, H, W] uint8, labels [B, H, W] uint8); reports what was skipped, and counts it."""

    def __init__(self, loader: DataLoader[Sample], skip_bad: int) -> None:
        self.loader = loader
        self.skip_bad = skip_bad
        self.num_bad = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, problems in self.loader:
            for problem in problems:
                self.num_bad += 1
                if self.num_bad > self.skip_bad:
                    raise ValueError(f"{problem} (--skip_bad {self.skip_bad} is exhausted)")
                tqdm.write(f"warning: skipped, {self.num_bad} of at most {self.skip_bad}: {problem}", file=sys.stderr)
            yield images, labels


def collate(samples: Sequence[Sample]) -> tuple[Any, Any, list[str]]:
    """Samples of one size -> batch."""
    images, labels, problems = zip(*samples, strict=True)
    return default_collate(list(images)), default_collate(list(labels)), [text for texts in problems for text in texts]
