"""Reading ahead and writing behind: in order, bounded, and with errors that end the program instead of hanging it."""

from __future__ import annotations

import threading
from itertools import count, islice

import pytest
import torch

from utils.device import Stopwatch
from utils.parallel import AHEAD, read_ahead, write_behind


def test_items_come_in_order_with_what_was_read():
    assert [(item, result.result()) for item, result in read_ahead(range(7), lambda i: i * i)] == [
        (i, i * i) for i in range(7)
    ]


def test_no_more_is_read_ahead_than_memory_is_meant_for():
    read: list[int] = []
    items = read_ahead(count(), lambda i: read.append(i))
    for i, result in islice(items, 5):
        result.result()
        assert max(read) <= i + AHEAD
    items.close()


def test_an_error_of_reading_is_raised_where_the_item_is_asked_for_and_the_others_go_on():
    def read(i: int) -> int:
        if i == 1:
            raise ValueError("broken")
        return i

    results = [result for _, result in read_ahead(range(3), read)]
    assert (results[0].result(), results[2].result()) == (0, 2)
    with pytest.raises(ValueError, match="broken"):
        results[1].result()


def test_the_block_ends_when_everything_is_written_in_order():
    written: list[int] = []
    with write_behind() as write_later:
        for i in range(20):
            write_later(written.append, i)
    assert written == list(range(20))


def test_few_writes_wait_at_a_time():
    gate = threading.Event()
    ran = threading.Event()

    def fill() -> None:
        with write_behind() as write_later:
            for _ in range(AHEAD + 1):
                write_later(gate.wait, 60)
            ran.set()

    thread = threading.Thread(target=fill)
    thread.start()
    assert not ran.wait(0.2), "the next waits until one has ended"
    gate.set()
    thread.join(60)
    assert ran.is_set()


def fail() -> None:
    raise OSError("disk full")


def test_an_error_of_writing_ends_the_block():
    with pytest.raises(OSError, match="disk full"), write_behind() as write_later:
        write_later(fail)


def test_an_error_of_writing_is_raised_while_the_block_still_runs():
    with pytest.raises(OSError, match="disk full"), write_behind() as write_later:
        for _ in range(1000):
            write_later(fail)
        pytest.fail("all were accepted")


def test_an_error_of_the_block_is_not_hidden_by_one_of_writing():
    gate = threading.Event()

    def fail_later() -> None:
        gate.wait(60)
        fail()

    with pytest.raises(KeyError), write_behind() as write_later:
        write_later(fail_later)
        gate.set()
        raise KeyError


def test_a_stopwatch_adds_up_the_time_in_its_blocks(monkeypatch):
    times = iter([1.0, 4.0, 6.0, 7.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.working():
            pass
    assert watch.seconds == 4.0
