"""Processes: rank, world size and communication. A single process needs no set-up."""

from __future__ import annotations

import gc
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
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

from utils.flags import EXIT_MISTAKE, report_error

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
    """This process as `torchrun` describes it in the environment. The global rank is RANK, never LOCAL_RANK.

    Raises ValueError if what it says cannot be.
    """
    words = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    words = {name: os.environ.get(name, word) for name, word in words.items()}
    rank, world_size, *local = (int(word) if word.isdecimal() else -1 for word in words.values())
    if not 0 <= rank < world_size or min(local) < 0:
        told = ", ".join(f"{name}={word}" for name, word in words.items())
        raise ValueError(f"the environment says {told}; start several processes with torchrun, or unset these.")
    return Processes(rank, world_size, *local)


# Between CPUs, while there is a process group: "step" for what all do within the same step, "wait" for what may take
# hours. It is the process's connections to others, as PyTorch's own default group.
_GROUPS: dict[str, dist.ProcessGroup] = {}
LONGEST_WAIT = timedelta(hours=6)
LATER = timedelta(minutes=2)  # after it NCCL gives up, whose message is long and names no machine
TIME_TO_ANSWER = 3.0  # seconds
BEAT = 5.0  # seconds between a process's signs of life, which are counted
GONE = 1 << 40  # the count of one that has ended in order
LONGEST_SILENCE = timedelta(minutes=10)  # between two of them


@contextmanager
def process_group(device: torch.device, timeout: timedelta = LONGEST_WAIT) -> Iterator[Processes]:
    """Join the other processes for the block, if there are any; a GPU with a number becomes the current one.

    timeout: how long to wait in the middle of a step for a process that hangs; then OSError names it and its machine.
    Outside of steps processes wait for hours, but not for one that gives no sign of life, see `_watch`.

    A `DistributedDataParallel` made in the block must be gone when it ends (make it in a function): it keeps the
    group, whose threads would live until the interpreter exits and then sometimes abort the process.
    """
    processes = find_processes()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    if processes.world_size == 1:
        yield processes
        return
    on_gpu = device.type == "cuda"
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout + LATER if on_gpu else timeout)
    has_failed = True
    machines: list[str] = []
    has_ended = threading.Event()
    watch: threading.Thread | None = None
    try:
        for name, patience in (("step", timeout), ("wait", LONGEST_WAIT)):
            _GROUPS[name] = dist.new_group(backend="gloo", timeout=patience)
        machines = lists_of_all([platform.node()])
        silence = LONGEST_SILENCE if timeout == LONGEST_WAIT else timeout
        # A connection of its own: each serves one thread at a time.
        store = dist.distributed_c10d._get_default_store().clone()  # type: ignore[attr-defined]
        watch = threading.Thread(target=_watch, args=(store, processes, machines, silence, has_ended), daemon=True)
        watch.start()
        yield processes
        has_failed = False
    except RuntimeError as error:
        # As the connection does if one of the processes ends with an error.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            cause = " ".join(str(error).split())[:300]
            if re.search("timed? ?out", cause, re.IGNORECASE):
                raise OSError(f"{_silent(processes, machines)} within --timeout {timeout}: {cause}") from error
            raise OSError(f"another process failed (see its message), or the connection did: {cause}") from error
        raise
    finally:
        has_ended.set()
        if watch:
            watch.join(TIME_TO_ANSWER)
        _GROUPS.clear()
        gc.collect()  # the network is part of reference cycles
        # NCCL's group ends only when all processes end it. After an error in one, the others are still waiting for its
        # gradients; when the interpreter exits, the connection is cut without asking them.
        if device.type == "cpu" or not has_failed:
            dist.destroy_process_group()


