"""The loop of both trainings over epochs, how far it has come, and the progress bar and log of its steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from network.checkpoint import not_finite
from training.run_log import BEST, LAST, RunLog
from utils.command import interrupt, interrupts_noted
from utils.distributed import find_processes, largest_of_all, lists_of_all, mean_over_processes

LOG_STEPS = 20  # how often the loss is read from the device and logged
TEST_STEPS = 2  # --test_mode
NEVER = 1 << 40  # a step that no epoch has

BatchT = TypeVar("BatchT")


@dataclass
class Progress:
    """How far a training has come. With --max_minutes, time drives the schedule and ends the training.

    epoch: whole epochs done; step: optimizer steps done in the running one, each of `crops_a_step` crops of all
    processes; minutes_before: minutes of training before this process; agreed_minutes: those so far, the same in all
    processes; best: the best score so far, mIoU, or PSNR in dB, neither of which is ever negative; scores: the latest;
    is_due: whether the network is still to be scored as it is now; loss: the sum of those of `num_losses` steps since
    it was logged, a scalar on the device; num_bad: steps skipped.
    """

    max_epoch: int
    max_minutes: float = 0.0
    epoch: int = 0
    step: int = 0
    crops_a_step: int = 1
    minutes_before: float = 0.0
    agreed_minutes: float = 0.0
    best: float = -1.0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    is_due: bool = False
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))
    num_losses: int = 0
    num_bad: int = 0
    begun: float = field(default_factory=lambda: time.monotonic())

    def minutes(self) -> float:
        """Minutes of training so far, including those of the run that this one resumes; by this process's clock."""
        return self.minutes_before + (time.monotonic() - self.begun) / 60

    def agree(self, asked: int = 0) -> int:
        """Agree with all processes on the time, and on what any of them is asked for, which is returned."""
        asked, milliseconds = largest_of_all(asked, round(60_000 * self.minutes()))
        self.agreed_minutes = milliseconds / 60_000
        return asked

    def time_is_up(self) -> bool:
        """Whether --max_minutes have passed."""
        return bool(self.max_minutes) and self.agreed_minutes >= self.max_minutes

    def is_over(self) -> bool:
        """Whether all epochs are done or the time is up."""
        return self.epoch >= self.max_epoch or self.time_is_up()

    def schedule(self, share: float) -> float:
        """Where the schedule stands after a share of the running epoch, in epochs; further on if time runs faster."""
        counted = self.epoch + share
        if not self.max_minutes:
            return counted
        return min(max(counted, self.max_epoch * self.agreed_minutes / self.max_minutes), float(self.max_epoch))


def run_epochs(
    training: Any,
    train: Callable[[Any], Iterator[None]],
    score: Callable[[Any], Mapping[str, float | None]],
    save: Callable[[Any, str], None],
) -> None:
    """The loop of both trainings: `train` an epoch, `save` it as last.pth, and `score` it when that is due.

    train: yields after each optimizer step; then last.pth is saved too every --ckpt_minutes, and before a signal to
    stop is obeyed. score: returns scores; the network with the highest first one is kept as best.pth.
    Raises ValueError if a weight or a statistic is NaN or infinite, before that overwrites a sound one.
    """
    run, progress, saved_at = training.config.run, training.progress, time.monotonic()
    progress.agree()
    is_over = progress.is_over()
    while True:
        if progress.is_due:
            progress.scores, progress.is_due = score(training), False
            latest = next(iter(progress.scores.values()))
            if latest is not None and latest > progress.best:
                progress.best = latest
                save(training, BEST)
            save(training, LAST)
            progress.agree()
            is_over = is_over or progress.is_over()  # the time may have run out meanwhile
        if is_over:
            break
        with interrupts_noted() as signals:
            for _ in train(training):
                is_time = run.ckpt_minutes and time.monotonic() > saved_at + 60 * run.ckpt_minutes
                asked = progress.agree(signals[0] if signals else int(is_time))  # no signal to stop has the number 1
                if asked:
                    save(training, LAST)
                    saved_at = time.monotonic()
                if asked > 1:
                    interrupt(asked)
                if progress.time_is_up() or (run.test_mode and progress.step == TEST_STEPS):
                    break
            if bad := not_finite(training.net.state_dict()):
                raise ValueError(f"{bad} became NaN or infinite. {remedy(training.dtype)}")
            progress.epoch, progress.step = progress.epoch + 1, 0
            is_over = run.test_mode or progress.is_over()
            progress.is_due = is_over or progress.epoch % run.val_interval == 0
            save(training, LAST)  # before scoring, which may fail
            saved_at = time.monotonic()
            if asked := progress.agree(signals[0] if signals else 0):
                interrupt(asked)
    training.log.end_writing()


