"""Run a command in several processes of this machine: python scripts/launch.py NUMBER train.py …; the recipes do.

One process is started directly. More are started by PyTorch's `torchrun`, whose report of an error is long; here the
line that matters comes last.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main(number: str, *command: str) -> int:
    """Run `command`. Returns the exit code."""
    if not number.isdecimal() or int(number) < 1:
        print(f"error: NGPU={number}: give the number of processes, one for each GPU.", file=sys.stderr)
        return 1
    if int(number) == 1 and not command[0].startswith("-"):  # which are flags for torchrun
        os.execv(sys.executable, [sys.executable, *command])
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        # Of flags for torchrun, as on several machines, --standalone would be overruled.
        alone = [] if command[0].startswith("-") else ["--standalone"]
        # What Slurm is asked to send before the time is up; torchrun knows SIGTERM only.
        signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        run(parse_args([*alone, f"--nproc_per_node={number}", *command]))
    except ChildFailedError as error:
        failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
        messages: list[Any] = [failure.message for failure in failures]  # a dictionary if the process told it
        told = [message["message"] for message in messages if isinstance(message, dict)]
        first = [problem for problem in told if "another process failed" not in problem] or told  # which is no cause
        if failures[0].exitcode in (130, 143):  # it was stopped, and has saved
            return failures[0].exitcode
        print(f"error: {first[0]}" if first else "error: a process failed; its message is above.", file=sys.stderr)
        return 1
    except SignalException as stopped:
        return 128 + stopped.sigval
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
