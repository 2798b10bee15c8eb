"""Run a command: set up its process, and report a user's mistake in one clear line instead of a traceback."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from utils.device import is_out_of_memory, keep_freed_memory
from utils.flags import EXIT_MISTAKE, Config, report_error
from utils.text import escape

# What a user can fix. Anything else is a mistake of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError)
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
# Ctrl-C, and what a scheduler sends before it takes the machine; Windows lacks SIGUSR1.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
PATIENCE = 5.0  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGUSR1: a scheduler takes the machine away. Handled like Ctrl-C, with its own exit code."""


def run_command(main: Callable[[Config], int | None], config: Config) -> None:
    """Run `main(config)` and end the process with the exit code that it returns.

    A user's mistake is one line on standard error and exit code 1; with `--debug` the traceback is shown instead.
    config: dataclass of groups of settings, one of which, `errors`, has the field `debug`.
    """
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may not be valid text
    groups: Any = config
    with _handling_signals(interrupt):
        try:
            sys.exit(main(config))
        except BaseException as error:
            if groups.errors.debug:
                raise
            if isinstance(error, USER_ERRORS):
                _fail(one_line(error))
            if is_out_of_memory(error):
                _fail(f"out of memory ({one_line(error)[:120]}). Use a smaller batch, crop or tile.")
            if _is_dead_worker(error):
                _fail("a worker process died, possibly out of memory or of space in /dev/shm; reduce --num_workers.")
            if isinstance(error, KeyboardInterrupt):
                print("interrupted", file=sys.stderr)
                os._exit(EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED)
            raise


def _fail(problem: str) -> NoReturn:
    report_error(problem)
    sys.exit(EXIT_MISTAKE)


def interrupt(number: int, *_: object) -> NoReturn:
    """Ctrl-C or its like ends this process's helpers, which else finish, or wait for seconds, before they end.

    They ignore these signals themselves, and so print nothing. Everything worth keeping is written atomically. A signal
    may come several times: from the terminal or the scheduler, and passed on by torchrun.
    """
    for again in STOP_SIGNALS:
        signal.signal(again, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch would report their ends as errors
    for process in multiprocessing.active_children():
        process.kill()
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def interrupts_noted() -> Iterator[list[int]]:
    """In the block, a signal to stop is only noted in the list; one that comes `PATIENCE` later is obeyed at once."""
    noted: list[int] = []
    first = math.inf

    def note(number: int, *_: object) -> None:
        nonlocal first
        first = min(first, time.monotonic())
        if time.monotonic() > first + PATIENCE:
            interrupt(number)
        noted.append(number)

    with _handling_signals(note):
        yield noted


@contextmanager
def _handling_signals(handle: Callable[..., None]) -> Iterator[None]:
    is_main_thread = threading.current_thread() is threading.main_thread()  # only there Python allows it
    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS if is_main_thread}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) != signal.SIG_IGN:  # unless the process ends
                signal.signal(number, handler)


def one_line(error: BaseException) -> str:
    """The error's message on one line, with the file that it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return escape(f"{error.filename}: {error.strerror}")
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:  # a loader process's error carries its traceback
        text = text.splitlines()[-1].partition(": ")[2]
    return escape(" ".join(text.split())) or type(error).__name__


def _is_dead_worker(error: BaseException) -> bool:
    """Whether a worker process was killed, or had no shared memory left for its result.

    PyTorch notices a dead loader process in a signal handler, so the error may occur at any line of the main process:
    only here can it be recognised.
    """
    known = r"DataLoader worker \(pid|unable to \w+ .*(</torch_|shared memory)"
    return isinstance(error, RuntimeError) and re.search(known, str(error)) is not None