def _silent(processes: Processes, machines: Sequence[str]) -> str:
    """Which processes do not answer the others, as the beginning of a sentence."""
    found: list[list[int]] = []

    def ask() -> None:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"answer{processes.rank}", "")
        time.sleep(TIME_TO_ANSWER)
        found.append([rank for rank in range(processes.world_size) if not store.check([f"answer{rank}"])])

    asking = threading.Thread(target=ask, daemon=True)  # it never returns if the machine of the store is cut off
    asking.start()
    asking.join(3 * TIME_TO_ANSWER)
    if not found:
        return f"the machine where the processes meet, {os.environ.get('MASTER_ADDR')}, did not answer"
    return _name_silent(found[0], machines)


def _name_silent(ranks: Sequence[int], machines: Sequence[str]) -> str:
    silent = [f"process {rank} on {machines[rank]}" for rank in ranks if rank < len(machines)]
    return f"{' and '.join(silent) or 'a process'} did not answer"


def _watch(
    store: dist.Store, processes: Processes, machines: Sequence[str], silence: timedelta, has_ended: threading.Event
) -> None:
    """Give signs of life until `has_ended`; end this process if another one has given none for so long.

    The main process watches all others, and they watch it: when it ends, their connections to it do. It notices nothing
    while the store does not answer, which torchrun keeps on the first machine.
    """
    others = [0] if processes.rank else range(1, processes.world_size)
    beats, missed = dict.fromkeys(others, 0), dict.fromkeys(others, 0)
    while not has_ended.wait(BEAT):
        try:
            store.add(f"beat{processes.rank}", 1)
            now = {rank: store.add(f"beat{rank}", 0) for rank in others}
        except RuntimeError:
            continue  # if it stays away, the connections between the processes tell why
        # In own beats, not by the clock: none is late when all go on after a pause, as on a suspended machine.
        missed = {rank: missed[rank] + 1 if now[rank] == beats[rank] < GONE else 0 for rank in others}
        beats = now
        if silent := [rank for rank in others if missed[rank] > max(1, silence.total_seconds() / BEAT)]:
            sys.stdout.flush()
            print(file=sys.stderr)  # a progress bar may be in the way
            report_error(f"{_name_silent(silent, machines)} within {silence}.")
            os._exit(EXIT_MISTAKE)
    with suppress(RuntimeError):
        store.add(f"beat{processes.rank}", GONE)


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
    dist.all_gather_object(found, items, _GROUPS.get("wait"))
    return [item for part in found for item in part]


def largest_of_all(*numbers: int) -> list[int]:
    """For each of the numbers the largest that a process has, in every process. It waits for no GPU."""
    if not dist.is_initialized():
        return [*numbers]
    tensor = torch.tensor(numbers)
    dist.all_reduce(tensor, dist.ReduceOp.MAX, _GROUPS.get("step"))
    return tensor.tolist()


def mean_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of a floating point tensor; `tensor` itself if there is one process."""
    return sum_over_processes(tensor.clone()) / find_processes().world_size


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
        dist.barrier(_GROUPS["wait"])


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the crops of all processes; PyTorch's own is for GPUs only. Its gradient is exchanged too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: [B, C, H, W] floating point; B, H and W may differ between processes."""
        if not self.training:
            return super().forward(x)
        # Sums of squares in float32 would lose the digits that the mean takes away.
        sums = [x.sum((0, 2, 3), dtype=torch.float64), x.double().square().sum((0, 2, 3))]
        total = torch.cat([*sums, sums[0].new_tensor([x.numel() / x.shape[1]])])
        mean, square, (count,) = dist.nn.functional.all_reduce(total).split([x.shape[1], x.shape[1], 1])
        mean, square = mean / count, square / count
        variance = (square - mean.square()).clamp(min=0)
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * count / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        factor = self.weight * (variance + self.eps).rsqrt()
        offset = self.bias - mean * factor
        return torch.addcmul(offset[:, None, None].to(x), x, factor[:, None, None].to(x))


def synchronise_batch_norm(net: nn.Module, device: torch.device) -> nn.Module:
    """`net`, its batch norms in training over the crops of all processes."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SyncBatchNorm
    return net
