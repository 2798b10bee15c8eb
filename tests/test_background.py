"""Many images: read ahead and written behind in order and within bounds, and errors end the loop without hanging it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inference.pipeline import AHEAD, Stopwatch, predict_all

IMAGE = np.zeros((2, 3, 3), np.uint8)


def ignore(*_: Any) -> None:
    pass


def run(items: Iterable[int], *, read: Any = lambda _: (IMAGE,), write: Any = ignore, **options: Any) -> dict[str, Any]:
    """Predict each item, an image whose name is its number."""
    predict = options.pop("predict", lambda image: torch.from_numpy(image[..., 0]))
    path_of = lambda i: Path(str(i))  # noqa: E731
    return predict_all(items, read, predict, write, device=torch.device("cpu"), path_of=path_of, **options)


def test_items_are_written_in_order_with_what_was_read():
    written: list[tuple[int, int]] = []
    run(range(7), read=lambda i: (IMAGE, i * i), write=lambda i, _, __, square: written.append((i, square)))
    assert written == [(i, i * i) for i in range(7)]


def test_no_more_is_read_ahead_than_memory_is_meant_for():
    read: list[int] = []

    def read_one(i: int) -> tuple[np.ndarray] | None:
        read.append(i)
        return (IMAGE,) if i < 9 else None  # None ends the loop, however many items there are

    def predict(image: np.ndarray) -> torch.Tensor:
        num_predicted.append(1)
        assert len(read) <= len(num_predicted) + AHEAD
        return torch.from_numpy(image[..., 0])

    num_predicted: list[int] = []
    run(count(), read=read_one, predict=predict)
    assert len(num_predicted) == 9


def fail_at(number: int, i: int, *_: Any) -> tuple[np.ndarray]:
    if i == number:
        raise OSError("broken")
    return (IMAGE,)


def test_an_image_that_cannot_be_read_ends_the_loop_or_is_listed_while_the_others_go_on():
    written: list[int] = []
    failed: list[str] = []
    run(range(3), read=partial(fail_at, 1), write=lambda i, *_: written.append(i), failed=failed)
    assert (written, failed) == ([0, 2], ["broken"])
    with pytest.raises(OSError, match="broken"):
        run(range(3), read=partial(fail_at, 1))


@pytest.mark.parametrize("number", [0, 2])
def test_an_error_of_writing_ends_the_loop(number):
    with pytest.raises(OSError, match="broken"):
        run(range(3), write=partial(fail_at, number))
    with pytest.raises(OSError, match="broken"):
        run(count(), write=partial(fail_at, number))  # which would never end


def test_few_results_wait_to_be_written():
    gate, predicted = threading.Event(), threading.Semaphore(0)

    def predict(image: np.ndarray) -> torch.Tensor:
        predicted.release()
        return torch.from_numpy(image[..., 0])

    options = {"write": lambda *_: gate.wait(60), "predict": predict}
    thread = threading.Thread(target=run, args=(range(20),), kwargs=options)
    thread.start()
    for _ in range(AHEAD + 1):
        assert predicted.acquire(timeout=60)
    assert not predicted.acquire(timeout=0.2), "the next waits until one has been written"
    gate.set()
    thread.join(60)
    assert not thread.is_alive()


def test_a_stopwatch_adds_up_the_time_in_its_blocks(monkeypatch):
    times = iter([1.0, 4.0, 6.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.working():
            pass
    assert watch.seconds == 4.0
