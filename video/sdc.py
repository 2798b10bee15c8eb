"""SDC-Net, the vector-based variant: two frames and the flow between them in, the motion of every pixel out.

Reda et al., "SDC-Net: Video prediction using spatially-displaced convolution", ECCV 2018, as used by Zhu et al.
(CVPR 2019). The flow network in front of it is not included: any estimator can take its place.

Written from the papers. The layers, their kernels and the ratios of their channels are those of FlowNetS, one level
finer. Not verified, since no published weights were available: the width (believed to be half that of FlowNetS; a
file's width is read from the file), the order of the input channels, and the scale of flows (MEAN_FLOW and
FLOW_SCATTER; replaced by a file's `flow_mean` and `flow_std` if it has them). `python -m video.train --snapshot FILE
--test_mode` first reports the PSNR that the file's weights reach on the frames, which shows whether it uses the same
conventions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.checkpoint import Checkpoint, compare_state, load_checkpoint
from utils.images import Uint8Array
from video.flow import Flow
from video.names import RECONSTRUCTION, arch_name
from video.warping import FlowArray

WIDTH = 32  # channels of conv1
WHITE = 255.0
MULTIPLE = 64  # six halvings
INPUTS = 8  # two flow components and three colours of each of two frames
# Flows enter as (flow - mean) / (3 * scatter), and the output is scaled back the same way. In pixels.
MEAN_FLOW = (-0.944, -1.231)
FLOW_SCATTER = (13.772, 7.475)
FLOW_SCALE = ("flow_mean", "flow_std")  # keys of these two


class SDCNet(nn.Module):
    """Encoder and decoder with skip connections. Attribute names are keys of published checkpoints.

    width: channels of the first layer, a multiple of 4; all others follow from it. FlowNetS has 64.

    A new network returns its input flow, so training starts from the estimator's warp: the last layer also sees the
    input, and all its other weights are zero. For reconstruction that is the flow itself, for prediction constant
    motion.
    """

    flow_mean: Tensor
    flow_std: Tensor

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise ValueError(f"--width must be a positive multiple of 4, got {width}.")
        w = width
        self.conv1 = _conv(INPUTS, w, kernel=7, stride=2)
        self.conv2 = _conv(w, 2 * w, kernel=5, stride=2)
        self.conv3 = _conv(2 * w, 4 * w, kernel=5, stride=2)
        self.conv3_1 = _conv(4 * w, 4 * w)
        self.conv4 = _conv(4 * w, 8 * w, stride=2)
        self.conv4_1 = _conv(8 * w, 8 * w)
        self.conv5 = _conv(8 * w, 8 * w, stride=2)
        self.conv5_1 = _conv(8 * w, 8 * w)
        self.conv6 = _conv(8 * w, 16 * w, stride=2)
        self.conv6_1 = _conv(16 * w, 16 * w)
        # Each takes the skip connection and the layer below.
        self.deconv5 = _deconv(16 * w, 8 * w)
        self.deconv4 = _deconv(8 * w + 8 * w, 4 * w)
        self.deconv3 = _deconv(8 * w + 4 * w, 2 * w)
        self.deconv2 = _deconv(4 * w + 2 * w, w)
        self.deconv1 = _deconv(2 * w + w, w // 2)
        self.deconv0 = _deconv(w + w // 2, w // 4)
        self.final_flow = nn.Conv2d(INPUTS + w // 4, 2, 3, padding=1)
        self.register_buffer("flow_mean", torch.tensor(MEAN_FLOW).view(1, 2, 1, 1))
        self.register_buffer("flow_std", torch.tensor(FLOW_SCATTER).view(1, 2, 1, 1))
        self._start_from_the_flow()

    @property
    def width(self) -> int:
        """Channels of the first layer."""
        return self.conv1[0].out_channels  # type: ignore[return-value]

    def forward(self, earlier: Tensor, later: Tensor, flow: Tensor) -> Tensor:
        """The motion [B, 2, H, W] float32 from the target frame to the source frame, in pixels right and down.

        earlier, later: two consecutive frames, [B, 3, H, W] RGB, 0 to 255. flow: [B, 2, H, W] pixels, from `later`
        to `earlier`: what is at (x, y) of `later` is at (x, y) + flow in `earlier`. In reconstruction `later` is
        the target and `earlier` the source; in prediction `later` is the source, and the target comes after it.
        Sides may have any length.
        """
        height, width = flow.shape[2:]
        scale = 3 * self.flow_std
        inputs = torch.cat([(flow.float() - self.flow_mean) / scale, _without_mean(earlier, later)], 1)
        inputs = F.pad(inputs, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        features = self._features(inputs)
        with torch.autocast(inputs.device.type, enabled=False):  # 8 bits of mantissa would round 20 pixels to 0.06
            motion = self.final_flow(torch.cat([inputs, features.float()], 1))
            return motion[..., :height, :width] * scale + self.flow_mean

    def _features(self, inputs: Tensor) -> Tensor:
        """[B, 8, H, W] -> [B, width / 4, H, W]; both sides are multiples of 64."""
        conv1 = self.conv1(inputs)
        conv2 = self.conv2(conv1)
        conv3 = self.conv3_1(self.conv3(conv2))
        conv4 = self.conv4_1(self.conv4(conv3))
        conv5 = self.conv5_1(self.conv5(conv4))
        decoded = self.deconv5(self.conv6_1(self.conv6(conv5)))
        for skip, deconv in (
            (conv5, self.deconv4),
            (conv4, self.deconv3),
            (conv3, self.deconv2),
            (conv2, self.deconv1),
            (conv1, self.deconv0),
        ):
            decoded = deconv(torch.cat([skip, decoded], 1))
        return decoded

    def _start_from_the_flow(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.final_flow.weight.zero_()
            for component in range(2):
                self.final_flow.weight[component, component, 1, 1] = 1


def load_sdc(path: Path | str, device: torch.device | str = "cpu", mode: str = RECONSTRUCTION) -> SDCNet:
    """A trained network for `mode`, one of SDC_MODES, in evaluation mode. The file determines its width.

    Published files also hold a flow network and do not record their mode; for these, `mode` is trusted.
    Raises FileNotFoundError, or ValueError if the file is damaged or holds another network or another mode.
    """
    return sdc_of(load_checkpoint(path), path, mode).eval().to(device)


def sdc_of(checkpoint: Checkpoint, path: Path | str, mode: str) -> SDCNet:
    """The network for `mode` in a checkpoint that was read from `path`. Raises ValueError if it holds another one."""
    if checkpoint.arch not in (None, arch_name(mode)):
        raise ValueError(
            f"{path} holds {checkpoint.arch}; expected {arch_name(mode)}: python -m video.train --mode {mode}."
        )
    first = checkpoint.state_dict.get("conv1.0.weight")
    if first is None or first.shape[1:] != (INPUTS, 7, 7):
        shape = "nothing" if first is None else list(first.shape)
        raise ValueError(
            f"{path}: not the weights of an SDC-Net for two frames: conv1.0.weight should be "
            f"[width, {INPUTS}, 7, 7], found {shape}."
        )
    net = SDCNet(len(first))
    own = net.state_dict()
    found = {key: own[key] for key in FLOW_SCALE}
    found |= {key: value for key, value in checkpoint.state_dict.items() if key in own}
    report = compare_state(own, found)
    if not report.complete:
        raise ValueError(f"{path}: not the weights of an SDC-Net: {report.summary()}.")
    net.load_state_dict(found)
    return net


@torch.inference_mode()
def sdc_motion(net: SDCNet, image: Uint8Array, other: Uint8Array, flow: FlowArray) -> FlowArray:
    """The flow from `image` to `other`, refined by a network for reconstruction: [H, W, 2] float32, pixels.

    image, other: [H, W, 3] uint8 RGB. flow: [H, W, 2], from another estimator: what is at (x, y) of `image` is at
    (x, y) + flow in `other`. With a network for prediction the result is the motion from the frame after `image`
    to `image`. Raises ValueError if the sizes differ.
    """
    if not image.shape[:2] == other.shape[:2] == flow.shape[:2]:
        raise ValueError(f"frames and flow must have the same size, got {image.shape}, {other.shape} and {flow.shape}.")
    device = net.flow_mean.device
    earlier, later, start = (
        torch.from_numpy(np.ascontiguousarray(values)).to(device).permute(2, 0, 1)[None].float()
        for values in (other, image, flow)
    )
    return np.ascontiguousarray(net(earlier, later, start)[0].permute(1, 2, 0).cpu().numpy())


class SdcFlow:
    """An estimator's flow, refined by a network for reconstruction."""

    def __init__(self, net: SDCNet, start: Flow) -> None:
        self._net = net
        self._start = start

    def __call__(self, image: Uint8Array, other: Uint8Array) -> FlowArray:
        """See `video.flow.Flow`."""
        return sdc_motion(self._net, image, other, self._start(image, other))


def _without_mean(earlier: Tensor, later: Tensor) -> Tensor:
    """Two frames [B, 3, H, W] -> [B, 6, H, W] centred at 0: each colour's mean over both frames is subtracted."""
    frames = torch.stack([earlier.float(), later.float()], 2)
    return ((frames - frames.mean(dim=(2, 3, 4), keepdim=True)) / WHITE).flatten(1, 2)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2), nn.LeakyReLU(0.1, inplace=True)
    )


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True))
