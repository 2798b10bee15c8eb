"""How far a training is, and how fast."""

from __future__ import annotations

import math
import sys
import time

import torch
from torch import Tensor
from tqdm import tqdm

from utils.distributed import mean_over_processes


def seconds_between_bars() -> float:
    """How often a progress bar is drawn anew: rarely where it fills a file instead of a terminal's line."""
    return 0.5 if sys.stderr.isatty() else 60.0


class Clock:
    """How far the training is, in epochs and minutes; with --max_minutes time drives the schedule."""

    def __init__(self, max_minutes: float, max_epoch: int, spent: float) -> None:
        self.max_minutes = max_minutes
        self.max_epoch = max_epoch
        self._start = time.monotonic() - 60 * spent
        self._begun = time.monotonic()
        self._first_epoch: float | None = None

    def minutes(self) -> float:
        """Minutes of training so far, those of the run that this one resumes included."""
        return (time.monotonic() - self._start) / 60

    def is_up(self) -> bool:
        """Whether --max_minutes have passed."""
        return bool(self.max_minutes) and self.minutes() >= self.max_minutes

    def epoch(self, counted: float) -> float:
        """Where the schedule stands: the counted epoch, or further where the time is running out faster."""
        if not self.max_minutes:
            return counted
        return min(max(counted, self.max_epoch * self.minutes() / self.max_minutes), float(self.max_epoch))

    def left(self, now: float) -> str:
        """Time left, as text, extrapolated from the epochs done since this process began."""
        if self._first_epoch is None:
            self._first_epoch = now
        done = now - self._first_epoch
        if done <= 0:
            return "?"
        seconds = (time.monotonic() - self._begun) * (self.max_epoch - now) / done
        return tqdm.format_interval(int(seconds))


class Meter:
    """Loss, speed and share of time spent waiting for data since it was last read."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.zeros((), device=device)
        self._mark = self._since = time.monotonic()
        self._num_steps = self._num_images = 0
        self._waiting = 0.0

    def waited(self) -> None:
        """A batch has come."""
        self._waiting += time.monotonic() - self._mark

    def worked(self, loss: Tensor, num_images: int) -> None:
        """A batch is done."""
        self._loss += loss
        self._num_steps += 1
        self._num_images += num_images
        self._mark = time.monotonic()

    def read(self) -> dict[str, float]:
        """The means since the last reading, the loss's over all processes: all must read at the same step.

        Raises ValueError, in all of them, where the loss is no finite number any more.
        """
        loss = float(mean_over_processes(self._loss)) / self._num_steps
        if not math.isfinite(loss):
            raise ValueError("the loss is not a number any more. Use a smaller --lr, or --no-bf16 without --fp16.")
        seconds = max(time.monotonic() - self._since, 1e-9)
        values = {"loss": loss, "images_per_s": self._num_images / seconds, "waiting": self._waiting / seconds}
        self._loss.zero_()
        self._since = self._mark = time.monotonic()
        self._num_steps = self._num_images = 0
        self._waiting = 0.0
        return values
