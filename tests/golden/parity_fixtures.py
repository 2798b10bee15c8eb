"""Deterministic weights, images, logits and label maps for the recorded parity figures in this folder.

Everything is made from `unit`, a hash of (name, index), so any implementation can rebuild the same
tensors without a random generator.

Copied from the recorded parity figures of the published networks, which were made with these formulas by running
the published implementation of "Improving Semantic Segmentation via Video Propagation and Label Relaxation" on CPU.
"""

import zlib

import numpy as np
import torch


def unit(name: str, count: int) -> np.ndarray:
    """Return `count` float64 values in [-0.5, 0.5), the same on every machine."""
    index = np.arange(count, dtype=np.uint64)
    value = (index * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))) & np.uint64(0xFFFFFFFF)
    value ^= value >> np.uint64(15)
    value = (value * np.uint64(2246822519)) & np.uint64(0xFFFFFFFF)
    value ^= value >> np.uint64(13)
    return value.astype(np.float64) / 2**32 - 0.5


def state_dict(keys_to_tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fill a state dict of the given keys and shapes.

    The key decides: running_var 1 + u/2, running_mean u/10, one-dimensional *.weight 1 + u/5, any
    other one-dimensional tensor u/10, everything else u * sqrt(12 / fan_in), with u = unit(key).
    """
    filled = {}
    for key, tensor in keys_to_tensors.items():
        if key.endswith("num_batches_tracked"):
            filled[key] = torch.zeros_like(tensor)
            continue
        u = unit(key, tensor.numel()).reshape(tuple(tensor.shape))
        if key.endswith("running_var"):
            value = 1 + 0.5 * u
        elif key.endswith("running_mean"):
            value = 0.1 * u
        elif tensor.dim() == 1 and key.endswith(".weight"):
            value = 1 + 0.2 * u
        elif tensor.dim() == 1:
            value = 0.1 * u
        else:
            value = u * np.sqrt(12.0 / tensor[0].numel())
        filled[key] = torch.from_numpy(value).to(tensor.dtype)
    return filled


def image(height: int, width: int, name: str = "image") -> torch.Tensor:
    """A normalised input image [1, 3, height, width] float32 with values in [-2, 2)."""
    return torch.from_numpy(unit(name, 3 * height * width).reshape(1, 3, height, width) * 4).float()


def labels(height: int, width: int, name: str, block: int = 8, num_classes: int = 19, ignore: int = 255) -> np.ndarray:
    """A label map [height, width] uint8 of train ids in square blocks; one value in 20 is `ignore`."""
    rows, cols = -(-height // block), -(-width // block)
    grid = np.floor((unit(name, rows * cols).reshape(rows, cols) + 0.5) * (num_classes + 1)).astype(np.uint8)
    grid[grid == num_classes] = ignore
    return np.kron(grid, np.ones((block, block), np.uint8))[:height, :width]


def logits(batch: int, height: int, width: int, name: str, num_classes: int = 19) -> torch.Tensor:
    """Logits [batch, num_classes, height, width] float32 with values in [-3, 3)."""
    count = batch * num_classes * height * width
    return torch.from_numpy(unit(name, count).reshape(batch, num_classes, height, width) * 6).float()
