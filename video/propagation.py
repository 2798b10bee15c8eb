"""Make labelled frames before and after a labelled one by moving its image and labels along the same motion.

Unknown pixels become void: those out of view in the labelled frame (`outside`), those hidden in it (`hidden`), and
those that look different from the true frame (`residual`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from utils.images import Uint8Array
from video.flow_chain import Motion
from video.occlusion import hidden, trust, unlike, wrong
from video.refine_labels import vote
from video.warping import inside, warp_image, warp_labels

PROPAGATION_MODES = ("joint", "label")
VOID_TESTS = ("outside", "hidden", "residual")  # a pixel counts under the first that it fails


@dataclass(frozen=True)
class Propagated:
    """One propagated pair.

    step: frames after the labelled one; negative: before it. image: [H, W, 3] uint8 RGB. labels: [H, W] uint8 train
    ids. void_shares: per test of VOID_TESTS, the share of all pixels that it made void, each pixel counted once.
    residual: mean difference between the warped image and the true frame in grey levels, over the labelled pixels;
    NaN if there is no true frame or no such pixel.
    """

    step: int
    image: Uint8Array
    labels: Uint8Array
    void_shares: dict[str, float]
    residual: float


def propagate(
    frames: Mapping[int, Uint8Array],
    labels: Uint8Array,
    motion: Motion,
    steps: Sequence[int],
    *,
    mode: str = "joint",
    keep: Collection[str] = (),
    ignore_label: int = 255,
) -> Iterator[Propagated]:
    """Propagate the image and labels of frame 0 to each of `steps`, nearest first.

    frames: step -> [H, W, 3] uint8 RGB. Frame 0 is required; the residual is measured against the others, and mode
    "label" keeps them as the images. labels: [H, W] uint8 train ids of frame 0, `ignore_label` where void.
    mode: "joint" warps image and labels, "label" only the labels. keep: tests of VOID_TESTS to skip.
    Raises ValueError for an unknown mode or test, for sizes that differ, and for a missing frame.
    """
    _check(frames, labels, steps, mode, keep)
    for step in sorted(steps, key=abs):
        yield _propagate_to(step, frames, labels, motion, mode, keep, ignore_label)


def _check(
    frames: Mapping[int, Uint8Array], labels: Uint8Array, steps: Sequence[int], mode: str, keep: Collection[str]
) -> None:
    if mode not in PROPAGATION_MODES:
        raise ValueError(f"--mode '{mode}' is unknown. Choose one of: {', '.join(PROPAGATION_MODES)}.")
    if unknown := sorted(set(keep) - set(VOID_TESTS)):
        raise ValueError(f"--keep '{unknown[0]}' is unknown. Choose from: {', '.join(VOID_TESTS)}.")
    if 0 not in frames:
        raise ValueError("the labelled frame, step 0, is missing.")
    if mode == "label" and (missing := [step for step in steps if step not in frames]):
        raise ValueError(f"--mode label keeps the true frames, but the one at step {missing[0]:+d} is missing.")
    if 0 in steps:
        raise ValueError("step 0 is the labelled frame itself.")
    for step in (0, *(step for step in steps if step in frames)):
        if frames[step].shape[:2] != labels.shape:
            raise ValueError(
                f"the frame at step {step:+d} has {_size(frames[step])} pixels, the labels have {_size(labels)}."
            )


def _size(picture: Uint8Array) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _propagate_to(step: int, frames: Mapping[int, Uint8Array], labels: Uint8Array, motion: Motion, mode: str,
                  keep: Collection[str], ignore_label: int) -> Propagated:  # fmt: skip
    displacement = motion(step)
    warped = warp_image(frames[0], displacement.flow)
    true = frames.get(step)
    difference = None if true is None else unlike(warped, true)
    carried = warp_labels(labels, displacement.flow)
    image = warped if mode == "joint" else frames[step]
    if difference is not None and displacement.visible is None:  # exact motion leaves nothing to improve
        carried = vote(carried, image, trust(difference))
    failed = {
        "outside": ~inside(displacement.flow),
        "hidden": hidden(displacement, difference),
        "residual": wrong(displacement, difference),
    }
    shares, void = dict.fromkeys(VOID_TESTS, 0.0), np.zeros(labels.shape, bool)
    for test in VOID_TESTS:
        if test not in keep:
            shares[test] = float((failed[test] & ~void).mean())
            void |= failed[test]
    carried[void] = ignore_label
    known = carried != ignore_label
    residual = float(difference[known].mean()) if difference is not None and known.any() else math.nan
    return Propagated(step, image, carried, shares, residual)
