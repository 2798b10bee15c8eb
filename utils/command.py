"""Run a command: set up its process, and report a user's mistake in one clear line instead of a traceback."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar

from utils.columns import escape
from utils.memory import is_out_of_memory, keep_freed_memory

# What a user can fix. Anything else is a mistake of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError)
WORKER_DIED = "a worker process died, possibly out of memory or of space in /dev/shm; reduce --num_workers."
EXIT_MISTAKE = 1
EXIT_INTERRUPTED = 130


class Errors(Protocol):
    """How errors are shown: with their traceback if `debug`."""

    @property
    def debug(self) -> bool: ...  # noqa: D102


class Settings(Protocol):
    """The settings of a command, as far as they are needed here."""

    @property
    def errors(self) -> Errors: ...  # noqa: D102


Config = TypeVar("Config", bound=Settings)


def run_command(main: Callable[[Config], int | None], config: Config) -> None:
    """Run `main(config)` and end the process with the exit code that it returns.

    A user's mistake is one line on standard error and exit code 1; with `--debug` the traceback is shown instead.
    """
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # like stderr: a file name may not be valid text
    if config.errors.debug:
        sys.exit(main(config))
    try:
        sys.exit(main(config))
    except USER_ERRORS as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_MISTAKE)
    except BaseException as error:
        if is_out_of_memory(error):
            print(
                f"error: out of memory ({one_line(error)[:120]}). Use a smaller batch, crop or tile.",
                file=sys.stderr,
            )
            sys.exit(EXIT_MISTAKE)
        if _is_dead_worker(error):
            print(f"error: {WORKER_DIED}", file=sys.stderr)
            sys.exit(EXIT_MISTAKE)
        if isinstance(error, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
            # Workers may hang on to their pipes; everything worth keeping was written atomically.
            os._exit(EXIT_INTERRUPTED)
        raise


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
    return type(error).__name__ == "BrokenProcessPool" or (
        isinstance(error, RuntimeError) and re.search(known, str(error)) is not None
    )
