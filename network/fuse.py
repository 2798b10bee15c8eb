"""Rewrite a trained network for speed: the same function in fewer or faster operations. None of them can be trained."""

from __future__ import annotations

import warnings
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from network.blocks import DepthwiseConv2d, JoiningConv2d, Network, concatenate
from network.deepv3 import DeepLabV3Plus
from utils.device import compile_for, why_no_triton

CUDNN_LIMIT = 2**31 - 1  # most values in a map that cuDNN can index with 32 bits
MANY_CHANNELS = 1024  # cuDNN's dilated convolutions with this many output channels or more are slow


class ConvTracer(fx.Tracer):
    """Treats convolutions and batch norms as leaves, including this project's subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the tracer treats `m` as a single operation."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fuse_batch_norms(net: nn.Module) -> None:
    """Fuse, in place, every batch norm with the convolution before it, if that feeds nothing else.

    In evaluation a batch norm is a factor and an offset per channel, which the convolution's weights can absorb.
    Batch norms after a sum (pre-activation blocks) stay.
    """
    assert not net.training, "in training, a batch norm depends on its batch"
    modules = dict(net.named_modules())
    for node in ConvTracer().trace(net).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        (source,) = node.args
        conv = modules.get(source.target) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            net.set_submodule(source.target, fuse_conv_bn_eval(conv, modules[node.target]))
            net.set_submodule(node.target, nn.Identity())


@torch.no_grad()
def fuse_reductions(net: DeepLabV3Plus) -> None:
    """Fuse, in place, the two 1x1 convolutions before the decoder with its first one, if that is 1x1 as well."""
    joining = net.final[0]
    if not (isinstance(joining, JoiningConv2d) and joining.kernel_size == (1, 1)):
        return
    reductions = [net.bot_fine, net.bot_aspp]
    parts = joining.weight.split([conv.out_channels for conv in reductions], dim=1)
    products = [part.flatten(1) @ conv.weight.flatten(1) for part, conv in zip(parts, reductions, strict=True)]
    fused = JoiningConv2d(net.bot_fine.in_channels, net.bot_aspp.in_channels, joining.out_channels, 1)
    fused.weight = nn.Parameter(torch.cat(products, dim=1)[:, :, None, None])
    net.final[0], net.bot_fine, net.bot_aspp = fused, nn.Identity(), nn.Identity()  # type: ignore[assignment]


def store_weights_in(net: nn.Module, dtype: torch.dtype) -> None:
    """Store convolutions and linear layers in `dtype`, in place: autocast need not cast their weights per image."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(dtype)


def use_kn2row(net: DeepLabV3Plus) -> None:
    """Have the pyramid's atrous convolutions computed by `Kn2rowConv2d`, in place."""
    for branch in net.aspp.features:
        conv = branch.get_submodule("0")
        if isinstance(conv, nn.Conv2d) and conv.groups == 1 and max(conv.dilation) > 1:
            branch.set_submodule("0", Kn2rowConv2d(conv))


def fuse_activations(net: nn.Module) -> None:
    """Fuse every convolution that has a bias with the ReLU after it, in place."""
    modules = dict(net.named_modules())
    nodes = [node for node in ConvTracer().trace(net).nodes if node.op == "call_module"]
    num_calls = Counter(str(node.target) for node in nodes)
    for node in nodes:
        name, source = str(node.target), node.args[0]
        if not isinstance(modules[name], nn.ReLU) or num_calls[name] > 1:
            continue
        while isinstance(modules.get(str(source.target)), nn.Identity) and len(source.users) == 1:
            source = source.args[0]
        conv = modules.get(str(source.target))
        # Of depthwise convolutions PyTorch has its own kernels.
        if not isinstance(conv, nn.Conv2d) or isinstance(conv, DepthwiseConv2d) or conv.bias is None:
            continue
        if len(source.users) == 1 and num_calls[str(source.target)] == 1:
            net.set_submodule(str(source.target), ConvReLU(conv))
            net.set_submodule(name, nn.Identity())


def use_space_to_batch(net: DeepLabV3Plus) -> None:
    """Have the trunk's dilated convolutions with many output channels computed by `SpaceToBatchConv2d`, in place."""
    for name, layer in list(net.named_modules()):
        conv = layer.conv if isinstance(layer, ConvReLU) else layer
        if not (isinstance(conv, nn.Conv2d) and net.is_trunk_key(name)):
            continue
        if conv.dilation[0] > 1 and conv.groups == 1 and conv.out_channels >= MANY_CHANNELS:
            net.set_submodule(name, SpaceToBatchConv2d(layer))  # which leaves no dilation to its inner convolution


