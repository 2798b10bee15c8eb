"""SDC-Net, the vector-based variant: frames and the flows between them in, the motion of every pixel out.

Reda et al., "SDC-Net: Video prediction using spatially-displaced convolution", ECCV 2018, in the two uses of Zhu et
al. (CVPR 2019). Keys, inputs, output and loss are the published ones. The flow network in front of it is not included:
any estimator can take its place.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from network.checkpoint import Checkpoint, compare_state, load_checkpoint

PREDICTION, RECONSTRUCTION = "prediction", "reconstruction"
NUM_FRAMES = {RECONSTRUCTION: 3, PREDICTION: 2}  # that the network sees; in reconstruction the last is the target

WIDTH = 32  # channels of conv1
WHITE = 255.0
MULTIPLE = 64  # six halvings
# Flows enter as (flow - mean) / (3 * std), and the output is scaled back the same way. In pixels.
FLOW_MEAN = (-0.94427323, -1.23077035)
FLOW_STD = (13.77204132, 7.47463894)
BUFFERS = ("flow_mean", "flow_std", "rgb_mean")  # a file without them means these values
COLOR, GRADIENT, SMOOTHNESS = 0.7, 0.2, 0.1  # weights of the loss


class SDCNet(nn.Module):
    """Encoder and decoder with skip connections. Attribute names are keys of published checkpoints.

    mode: RECONSTRUCTION or PREDICTION. width: channels of the first layer, a multiple of 4; all others follow from it.
    Published networks have 32.

    A new network returns the last flow that it is given, so training starts from the estimator's warp: the last layer
    also sees the input, and all its other weights are zero. For prediction that is constant motion.
    """

    flow_mean: Tensor
    flow_std: Tensor

    def __init__(self, mode: str = RECONSTRUCTION, width: int = WIDTH) -> None:
        super().__init__()
        self.num_frames, self.width = NUM_FRAMES[mode], width
        if width < 4 or width % 4:
            raise ValueError(f"--width must be a positive multiple of 4, got {width}.")
        # Three colours of each frame, two components of each flow.
        w, inputs = width, 3 * self.num_frames + 2 * (self.num_frames - 1)
        self.conv1 = _conv(inputs, w, kernel=7, stride=2)
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
        self.final_flow = nn.Conv2d(inputs + w // 4, 2, 3, padding=1)
        self.register_buffer("flow_mean", torch.tensor(FLOW_MEAN).view(1, 2, 1, 1))
        self.register_buffer("flow_std", torch.tensor(FLOW_STD).view(1, 2, 1, 1))
        self.register_buffer("rgb_mean", torch.zeros(1, 3, 1, 1))  # published files have it; nothing uses it
        self._start_from_the_flow()

    def forward(self, frames: Tensor, flows: Tensor) -> Tensor:
        """The motion [B, 2, H, W] float32 from the target frame to the one before it, in pixels right and down.

        frames: consecutive ones, [B, N, 3, H, W] RGB, 0 to 255: 3 in reconstruction, the last of which is the target;
        2 in prediction, after which the target comes. flows: [B, N - 1, 2, H, W] pixels, each from a frame to the one
        before it: what is at (x, y) of frame i + 1 is at (x, y) + flows[:, i] in frame i. Sides may have any length.
        """
        height, width = flows.shape[3:]
        scale = 3 * self.flow_std
        frames, flows = frames.float().flip(2) / WHITE, (flows.float() - self.flow_mean) / scale  # RGB to BGR
        frames = frames - frames.mean(dim=(1, 3, 4), keepdim=True)
        # Ordered by component, then by time: u of all flows, then v; blue of all frames, then green, then red.
        inputs = torch.cat([values.transpose(1, 2).flatten(1, 2) for values in (flows, frames)], 1)
        inputs = F.pad(inputs, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        conv1 = self.conv1(inputs)
        conv2 = self.conv2(conv1)
        conv3 = self.conv3_1(self.conv3(conv2))
        conv4 = self.conv4_1(self.conv4(conv3))
        conv5 = self.conv5_1(self.conv5(conv4))
        features = self.deconv5(self.conv6_1(self.conv6(conv5)))
        features = self.deconv4(torch.cat([conv5, features], 1))
        features = self.deconv3(torch.cat([conv4, features], 1))
        features = self.deconv2(torch.cat([conv3, features], 1))
        features = self.deconv1(torch.cat([conv2, features], 1))
        features = self.deconv0(torch.cat([conv1, features], 1))
        with torch.autocast(inputs.device.type, enabled=False):  # 8 bits of mantissa would round 20 pixels to 0.06
            motion = self.final_flow(torch.cat([inputs, features.float()], 1))
            return motion[..., :height, :width] * scale + self.flow_mean

    def _start_from_the_flow(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            self.final_flow.weight.zero_()
            num_flows = self.num_frames - 1
            for component in range(2):
                self.final_flow.weight[component, component * num_flows + num_flows - 1, 1, 1] = 1


def load_sdc(path: Path | str, mode: str = RECONSTRUCTION, checkpoint: Checkpoint | None = None) -> SDCNet:
    """A trained network for `mode`, in evaluation mode. The file determines its width, and may hold a flow network too.

    checkpoint: what was already read from `path`. Raises FileNotFoundError, or ValueError if the file is damaged or
    holds another network or another mode.
    """
    checkpoint = checkpoint or load_checkpoint(path)
    way_out = f"expected SDCNet_{mode}: python -m video.train --mode {mode}."
    if checkpoint.arch not in (None, f"SDCNet_{mode}"):
        raise ValueError(f"{path} holds {checkpoint.arch}; {way_out}")
    tensors = checkpoint.state_dict
    net = SDCNet(mode, len(tensors.get("conv1.0.weight", range(WIDTH))))
    own = net.state_dict()
    found = {key: own[key] for key in BUFFERS} | {key: value for key, value in tensors.items() if key in own}
    report = compare_state(own, found)
    if not report.complete:
        raise ValueError(f"{path} holds other weights ({report.summary()}); {way_out}")
    net.load_state_dict(found)
    return net.eval()


def sdc_loss(prediction: Tensor, target: Tensor, motion: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """How well a motion makes the target frame from the one before it: 0.7 colour + 0.2 gradient + 0.1 smoothness.

    prediction, target: [B, C, H, W] float32, values 0 to 255. motion: [B, 2, H, W] float32 pixels; it produced the
    prediction. Colours count from 0 to 1, their gradients from 0 to 255 and without their sign, motion in pixels: the
    published units. Each term is a mean, so it depends neither on the number nor on the size of the images. Returns the
    weighted sum, and its terms by name, detached.
    """
    color = (prediction - target).abs().mean() / WHITE
    gradient, smoothness = motion.new_zeros(2)
    for axis in (2, 3):
        gradient = gradient + (prediction.diff(dim=axis).abs() - target.diff(dim=axis).abs()).abs().mean()
        smoothness = smoothness + motion.diff(dim=axis).abs().mean()
    total = COLOR * color + GRADIENT * gradient + SMOOTHNESS * smoothness
    return total, {"color": color.detach(), "gradient": gradient.detach(), "smoothness": smoothness.detach()}


def displace(image: Tensor, motion: Tensor) -> Tensor:
    """`image` [B, C, H, W] at (x, y) + motion, bilinear. motion: [B, 2, H, W] pixels right and down, of the same dtype.

    A place outside the image is clamped to the nearest one inside, and gives the motion no gradient.
    """
    height, width = image.shape[2:]
    x = torch.arange(width, device=image.device) + motion[:, 0]
    y = torch.arange(height, device=image.device)[:, None] + motion[:, 1]
    # From -1 to 1, the outer edges. The rounding, 0.0001 pixels at 2048, costs at most 0.02 grey levels.
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], 3)
    places = places.nan_to_num().clamp(-1, 1)  # on CPUs, the backward pass of grid_sample crashes at NaN or far outside
    return F.grid_sample(image, places, mode="bilinear", padding_mode="border", align_corners=False)


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2), nn.LeakyReLU(0.1, inplace=True)
    )


def _deconv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.1, inplace=True))