class Meters:
    """Progress bar, loss and speed of one epoch, logged every LOG_STEPS optimizer steps and at its last.

    In a `with` statement: take batches from `timed`, `add` each one's loss, ask whether the step `is_bad`, `end_step`
    after it. training: with `net`, `optimizer`, `log`, `device` and `dtype`, that of autocast, None for none.
    """

    def __init__(self, progress: Progress, num_steps: int, training: Any, max_bad_steps: int = 0) -> None:
        self._progress, self._num_steps, self._training, self._max_bad = progress, num_steps, training, max_bad_steps
        self._log: RunLog = training.log
        # On the device, since reading waits for it.
        progress.loss = progress.loss.to(training.device)
        self._step_loss = torch.zeros((), device=training.device)
        # The first steps since the last look at which the loss of this process, or the gradient, was not finite.
        self._bad = torch.full((2,), NEVER, device=training.device)
        self._names: dict[int, Callable[[], list[str]]] = {}
        self._keep_buffers()
        self._start_timing()
        epochs = "" if progress.max_minutes else f"/{progress.max_epoch}"
        self._bar = tqdm(
            total=num_steps,
            initial=progress.step,
            desc=f"epoch {progress.epoch + 1}{epochs}",
            unit="step",
            disable=not self._log.active,
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
        self._step_loss += loss
        self._num_images += num_images * find_processes().world_size

    def is_bad(self, names: Callable[[], list[str]]) -> bool:
        """Whether to skip the optimizer's step, as --max_bad_steps allows, in all processes alike; then it is undone.

        names: finds the samples of this process's batches. Raises ValueError with them if that is a bad step too many.
        Without --max_bad_steps it looks every LOG_STEPS steps only.
        """
        step, net = self._progress.step, self._training.net
        if self._training.dtype == torch.float16:
            norm = torch.zeros_like(self._step_loss)  # the scaler skips steps whose gradients are too large
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        is_finite = torch.stack([self._step_loss, norm]).isfinite()
        self._bad = torch.where(is_finite, self._bad, self._bad.clamp(max=step))
        self._names[step] = names
        is_bad = (self._max_bad > 0 or self._is_read(step)) and self._look()
        if is_bad:
            self._undo()
        else:
            self._progress.loss += self._step_loss
            self._progress.num_losses += 1
        self._step_loss.zero_()
        return is_bad

    def _look(self) -> bool:
        """Whether there was a bad step since the last look."""
        of_loss, of_gradient = self._bad.tolist()
        first = NEVER - largest_of_all(NEVER - min(of_loss, of_gradient))[0]
        if first < NEVER:
            ranks_of_loss = lists_of_all([of_loss == first])
            mine = of_loss == first or not any(ranks_of_loss)
            told = [f"process {find_processes().rank}: {', '.join(self._names[first]())}"] if mine else []
            what = "loss" if any(ranks_of_loss) else "gradient"
            samples = "; ".join(lists_of_all(told))
            self._progress.num_bad += 1
            at = f"epoch {self._progress.epoch + 1}, step {first + 1}"
            where = f"{at}: the {what} became NaN or infinite ({samples})."
            if self._progress.num_bad > self._max_bad:
                skipped = f" --max_bad_steps {self._max_bad} is exhausted." if self._max_bad else ""
                raise ValueError(f"{where}{skipped} {remedy(self._training.dtype)}")
            if self._log.active:
                tqdm.write(f"warning: skipped, {self._progress.num_bad} of {self._max_bad}: {where}", file=sys.stderr)
        self._names.clear()
        self._bad.fill_(NEVER)
        return first < NEVER

    def _keep_buffers(self) -> None:
        """Of batch norm, which a bad step changes too."""
        self._buffers = [buffer.clone() for buffer in self._training.net.buffers()] if self._max_bad else []

    def _undo(self) -> None:
        self._training.optimizer.zero_grad(set_to_none=True)
        for buffer, kept in zip(self._training.net.buffers(), self._buffers, strict=True):
            buffer.copy_(kept)

    def _is_read(self, step: int) -> bool:
        return step % LOG_STEPS == 0 or step == self._num_steps - 1

    def end_step(self, lr: float, **parts: Tensor) -> None:
        """Count an optimizer step. parts: terms of the loss, logged with it."""
        step = self._progress.step
        self._keep_buffers()
        if self._is_read(step) and self._progress.num_losses:
            counted = self._progress.epoch + step / self._num_steps
            values = {"epoch": round(counted, 4), "lr": lr, **self._read()}
            values |= {name: float(value) for name, value in parts.items()}
            self._log.scalars("train", values)
            minutes_left = self._progress.minutes() * (self._progress.max_epoch / self.schedule_at(step + 1) - 1)
            self._bar.set_postfix_str(
                f"loss {values['loss']:.4f} lr {lr:.2e} {values['images_per_s']:.1f} img/s "
                f"waiting {values['waiting']:.0%} left {tqdm.format_interval(int(60 * minutes_left))}"
            )
        self._bar.update()
        self._progress.step += 1
        self._log.steps += 1

    def _read(self) -> dict[str, float]:
        """The means since the last reading; of the loss over all processes, which must read at the same step."""
        loss = float(mean_over_processes(self._progress.loss)) / self._progress.num_losses
        seconds = max(time.monotonic() - self._since, 1e-9)
        values = {"loss": loss, "images_per_s": self._num_images / seconds, "waiting": self._waiting / seconds}
        self._progress.loss.zero_()
        self._progress.num_losses = 0
        self._start_timing()
        return values

    def _start_timing(self) -> None:
        self._num_images = 0
        self._waiting = 0.0
        self._since = time.monotonic()


def remedy(dtype: torch.dtype | None) -> str:
    """What to try if loss or weights became NaN or infinite with this autocast type, None for float32."""
    other_numbers = {torch.bfloat16: ", or --no-bf16", torch.float16: ", or leave out --fp16"}
    return f"Use a smaller --lr{other_numbers[dtype] if dtype else ''}."
