"""Training and its preparation skip unreadable files, up to `--skip_bad` of them."""

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


class BadFiles:
    """Counts the files that cannot be read and are skipped, and warns of each, once however often it is drawn.

    skip_bad: how many there may be. when: when they were skipped, for the warning. show: warn.
    """

    def __init__(self, skip_bad: int, when: str = "", *, show: bool = True) -> None:
        self.skip_bad = skip_bad
        self.skipped = f"skipped {when}" if when else "skipped"
        self.show = show
        self._problems: set[str] = set()

    @property
    def count(self) -> int:
        """How many there were so far."""
        return len(self._problems)

    def skip(self, problem: str) -> None:
        """Continue without the file that `problem` names. Raises ValueError with it where that is one too many."""
        if problem in self._problems:
            return
        self._problems.add(problem)
        if self.count > self.skip_bad:
            raise one_too_many(problem, self.skip_bad)
        if self.show:
            tqdm.write(f"warning: {self.skipped}, {self.count} of at most {self.skip_bad}: {problem}", file=sys.stderr)


def one_too_many(problem: str, skip_bad: int) -> ValueError:
    """The error of a file that may no longer be skipped."""
    return ValueError(f"{problem} (--skip_bad {skip_bad} is exhausted)" if skip_bad else problem)


class SkippingSet(Dataset[Sample]):
    """`samples`, with another image in place of one that cannot be read; which one depends only on the draw.

    num_images: the substitute is one of this many first pairs. skip_bad: how many files a sample may skip.
    """

    def __init__(self, samples: TrainingSet, num_images: int, skip_bad: int) -> None:
        self.samples = samples
        self.num_images = num_images
        self.skip_bad = skip_bad

    def __getitem__(self, draw: Draw) -> Sample:
        problems: dict[int, str] = {}  # of the pairs tried
        while True:
            try:
                return *self.samples[draw], list(problems.values())
            except USER_ERRORS as error:
                untried = np.setdiff1d(np.arange(self.num_images), [*problems, draw.pair_index])
                if len(problems) == self.skip_bad or not len(untried):
                    raise one_too_many(one_line(error), self.skip_bad) from error
                problems[draw.pair_index] = one_line(error)
            generator = np.random.default_rng((self.samples.seed, draw.epoch, draw.place, len(problems)))
            draw = replace(draw, pair_index=int(generator.choice(untried)), center=None)


class TrainLoader:
    """Batches of (images [B, 3, H, W] uint8, labels [B, H, W] uint8); reports what was skipped, and counts it."""

    def __init__(self, loader: DataLoader[Sample], skip_bad: int) -> None:
        self.loader = loader
        self.bad_files = BadFiles(skip_bad)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, problems in self.loader:
            for problem in problems:
                self.bad_files.skip(problem)
            yield images, labels


def collate(samples: Sequence[Sample]) -> tuple[Any, Any, list[str]]:
    """Samples of one size -> batch."""
    images, labels, problems = zip(*samples, strict=True)
    return default_collate(list(images)), default_collate(list(labels)), [text for texts in problems for text in texts]
