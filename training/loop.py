"""The loop of both trainings over epochs, how far it has come, and the progress bar and log of its steps."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from network.checkpoint import not_finite
from training.run_log import LAST, RunLog
from utils.distributed import find_processes, mean_over_processes

LOG_STEPS = 20  # how often the loss is read from the device and logged
TEST_STEPS = 2  # --test_mode

BatchT = TypeVar("BatchT")


@dataclass
class Progress:
    """How far a training has come. With --max_minutes, time drives the schedule and ends the training.

    epoch: whole epochs done; minutes_before: minutes of training before this process; best: the best score so far,
    mIoU, or PSNR in dB, neither of which is ever negative; scores: the latest; is_due: whether the network is still to
    be scored as it is now.
    """

    max_epoch: int
    max_minutes: float = 0.0
    epoch: int = 0
    minutes_before: float = 0.0
    best: float = -1.0
    scores: Mapping[str, float] = field(default_factory=dict)
    is_due: bool = False
    begun: float = field(default_factory=lambda: time.monotonic())

    def minutes(self) -> float:
        """Minutes of training so far, including those of the run that this one resumes."""
        return self.minutes_before + (time.monotonic() - self.begun) / 60

    def time_is_up(self) -> bool:
        """Whether --max_minutes have passed."""
        return bool(self.max_minutes) and self.minutes() >= self.max_minutes

    def is_over(self) -> bool:
        """Whether all epochs are done or the time is up."""
        return self.epoch >= self.max_epoch or self.time_is_up()

    def schedule(self, share: float) -> float:
        """Where the schedule stands after a share of the running epoch, in epochs; further on if time runs faster."""
        counted = self.epoch + share
        if not self.max_minutes:
            return counted
        return min(max(counted, self.max_epoch * self.minutes() / self.max_minutes), float(self.max_epoch))


def run_epochs(
    training: Any, train: Callable[[Any], None], score: Callable[[Any], None], save: Callable[[Any, str], None]
) -> None:
    """The loop of both trainings: `train` an epoch, `save` it as last.pth, and `score` when it is due, until the end.

    Raises ValueError if a weight or a statistic is NaN or infinite, so that no sound checkpoint is overwritten.
    """
    run, progress = training.config.run, training.progress
    if progress.is_due:
        score(training)
    is_over = progress.is_over()
    while not is_over:
        train(training)
        if bad := not_finite(training.net.state_dict()):
            raise ValueError(f"{bad} became NaN or infinite. {remedy(training.dtype)}")
        is_over = run.test_mode or progress.is_over()
        progress.is_due = is_over or progress.epoch % run.val_interval == 0
        save(training, LAST)  # before scoring, which may fail
        if progress.is_due:
            score(training)
            is_over = is_over or progress.is_over()  # the time may have run out meanwhile


class Meters:
    """Progress bar, loss and speed of one epoch, logged every LOG_STEPS optimizer steps and at its last.

    In a `with` statement: take batches from `timed`, `add` each one's loss, and `end_step` after each optimizer step.
    dtype: that of autocast, None for none.
    """

    def __init__(
        self, progress: Progress, num_steps: int, log: RunLog, device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._progress, self._num_steps, self._log, self._dtype = progress, num_steps, log, dtype
        self._loss = torch.zeros((), device=device)  # summed on the device: reading it waits for the device
        self._start_reading()
        self._step = 0
        epochs = "" if progress.max_minutes else f"/{progress.max_epoch}"
        self._bar = tqdm(
            total=num_steps,
            desc=f"epoch {progress.epoch + 1}{epochs}",
            unit="step",
            disable=not log.active,
            dynamic_ncols=True,
            leave=False,
            mininterval=0.5 if sys.stderr.isatty() else 60.0,  # seldom if it fills a file instead of a line
        )

    def __enter__(self) -> Meters:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def schedule_at(self, step: int) -> float:
        """Where the schedule stands before this step of the epoch, in epochs."""
        return self._progress.schedule(step / self._num_steps)

    def timed(self, batches: Iterable[BatchT]) -> Iterator[BatchT]:
        """The batches; the time spent waiting for them is measured."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self._waiting += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, loss: Tensor, num_images: int) -> None:
        """Take in a finished batch. loss: a scalar on the device; num_images: of this process."""
        self._loss += loss
        self._num_batches += 1
        self._num_images += num_images * find_processes().world_size

    def end_step(self, lr: float, **parts: Tensor) -> None:
        """Count an optimizer step. parts: terms of the loss, logged with it.

        Raises ValueError, in all processes, if the loss is NaN or infinite.
        """
        if self._step % LOG_STEPS == 0 or self._step == self._num_steps - 1:
            counted = self._progress.epoch + self._step / self._num_steps
            values = {"epoch": round(counted, 4), "lr": lr, **self._read()}
            values |= {name: float(value) for name, value in parts.items()}
            self._log.scalars("train", values)
            now = max(self.schedule_at(self._step), 1e-3)
            minutes_left = self._progress.minutes() * (self._progress.max_epoch / now - 1)
            self._bar.set_postfix_str(
                f"loss {values['loss']:.4f} lr {lr:.2e} {values['images_per_s']:.1f} img/s "
                f"waiting {values['waiting']:.0%} left {tqdm.format_interval(int(60 * minutes_left))}"
            )
        self._bar.update()
        self._step += 1
        self._log.steps += 1

    def _read(self) -> dict[str, float]:
        """The means since the last reading; of the loss over all processes, which must read at the same step."""
        loss = float(mean_over_processes(self._loss)) / self._num_batches
        if not math.isfinite(loss):
            raise ValueError(f"the loss became NaN or infinite. {remedy(self._dtype)}")
        seconds = max(time.monotonic() - self._since, 1e-9)
        values = {"loss": loss, "images_per_s": self._num_images / seconds, "waiting": self._waiting / seconds}
        self._start_reading()
        return values

    def _start_reading(self) -> None:
        self._loss.zero_()
        self._num_batches = self._num_images = 0
        self._waiting = 0.0
        self._since = time.monotonic()


def remedy(dtype: torch.dtype | None) -> str:
    """What to try if loss or weights became NaN or infinite with this autocast type, None for float32."""
    other_numbers = {torch.bfloat16: ", or --no-bf16", torch.float16: ", or leave out --fp16"}
    return f"Use a smaller --lr{other_numbers[dtype] if dtype else ''}."
