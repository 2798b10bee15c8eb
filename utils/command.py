"""Run a command: its process set up, and a user's mistake told in one clear line instead of a traceback."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable

from utils.memory import is_out_of_memory, keep_freed_memory

# What a user can mend. Anything else is a mistake of ours and keeps its traceback.
USER_ERRORS = (ValueError, OSError)
WORKER_DIED = "a worker process died, maybe for lack of memory or of room in /dev/shm; use fewer --num_workers."
EXIT_MISTAKE = 1
EXIT_INTERRUPTED = 130


def run_command(command: Callable[[], int | None], *, debug: bool) -> None:
    """Run `command` and leave the process with its exit code; a user's mistake is one line on standard error.

    debug: show the traceback instead.
    """
    keep_freed_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: a file's name may be no text
    if debug:
        sys.exit(command())
    try:
        sys.exit(command())
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
    """The error's message on one line, with the file it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error).strip()
    if text.startswith("Caught ") and "Original Traceback" in text:  # a loader process's error carries its traceback
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or type(error).__name__


def _is_dead_worker(error: BaseException) -> bool:
    """Whether a process that loads, reads or draws was killed, or found no room for what it hands over.

    PyTorch notices a dead loader process in a signal handler, so the error may arise at any line of the main process:
    it can only be told here.
    """
    told = r"DataLoader worker \(pid|unable to \w+ .*(</torch_|shared memory)"
    return type(error).__name__ == "BrokenProcessPool" or (
        isinstance(error, RuntimeError) and re.search(told, str(error)) is not None
    )
