"""Processes: rank, world size and communication. A single process needs no set-up."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

# Its functions take the current process group at import as a default argument. If it were imported inside a process
# group, as DistributedDataParallel does, they would keep that group after its end.
import torch.distributed.nn.functional
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those that `torchrun` started; (0, 1, 0) without it. "local": on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0


def find_processes() -> Processes:
    """This process as `torchrun` describes it in the environment. The global rank is RANK, never LOCAL_RANK."""
    return Processes(
        rank=int(os.environ.get("RANK", 0)),
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
        local_rank=int(os.environ.get("LOCAL_RANK", 0)),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
    )


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the other processes for the block, if there are any; a GPU with a number becomes the current one.

    A `DistributedDataParallel` made in the block must be gone when it ends (make it in a function): it keeps the
    group, whose threads would live until the interpreter exits and then sometimes abort the process.
    """
    processes = find_processes()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if processes.world_size == 1:
        yield processes
        return
    # Evaluation distributes whole images, so processes may wait for each other for a long time at the end.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=6))
    has_failed = True
    try:
        yield processes
        has_failed = False
    except RuntimeError as error:
        # As the connection does if one of the processes ends with an error.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            cause = " ".join(str(error).split())[:300]
            raise OSError(f"another process failed (see its message), or the connection did: {cause}") from error
        raise
    finally:
        gc.collect()  # the network is part of reference cycles
        # NCCL's group ends only when all processes end it. After an error in one, the others are still waiting for its
        # gradients; when the interpreter exits, the connection is cut without asking them.
        if device.type == "cpu" or not has_failed:
            dist.destroy_process_group()


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in the tensor's own (integer) type; `tensor` itself if there is one process."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def lists_of_all(items: list[Item]) -> list[Item]:
    """The concatenated lists of all processes, in every process."""
    if not dist.is_initialized():
        return items
    found: list[list[Item]] = [[]] * dist.get_world_size()
    dist.all_gather_object(found, items)
    return [item for part in found for item in part]


def mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of a floating point tensor; `tensor` itself if there is one process."""
    if not dist.is_initialized():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gradients_summed_later(model: nn.Module, later: bool) -> AbstractContextManager[None]:
    """For a forward and backward pass: if `later`, its gradients are exchanged with those of a later pass."""
    return model.no_sync() if later and isinstance(model, DistributedDataParallel) else nullcontext()


def share_buffers(net: nn.Module) -> None:
    """Copy the buffers (statistics) of `net` in the main process to all processes, in place."""
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def wait_for_all() -> None:
    """Return when every process has called this."""
    if dist.is_initialized():
        on_gpu = dist.get_backend() == "nccl"
        dist.barrier(device_ids=[torch.cuda.current_device()] if on_gpu else None)
