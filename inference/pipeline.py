"""The loop over images: while the network predicts one, threads read the next ones and write the last ones."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from utils.command import USER_ERRORS, one_line
from utils.device import is_out_of_memory, pin
from utils.distributed import Item, find_processes
from utils.images import Uint8Array

AHEAD = 2  # images read ahead, and results waiting for each writer, besides the current ones; limited by their memory


class Stopwatch:
    """Measures working time, also of several threads at once; on a GPU, which works after the block, by its clock."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._on_gpu = device is not None and device.type == "cuda"
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._spans: list[float] = []

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the block as work."""
        if self._on_gpu:
            begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            yield
            done.record()
            self._events.append((begun, done))
        else:
            start = time.perf_counter()
            yield
            self._spans.append(time.perf_counter() - start)

    @property
    def seconds(self) -> float:
        """Working time so far; waits for the work queued on a GPU."""
        for _, done in self._events[-1:]:
            done.synchronize()
        return sum(self._spans) + sum(begun.elapsed_time(done) for begun, done in self._events) / 1000


def predict_all(
    items: Iterable[Item], read: Callable[[Item], tuple[Any, ...] | None], predict: Callable[[Uint8Array], Tensor],
    write: Callable[..., None], *, device: torch.device, path_of: Callable[[Item], Path], unit: str = "image",
    total: int | None = None, num_writers: int = 1, failed: list[str] | None = None,
    interruptible: bool = False,
) -> dict[str, Any]:
    """Read, predict and write each item. The first error ends the loop, and drops what is not written yet.

    read: gives (image [H, W, 3] uint8, ...), or None after the last item; called by one thread, in the order of the
    items, so they may be parts of one stream.
    predict: image -> prediction [H, W] uint8 on `device`. write: called with the item, the prediction on the host, and
    what `read` gave. path_of: the file that an error names. num_writers: threads that write; with one, in order.
    failed: gets a line for each item that cannot be read or predicted; None: that is an error. interruptible: Ctrl-C
    ends the loop, unless nothing was predicted before.
    Prints the speed. Returns images_per_s, network_share (0..1) and s_per_image of each step; {} if there was nothing
    to do.
    """  # fmt: skip
    reading, network, writing = Stopwatch(), Stopwatch(device), Stopwatch()
    reader, writers = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(num_writers, "write")
    samples: deque[tuple[Item, Future[Any]]] = deque()
    results: deque[Future[None]] = deque()
    start, num_done, source = time.perf_counter(), 0, iter(items)

    def timed(watch: Stopwatch, work: Callable[..., Any], *arguments: Any) -> Any:
        with watch.working():
            return work(*arguments)

    def finish(item: Item, prediction: Callable[[], Uint8Array], sample: tuple[Any, ...]) -> None:
        timed(writing, write, item, prediction(), *sample)

    try:
        with tqdm(total=total, unit=unit, disable=None if find_processes().is_main else True) as progress:
            try:
                while True:
                    for item in islice(source, AHEAD + 1 - len(samples)):
                        samples.append((item, reader.submit(timed, reading, read, item)))
                    if not samples:
                        break
                    item, reads = samples.popleft()
                    try:
                        sample = reads.result()
                        if sample is None:
                            break
                        with network.working(), errors_naming(path_of(item)):
                            prediction = download(predict(sample[0]))
                    except USER_ERRORS as error:
                        if failed is None:
                            raise
                        failed.append(one_line(error))
                    else:
                        results.append(writers.submit(finish, item, prediction, sample))
                        while len(results) > AHEAD * num_writers or (results and results[0].done()):
                            results.popleft().result()  # raises what writing raised
                        num_done += 1
                    progress.update()
            except KeyboardInterrupt:
                if not (interruptible and num_done):
                    raise
        while results:
            results.popleft().result()
    finally:  # waits for what has begun: the thread may be in the middle of a source that the caller will close
        reader.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)
    if not num_done:
        return {}
    seconds, steps = max(time.perf_counter() - start, 1e-9), (reading, network, writing)
    per_image = (watch.seconds / num_done for watch in steps)
    speed = {
        "images_per_s": num_done / seconds,
        "network_share": network.seconds / seconds,
        "s_per_image": dict(zip(("read", "network", "score and write"), per_image, strict=True)),
    }
    if find_processes().is_main:
        told = f"network busy {speed['network_share']:.0%} of the time"
        print(f"{speed['images_per_s']:.2f} {unit}s/s; {told}", file=sys.stderr)
    return speed


def download(prediction: Tensor) -> Callable[[], NDArray[np.uint8]]:
    """Copy it, uint8, to the host while a GPU continues with the next image. Returns what waits for it and gives it."""
    if not prediction.is_cuda:
        return prediction.cpu().numpy
    host = pin(torch.empty(prediction.shape, dtype=prediction.dtype)).copy_(prediction, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # waiting sleeps instead of spinning
    copied.record(torch.cuda.current_stream(prediction.device))

    def wait() -> NDArray[np.uint8]:
        copied.synchronize()
        return host.numpy()

    return wait


@contextmanager
def errors_naming(path: Path) -> Iterator[None]:
    """Around the prediction of an image: turns ValueErrors and out-of-memory errors into ValueErrors naming `path`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"{path}: too large for the device's memory; use smaller tiles.") from error
