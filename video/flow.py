"""Optical flow: how pixels are fetched along it, the estimators of `--flow`, and chains of it along a video.

A flow is [H, W, 2] float32, pixels right and down: what is at pixel (x, y) is at (x, y) + flow[y, x] in the other
image. Pixel centres are at whole numbers. Frame 0 of a video is the labelled one, -1 the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from datasets.streets.render import flow_and_visibility
from datasets.streets.world import build_world
from datasets.streets.write import MARKER, read_plan, streets_of
from network.checkpoint import load_checkpoint
from utils.images import Uint8Array
from video.sdc import NUM_FRAMES, RECONSTRUCTION, SDCNet, load_sdc

FlowArray = NDArray[np.float32]

EstimateFlow = Callable[[Uint8Array, Uint8Array], FlowArray]  # (image, other) -> the flow from `image` to `other`

# Up to this many pixels, DIS searches at full size; above, at half: four times as fast, and details are large there.
SMALL = 1 << 19
SMALLEST = 16  # pixels per side; OpenCV's DIS may reject smaller images
SMOOTHNESS = 5.0  # of the motion; OpenCV's 20 smears it across object edges, and propagated labels lose mIoU

SURE = 3  # frames over which a chain drifts so little that another search gains nothing
WINDOW = (7, 7)  # pixels over which two flows are compared by their warped images

RAFT_MULTIPLE = 8  # both sides must be multiples of it; RAFT's pyramid also needs at least 128 pixels
RAFT_SMALLEST = 128


def places(flow: FlowArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where a flow points: x and y [H, W] float32, in pixels."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return flow[..., 0] + columns, flow[..., 1] + rows


def inside(flow: FlowArray) -> NDArray[np.bool_]:
    """[H, W]: whether the flow points into the image, up to the outer edge of its border pixels."""
    x, y = places(flow)
    height, width = flow.shape[:2]
    return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)


def warp_image(image: Uint8Array, flow: FlowArray) -> Uint8Array:
    """`image` [H, W, 3] uint8 sampled along the flow: cubic between pixels; the nearest pixel beyond the border."""
    x, y = places(flow)
    return cv2.remap(image, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def warp_labels(labels: Uint8Array, flow: FlowArray) -> Uint8Array:
    """`labels` [H, W] uint8 sampled at the nearest pixel, which lies on the border for places beyond it."""
    x, y = places(flow)
    return cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[return-value]


def compose(first: FlowArray, second: FlowArray) -> FlowArray:
    """The flow of going along `first` and from there along `second`.

    `second` is interpolated between pixels; beyond the border, it keeps its value at the border.
    """
    x, y = places(first)
    return first + cv2.remap(second, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=1)  # once per process, since it may be a network
def build_flow(name: str, weights: str | None = None, device: str = "cpu") -> EstimateFlow:
    """The estimator of this name: dis, raft or sdc. (`exact`, for drawn streets, is geometry, see `StreetFlow`.)

    weights: checkpoint file; `raft` and `sdc` need one. device: where their networks run; `dis` runs on the CPU.
    Raises ValueError for missing or unneeded weights and if `raft` lacks torchvision, FileNotFoundError for no file.
    """
    if name == "dis":
        if weights is not None:
            raise ValueError(f"--flow dis takes no weights, got {weights}. Choose raft or sdc, or omit the weights.")
        return dis_flow
    if weights is None:
        raise ValueError(f"--flow {name} needs a checkpoint: give its file with --flow_weights.")
    if name == "raft":
        return partial(raft_flow, load_raft(weights).to(device))
    return partial(sdc_flow, load_sdc(weights).to(device))


def dis_flow(image: Uint8Array, other: Uint8Array, start: FlowArray | None = None) -> FlowArray:
    """The flow by OpenCV's dense inverse search (Kroeger et al., ECCV 2016) on grey values, searched around `start`.

    Raises ValueError if the images are too small.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise ValueError(f"images of {width}x{height} pixels are too small for optical flow.")
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    is_small = height * width <= SMALL
    dis.setFinestScale(0 if is_small else 1)
    dis.setPatchStride(3 if is_small else 4)
    dis.setVariationalRefinementAlpha(SMOOTHNESS)
    here, there = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (image, other))
    begin = np.zeros((height, width, 2), np.float32) if start is None else start.copy()  # DIS writes into it
    return dis.calc(here, there, begin)  # type: ignore[return-value]


def load_raft(path: str) -> nn.Module:
    """RAFT with weights published by torchvision; the file determines whether it is the large or the small one.

    Raises FileNotFoundError without the file, ValueError if it does not hold RAFT or torchvision is missing.
    """
    state = load_checkpoint(path).state_dict
    try:
        from torchvision.models.optical_flow import raft_large, raft_small
    except ImportError as error:
        needed = f"torchvision, in the version built for torch {torch.__version__}"
        raise ValueError(f"--flow raft needs {needed} ({error}). Install it, or choose --flow dis.") from error
    for make in (raft_large, raft_small):
        net: nn.Module = make(weights=None, progress=False)
        if net.state_dict().keys() == state.keys():
            net.load_state_dict(state)
            return net.eval()
    raise ValueError(f"{path} holds neither torchvision's raft_large nor its raft_small.")


@torch.inference_mode()
def raft_flow(net: nn.Module, image: Uint8Array, other: Uint8Array) -> FlowArray:
    """The flow from a network that maps two images [1, 3, H, W] in -1 … 1 to a list of flows, the last one the best."""
    height, width = image.shape[:2]
    missing = [max(RAFT_SMALLEST, side + -side % RAFT_MULTIPLE) - side for side in (width, height)]
    device = next(net.parameters()).device
    pixels = torch.from_numpy(np.stack([image, other])).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    inputs = F.pad(pixels, (0, missing[0], 0, missing[1]), mode="replicate").split(1)
    flow: Tensor = net(*inputs)[-1]
    return np.ascontiguousarray(flow[0, :, :height, :width].permute(1, 2, 0).float().cpu().numpy())


