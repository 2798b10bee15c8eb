"""Fold layers into their neighbours, for inference."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from network.blocks import JoiningConv2d
from network.deepv3 import DeepLabV3Plus


class ConvTracer(fx.Tracer):
    """Treats convolutions and batch norms as leaves, including this project's subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether the tracer treats `m` as a single operation."""
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def fold_batch_norms(net: nn.Module) -> int:
    """Fold, in place, every batch norm whose input is a convolution that feeds nothing else; return their number.

    In evaluation a batch norm is a factor and an offset per channel, which the convolution's weights can absorb:
    the same function in fewer passes over memory. Batch norms after a sum (pre-activation blocks) stay. The network
    must be in evaluation mode and can no longer be trained.
    """
    assert not net.training, "in training, a batch norm depends on its batch"
    modules = dict(net.named_modules())
    num_folded = 0
    for node in ConvTracer().trace(net).nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], nn.BatchNorm2d):
            continue
        (source,) = node.args
        conv = modules.get(source.target) if source.op == "call_module" else None
        if isinstance(conv, nn.Conv2d) and len(source.users) == 1:
            net.set_submodule(source.target, fuse_conv_bn_eval(conv, modules[node.target]))
            net.set_submodule(node.target, nn.Identity())
            num_folded += 1
    return num_folded


@torch.no_grad()
def fold_reductions(net: DeepLabV3Plus) -> None:
    """Fold, in place, the two 1x1 convolutions before the decoder into its first one, if that is 1x1 as well.

    Nothing lies between them, so their product is the same function. The network can no longer be trained.
    """
    joining = net.final[0]
    if not (isinstance(joining, JoiningConv2d) and joining.kernel_size == (1, 1)):
        return
    reductions = [net.bot_fine, net.bot_aspp]
    parts = joining.weight.split([conv.out_channels for conv in reductions], dim=1)
    products = [part.flatten(1) @ conv.weight.flatten(1) for part, conv in zip(parts, reductions, strict=True)]
    folded = JoiningConv2d(net.bot_fine.in_channels, net.bot_aspp.in_channels, joining.out_channels, 1)
    folded.weight = nn.Parameter(torch.cat(products, dim=1)[:, :, None, None])
    net.final[0] = folded
    for reduction in ("bot_fine", "bot_aspp"):
        net.set_submodule(reduction, nn.Identity())


def store_convolutions_in(net: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of all convolutions in `dtype`, in place: autocast need not cast them per image."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
