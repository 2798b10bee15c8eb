"""In which order samples are visited, and by which process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from torch.utils.data import Sampler

from datasets.segmentation import Draw

Item = TypeVar("Item")


class EpochSampler(Sampler[Draw]):
    """This process's part of each epoch's samples. The processes partition the epoch, in whole rounds of `batch`.

    draw: epoch -> all samples of that epoch, the same on every process.
    """

    def __init__(self, draw: Callable[[int], list[Draw]], *, rank: int, num_processes: int, batch: int) -> None:
        self.draw = draw
        self.rank = rank
        self.num_processes = num_processes
        self.batch = batch
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the next iteration visits."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        samples = self.draw(self.epoch)
        return iter(samples[self.rank : self._usable(len(samples)) : self.num_processes])

    def __len__(self) -> int:
        return self._usable(len(self.draw(self.epoch))) // self.num_processes

    def _usable(self, length: int) -> int:
        # Every process takes the same number of steps with full batches. A smaller set is used as far as it is equal
        # on every process.
        step = self.num_processes * self.batch
        return length - length % step if length >= step else length - length % self.num_processes


def part_of(items: Sequence[Item], index: int, count: int) -> list[Item]:
    """Every `count`-th item from `index` on: over all indices, each item exactly once."""
    return list(items[index::count])