@torch.inference_mode()
def sdc_flow(net: SDCNet, image: Uint8Array, other: Uint8Array) -> FlowArray:
    """The flow of `dis`, refined by a network for reconstruction."""
    # The network also sees the frame beyond `other`. A video that stands still there costs 0.01 dB (docs/sdc.md).
    frames, flows = sdc_inputs([other, other, image], RECONSTRUCTION)
    device = net.flow_mean.device
    motion = net(frames[None].to(device), flows[None].to(device))
    return np.ascontiguousarray(motion[0].permute(1, 2, 0).cpu().numpy())


def sdc_inputs(frames: Sequence[Uint8Array], mode: str) -> tuple[Tensor, Tensor]:
    """Frames as [N, 3, H, W] uint8, and the flows [M, 2, H, W] float32 between those that a network for `mode` sees."""
    frames = [np.ascontiguousarray(frame) for frame in frames]
    flows = [dis_flow(later, earlier) for earlier, later in pairwise(frames[: NUM_FRAMES[mode]])]
    pictures, motions = (torch.from_numpy(np.stack(values)) for values in (frames, flows))
    return pictures.permute(0, 3, 1, 2).contiguous(), motions.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class Displacement:
    """Where the pixels of a frame are in the labelled one.

    flow: [H, W, 2] float32, pixels right and down. visible: [H, W] bool, whether what is seen here is seen there too,
    if that is known. miss: [H, W] float32, the forward-backward error in pixels, if it is not.
    """

    flow: FlowArray
    visible: NDArray[np.bool_] | None = None
    miss: NDArray[np.float32] | None = None


FindDisplacement = Callable[[int], Displacement]  # of frame `step`


class FlowChain:
    """Displacements from a flow estimator that is given consecutive frames.

    Flow over several frames chains the flows between neighbours: small motions are estimated more reliably than large
    ones. One more search, started from the chain, corrects its drift; it is used where the images match better.

    frames: step -> [H, W, 3] uint8 RGB, all of the same size, without gaps. Call with steps from 0 outwards: only the
    last flow on each side is kept, since those of large frames would fill the memory.
    """

    def __init__(self, frames: Mapping[int, Uint8Array], estimate: EstimateFlow) -> None:
        self.frames = frames
        self.estimate = estimate
        self.last: dict[int, tuple[int, FlowArray, FlowArray]] = {}  # by side: the step, its flow to 0 and from 0

    def __call__(self, step: int) -> Displacement:
        """See `FindDisplacement`."""
        back, forth = self._chain(step)
        if abs(step) > SURE:
            back = self._without_drift(step, back)
        way = compose(back, forth)
        return Displacement(back, miss=cv2.magnitude(way[..., 0], way[..., 1]))  # type: ignore[arg-type]

    def _chain(self, step: int) -> tuple[FlowArray, FlowArray]:
        """The flow from `step` to 0 and that from 0 to `step`."""
        side = 1 if step > 0 else -1
        nothing = np.zeros((*self.frames[0].shape[:2], 2), np.float32)
        known, back, forth = self.last.get(side, (0, nothing, nothing))
        for near in range(known, step, side):
            here, there = self.frames[near], self.frames[near + side]
            one_back, one_forth = self.estimate(there, here), self.estimate(here, there)
            back = compose(one_back, back) if near else one_back
            forth = compose(forth, one_forth) if near else one_forth
        self.last[side] = step, back, forth
        return back, forth

    def _without_drift(self, step: int, chain: FlowArray) -> FlowArray:
        image, labelled = self.frames[step], self.frames[0]
        searched = dis_flow(image, labelled, start=chain)
        before, after = (grey_difference(warp_image(labelled, flow), image) for flow in (chain, searched))
        better = cv2.blur(after, WINDOW) < cv2.blur(before, WINDOW)
        return np.where(better[..., None], searched, chain)


def grey_difference(image: Uint8Array, other: Uint8Array) -> NDArray[np.float32]:
    """[H, W] float32: the absolute difference of two images [H, W, 3], averaged over the colours, in grey levels."""
    difference = cv2.absdiff(image, other)
    return cv2.transform(difference, np.full((1, 3), 1 / 3)).astype(np.float32)


class StreetFlow:
    """Exact displacements, with visibility, to one frame of a written set of streets.

    root: folder of the set. name: the labelled frame's name, `<sequence>_<frame number>`. stride: frames in a step.
    The street is rebuilt from streets.json, so no other file is needed.
    Raises ValueError if `root` holds no streets, or streets of another version, or no such frame.
    """

    def __init__(self, root: Path, name: str, stride: int = 1) -> None:
        plan = read_plan(root)
        if plan is None:
            told = f"{root} holds no {MARKER} of this version; draw the set anew"
            raise ValueError(f"--flow exact only works for drawn streets, and {told}.")
        frames = {street.stem(k): (street, k) for street in streets_of(plan) for k in range(street.num_frames)}
        if name not in frames:
            raise ValueError(f"{name} is not a frame of the streets in {root}, like street0003_000001.")
        street, self.frame = frames[name]
        self.stride, self.size = stride, (plan.height, plan.width)
        self.world = build_world((plan.seed, street.number), street.num_frames)

    def __call__(self, step: int) -> Displacement:
        """See `FindDisplacement`."""
        later = step * self.stride
        return Displacement(*flow_and_visibility(self.world, self.frame + later, -later, *self.size))
