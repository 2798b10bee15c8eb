"""How sure a network is of each pixel, how far that can be believed, and a temperature that mends it.

After "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.specs.spec import IGNORE_LABEL
from utils.images import Uint8Array
from utils.plots import new_plot

LEVELS = 256  # confidence is kept in 8 bits: the probability of the chosen class in 255ths
BINS = 15  # of the calibration error, as in the paper
LOW = 0.05  # the share of pixels that are less sure than `Confidence.low`
FACTORS = 2 ** torch.linspace(-2, 2, 81, dtype=torch.float64)  # of the temperature, which are compared
FITTED_PIXELS = 4096  # of an image, at most
CONFIDENCE_COLUMNS = ("confidence", "confidence_p5")  # of tables: `Confidence.mean` and `low`


class Confidence(NamedTuple):
    """Of one image or many; probabilities in 0..1, NaN without pixels.

    mean; low: a twentieth of the pixels is below it; calibration_error: how far confidence and the share of right
    pixels are apart on average, over `BINS` ranges of confidence; NaN without labels.
    """

    mean: float
    low: float
    calibration_error: float


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities [C, ...] as if the logits had been divided by `temperature`. The order of the classes stays."""
    if temperature == 1:
        return probabilities
    powers = (probabilities / probabilities.amax(0)).pow_(1 / temperature)
    return powers.div_(powers.sum(0))


def unstack(prediction: Uint8Array) -> tuple[Uint8Array, Uint8Array | None]:
    """What a predictor gave, [H, W] or [2, H, W], as train ids and confidence, None without one."""
    return (prediction[0], prediction[1]) if prediction.ndim == 3 else (prediction, None)


def count_confidence(confidence: Uint8Array, prediction: Uint8Array, labels: Uint8Array) -> NDArray[np.int64]:
    """Pixels at each level of confidence [H, W]: all, those whose label is known, and those that are right: [3, 256].

    prediction, labels: train ids [H, W].
    """
    chosen = (np.ones_like(confidence, bool), labels != IGNORE_LABEL, labels == prediction)
    return np.stack([np.bincount(confidence[where], minlength=LEVELS) for where in chosen])


def summarise(counts: NDArray[np.int64]) -> Confidence:
    """Of counts [3, 256] as `count_confidence` gives them; those of several images may be added."""
    total = counts[0].sum()
    if not total:
        return Confidence(np.nan, np.nan, np.nan)
    levels = np.arange(LEVELS) / (LEVELS - 1)
    low = np.searchsorted(counts[0].cumsum(), LOW * total)
    number, sure, right = bin_confidence(counts)
    error = np.abs(sure - right).sum() / number.sum() if number.sum() else np.nan
    return Confidence(float(counts[0] @ levels / total), float(levels[low]), float(error))


def bin_confidence(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Labelled pixels in each of `BINS` ranges of confidence: their number, summed confidence, and the right ones."""
    levels = np.arange(LEVELS) / (LEVELS - 1)
    bins = np.minimum((levels * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(bins, row, BINS) for row in (counts[1], counts[1] * levels, counts[2])])


def plot_reliability(path: Path, counts: NDArray[np.int64]) -> None:
    """The share of right pixels against their confidence; on the diagonal both are the same."""
    number, sure, right = bin_confidence(counts)
    filled = number > 0
    with new_plot(path, (4.6, 4.2), 110) as figure:
        axes = figure.subplots()
        edges = np.linspace(0, 1, BINS + 1)
        axes.bar(edges[:-1], number / number.sum(), 1 / BINS, align="edge", color="#dadce0", label="share of pixels")
        axes.plot([0, 1], [0, 1], color="#5f6368", linestyle="--", linewidth=1)
        axes.plot(sure[filled] / number[filled], right[filled] / number[filled], "o-", color="#1a73e8", label="right")
        axes.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left", frameon=False)


def on_grid(values: Tensor) -> Tensor:
    """At most `FITTED_PIXELS` of [..., H, W], on an even grid."""
    height, width = values.shape[-2:]
    step = max(1, math.ceil(math.sqrt(height * width / FITTED_PIXELS)))
    return values[..., ::step, ::step].contiguous()


def describe(mean: float, low: float) -> str:
    """One line of `Confidence.mean` and `low`."""
    return f"confidence {mean:.1%} on average; {low:.1%} or less in a twentieth of the pixels"


class TemperatureFit:
    """Compares by how much a temperature should change, by the likelihood of the labels.

    sums: [82] float64, the log-likelihoods with each of `FACTORS`, and the number of pixels; may be added to another's.
    """

    def __init__(self) -> None:
        self.sums = torch.zeros(len(FACTORS) + 1, dtype=torch.float64)

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Include pixels: probabilities [C, H, W] with the temperature before, labels [H, W] uint8."""
        known = labels != IGNORE_LABEL
        logs = probabilities[:, known].double().clamp(min=1e-12).log()
        of_label = logs.gather(0, labels[known].long()[None])[0]
        sums = [(of_label / factor - (logs / factor).logsumexp(0)).sum() for factor in FACTORS]
        self.sums += torch.stack([*sums, known.sum()])

    def best(self) -> tuple[float, float, float]:
        """The best factor, and the mean log-likelihood without it and with it; 1 without labelled pixels."""
        means = self.sums[:-1] / self.sums[-1].clamp(min=1)
        middle = len(FACTORS) // 2
        best = int(means.argmax()) if self.sums[-1] else middle
        return float(FACTORS[best]), float(means[middle]), float(means[best])
