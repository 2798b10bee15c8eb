"""Processes that load samples: their number, and how each is set up."""

from __future__ import annotations

import signal

import cv2
import torch

from utils.cores import available_cores
from utils.distributed import Processes
from utils.memory import keep_freed_memory


def default_num_workers(processes: Processes) -> int:
    """One per core that this process may use; processes on one machine share its cores."""
    return max(1, available_cores() // processes.local_count)


def prepare_worker(worker: int) -> None:
    """Set up a loader process, number `worker`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    # There is one process per core; threads on top of that would only compete.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    keep_freed_memory()