class ConvReLU(nn.Module):
    """Convolution, bias and ReLU in one pass; as separate layers, bias and ReLU read and write the map again."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """conv: has a bias; of a `JoiningConv2d`, the two inputs are concatenated."""
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """`x`: as that of the convolution."""
        conv = self.conv
        maps = (concatenate(x) if isinstance(x, tuple) else x).to(conv.weight.dtype)
        num_pixels = maps.numel() // conv.in_channels
        if not maps.is_cuda or num_pixels * max(conv.in_channels, conv.out_channels) > CUDNN_LIMIT:
            convolved: Tensor = conv(x)
            return convolved.relu_()
        return torch.cudnn_convolution_relu(
            maps, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups  # type: ignore[arg-type]
        )


class SpaceToBatchConv2d(nn.Module):
    """A convolution with dilation d as one without: it never combines pixels that are not a multiple of d apart.

    So each of the d x d grids of pixels is an image of its own. cuDNN 9's kernels for dilation take 1.4 to 1.7 times
    as long if there are 1024 output channels or more (LOG.md).
    """

    def __init__(self, layer: nn.Module) -> None:
        """layer: convolution or `ConvReLU` of stride 1, the same dilation both ways, and padding that keeps H and W."""
        super().__init__()
        conv = layer.conv if isinstance(layer, ConvReLU) else layer
        assert isinstance(conv, nn.Conv2d) and len(set(conv.dilation)) == 1
        self.step = conv.dilation[0]
        conv.padding, conv.dilation = tuple(k // 2 for k in conv.kernel_size), (1, 1)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W]."""
        return batch_to_space(self.layer(space_to_batch(x, self.step)), self.step, (x.shape[2], x.shape[3]))


