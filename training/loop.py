"""How far a training has come, how fast it is, and the progress bar and log of its steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from training.run_log import RunLog
from utils.distributed import find_processes, mean_over_processes

LOG_STEPS = 20  # how often the loss is read from the device and logged
TEST_STEPS = 2  # --test_mode

BatchT = TypeVar("BatchT", covariant=True)


class Batches(Sized, Iterable[BatchT], Protocol[BatchT]):
    """A loader: it has a length and yields batches."""


class Clock:
    """How far the training has come, in epochs and minutes; with --max_minutes, time drives the schedule."""

    def __init__(self, max_minutes: float, max_epoch: int, spent: float) -> None:
        self.max_minutes = max_minutes
        self.max_epoch = max_epoch
        self._start = time.monotonic() - 60 * spent
        self._begun = time.monotonic()
        self._first_epoch: float | None = None

    def minutes(self) -> float:
        """Minutes of training so far, including those of the run that this one resumes."""
        return (time.monotonic() - self._start) / 60

    def is_up(self) -> bool:
        """Whether --max_minutes have passed."""
        return bool(self.max_minutes) and self.minutes() >= self.max_minutes

    def epoch(self, counted: float) -> float:
        """Where the schedule stands: the counted epoch, or further on if the time is running out faster."""
        if not self.max_minutes:
            return counted
        return min(max(counted, self.max_epoch * self.minutes() / self.max_minutes), float(self.max_epoch))

    def left(self, now: float) -> str:
        """Time left, as text, extrapolated from the epochs done since this process started."""
        if self._first_epoch is None:
            self._first_epoch = now
        done = now - self._first_epoch
        if done <= 0:
            return "?"
        seconds = (time.monotonic() - self._begun) * (self.max_epoch - now) / done
        return tqdm.format_interval(int(seconds))


@dataclass(frozen=True)
class Place:
    """Where a batch stands in its epoch. Several batches may share an optimizer step; the last of them ends it.

    now: where the schedule stands, in epochs, with fractions.
    """

    batch: int
    step: int
    ends_step: bool
    now: float


class StepLog(Generic[BatchT]):
    """The steps of one epoch: their batches, a progress bar, and a log entry every LOG_STEPS steps.

    Iterate over it in a `with` statement, and call `worked` after each batch. Iteration ends with the last whole step
    of `accumulate` batches, early in `test_mode`, or when the time is up, but not before the first step. dtype: that of
    autocast, None for none.
    """

    def __init__(
        self,
        loader: Batches[BatchT],
        epoch: int,
        clock: Clock,
        log: RunLog,
        device: torch.device,
        dtype: torch.dtype | None,
        *,
        accumulate: int = 1,
        test_mode: bool = False,
    ) -> None:
        self.accumulate = min(accumulate, len(loader))
        self.num_steps = len(loader) // self.accumulate
        self._loader, self._epoch, self._clock, self._log = loader, epoch, clock, log
        self._end = min(TEST_STEPS, self.num_steps) if test_mode else self.num_steps
        self._meter = Meter(device, dtype)
        self._bar = tqdm(
            total=self.num_steps,
            desc=f"epoch {epoch + 1}" if clock.max_minutes else f"epoch {epoch + 1}/{clock.max_epoch}",
            unit="step",
            disable=not log.active,
            dynamic_ncols=True,
            leave=False,
            mininterval=0.5 if sys.stderr.isatty() else 60.0,  # seldom if it fills a file instead of a line
        )

    def __enter__(self) -> StepLog[BatchT]:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[tuple[Place, BatchT]]:
        for number, batch in enumerate(self._loader):
            step, part = divmod(number, self.accumulate)
            if step == self._end or (step and self._clock.is_up()):
                return
            now = self._clock.epoch(self._counted(step))
            self._meter.waited()
            yield Place(number, step, part + 1 == self.accumulate, now), batch

    def worked(self, place: Place, lr: float, loss: Tensor, num_images: int, **parts: Tensor) -> None:
        """Record a finished batch. loss, parts: scalars on the device; num_images: of this process.

        parts: terms of the loss, logged with it. Raises ValueError if the loss is NaN or infinite.
        """
        self._meter.worked(loss, num_images * find_processes().world_size)
        if not place.ends_step:
            return
        self._bar.update()
        if place.step % LOG_STEPS == 0 or place.step == self.num_steps - 1:
            values = {"epoch": round(self._counted(place.step), 4), "lr": lr, **self._meter.read()}
            values |= {name: float(value) for name, value in parts.items()}
            self._log.scalars("train", values)
            self._bar.set_postfix_str(
                f"loss {values['loss']:.4f} lr {lr:.2e} {values['images_per_s']:.1f} img/s "
                f"waiting {values['waiting']:.0%} left {self._clock.left(place.now)}"
            )
        self._log.steps += 1

    def _counted(self, step: int) -> float:
        return self._epoch + step / self.num_steps


class Meter:
    """Loss, speed and share of time spent waiting for data since the last reading."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None) -> None:
        self._dtype = dtype
        self._loss = torch.zeros((), device=device)
        self._mark = self._since = time.monotonic()
        self._num_steps = self._num_images = 0
        self._waiting = 0.0

    def waited(self) -> None:
        """A batch has arrived."""
        self._waiting += time.monotonic() - self._mark

    def worked(self, loss: Tensor, num_images: int) -> None:
        """A batch is done."""
        self._loss += loss
        self._num_steps += 1
        self._num_images += num_images
        self._mark = time.monotonic()

    def read(self) -> dict[str, float]:
        """The means since the last reading; the loss is averaged over all processes, which must read at the same step.

        Raises ValueError, in all of them, if the loss is NaN or infinite.
        """
        loss = float(mean_over_processes(self._loss)) / self._num_steps
        if not math.isfinite(loss):
            raise ValueError(f"the loss became NaN or infinite. {remedy(self._dtype)}")
        seconds = max(time.monotonic() - self._since, 1e-9)
        values = {"loss": loss, "images_per_s": self._num_images / seconds, "waiting": self._waiting / seconds}
        self._loss.zero_()
        self._since = self._mark = time.monotonic()
        self._num_steps = self._num_images = 0
        self._waiting = 0.0
        return values


def remedy(dtype: torch.dtype | None) -> str:
    """What to try if loss or weights became NaN or infinite with this autocast type, None for float32."""
    other_numbers = {torch.bfloat16: ", or --no-bf16", torch.float16: ", or leave out --fp16"}
    return f"Use a smaller --lr{other_numbers[dtype] if dtype else ''}."