def space_to_batch(x: Tensor, step: int) -> Tensor:
    """Every `step`th row and column as a map of its own: [B, C, H, W] -> [B * step², C, H / step, W / step].

    Zeros are added below and on the right if a side is not a multiple of `step`. The result is channels last.
    """
    below, right = -x.shape[2] % step, -x.shape[3] % step
    if torch.compiler.is_compiling() or below or right:  # compiled code is the same for every remainder
        x = F.pad(x, (0, right, 0, below))
    grids = x.permute(0, 2, 3, 1).unflatten(2, (-1, step)).unflatten(1, (-1, step))  # [B, H/s, s, W/s, s, C]
    return grids.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def batch_to_space(x: Tensor, step: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `space_to_batch`, cropped to `size`: [B * step², C, h, w] -> [B, C, H, W], channels last."""
    grids = x.permute(0, 2, 3, 1).unflatten(0, (-1, step, step))  # [B, s, s, h, w, C]
    whole = grids.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return whole[:, :, : size[0], : size[1]]


class Kn2rowConv2d(nn.Module):
    """A convolution in bfloat16 that keeps H and W, as one 1x1 convolution for all taps and a sum of its shifted parts.

    oneDNN's kernels for AMX lose most of their speed near padding, which is as wide as the dilation: 2048 channels to
    256 at 64x128, dilation 36, take 540 ms that way and 48 ms this way. In float32 or without AMX, oneDNN's kernels
    are faster. cuDNN 9 lacks Hopper kernels for large dilations: 4096 channels to 256 at 128x256 take 1.5 ms on an
    H200, and 0.84 ms this way. The taps' outputs are rounded to bfloat16 and summed in float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        """Replace `conv`, which must have stride 1, one group, and padding that keeps H and W."""
        super().__init__()
        assert type(conv) is nn.Conv2d, "a subclass may do more than convolve"
        self.kernel_size, self.dilation = list(conv.kernel_size), list(conv.dilation)
        of_taps = conv.weight.detach().permute(2, 3, 0, 1).flatten(0, 2)[:, :, None, None]
        self.weight = nn.Parameter(of_taps.to(torch.bfloat16))
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """`x`: [B, in_channels, H, W] bfloat16."""
        total: Tensor = sum_shifted(F.conv2d(x, self.weight), self.bias, self.kernel_size, self.dilation)
        return total


# Opaque to torch.compile, which would recompile for each map size, since that decides which shifted parts lie inside.
@torch.library.custom_op("segmentation::sum_shifted", mutates_args=())
def sum_shifted(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    """Shift the taps' outputs [B, taps * C, H, W], any float type, and sum in float32: [B, C, H, W] of that type.

    bias: [C], added to the sum.
    """
    return _sum_by_steps(taps, bias, kernel_size, dilation)


def _sum_by_steps(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    total = _like_one_tap(taps, bias, kernel_size, dilation).float().zero_()
    if bias is not None:
        total += bias.float()[:, None, None]
    parts = taps.unflatten(1, (-1, total.shape[1]))
    for number in range(parts.shape[1]):
        offset = divmod(number, kernel_size[1])
        shifts = [d * (o - k // 2) for d, o, k in zip(dilation, offset, kernel_size, strict=True)]
        if all(abs(shift) < side for shift, side in zip(shifts, taps.shape[2:], strict=True)):
            (to_rows, from_rows), (to_columns, from_columns) = map(_overlap, shifts, taps.shape[2:])
            total[:, :, to_rows, to_columns] += parts[:, number, :, from_rows, from_columns]
    return total.to(taps.dtype)


@sum_shifted.register_kernel("cuda")
def _sum_on_gpu(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    if problem := why_no_triton():
        warnings.warn(f"{problem}: the pyramid's taps are summed in plain PyTorch, slower.", stacklevel=2)
        return _sum_by_steps(taps, bias, kernel_size, dilation)
    from network.kn2row_triton import sum_in_one_pass

    with torch.cuda.device_of(taps):  # Triton launches on the current device, wherever the tensors are
        return sum_in_one_pass(taps, bias, _like_one_tap(taps, bias, kernel_size, dilation), kernel_size, dilation)


@sum_shifted.register_fake
def _like_one_tap(taps: Tensor, bias: Tensor | None, kernel_size: list[int], dilation: list[int]) -> Tensor:
    batch, channels, height, width = taps.shape
    shape = (batch, channels // (kernel_size[0] * kernel_size[1]), height, width)
    return torch.empty(shape, dtype=taps.dtype, device=taps.device, memory_format=torch.channels_last)


def _overlap(shift: int, side: int) -> tuple[slice, slice]:
    """For a map shifted back by `shift`: the target positions that it covers, and the source positions for them."""
    return slice(max(0, -shift), min(side, side - shift)), slice(max(0, shift), min(side, side + shift))


def fast_network(
    net: Network, device: torch.device, *, amp: torch.dtype | None = None, compile: bool = False
) -> nn.Module:
    """`net` made fast for evaluation, in place: layers folded, channels last, compiled on request.

    amp: the type that it will be autocast to; its weights are stored in that type, so that it runs in no other.
    Its logits stay small: the predictor upsamples them.
    """
    net.eval().upsamples = False
    if isinstance(net, DeepLabV3Plus):
        fuse_batch_norms(net)
        fuse_reductions(net)
        if amp is torch.bfloat16 and has_matrix_tiles(device):
            use_kn2row(net)
        if amp is torch.bfloat16 and is_hopper(device):
            use_kn2row(net)
            if not compile:  # which fuses activations itself
                fuse_activations(net)
            use_space_to_batch(net)
    if amp is not None:
        store_weights_in(net, amp)
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not compile:
        return net
    compiled = compile_for(net, device)
    return Frozen(compiled) if device.type == "cpu" else compiled


class Frozen(nn.Module):
    """A network compiled, at its first image, with its weights as constants, in a layout that suits the machine."""

    def __init__(self, compiled: nn.Module) -> None:
        super().__init__()
        self.net = compiled

    def forward(self, images: Tensor) -> Tensor:
        """The network's output, without gradients."""
        from torch._inductor import config  # takes half a second, so only with --compile

        # As an option of torch.compile it would come too late: tracing happens first and makes the weights inputs.
        with torch.no_grad(), config.patch(freezing=True):
            logits: Tensor = self.net(images)
        return logits


def has_matrix_tiles(device: torch.device) -> bool:
    """Whether the device is a CPU with AMX, which multiplies bfloat16 matrices many times as fast as float32 ones."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # private, so it may go
    return device.type == "cpu" and bool(supported and supported())


def is_hopper(device: torch.device) -> bool:
    """Whether the device is a GPU of NVIDIA's Hopper generation (H100, H200)."""
    if device.type != "cuda" or torch.version.cuda is None:  # PyTorch also calls AMD's GPUs "cuda"
        return False
    return torch.cuda.get_device_capability(device)[0] == 9
