"""Depthwise convolutions in bfloat16 on a CPU."""

import pytest
import torch

from network.blocks import DepthwiseConv2d


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), (5, 2, 1)])
def test_the_bf16_depthwise_gradients_are_those_of_the_plain_convolution(kernel, stride, dilation):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(96, kernel, stride, dilation)
    images = torch.randn(2, 96, 14, 17).to(torch.bfloat16)

    def gradients(of):
        x = images.clone().to(next(of.parameters()).dtype if of is exact else torch.bfloat16).requires_grad_()
        of.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=of is conv):
            out = of(x).float()
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        return x.grad.float(), of.weight.grad.float()

    exact = torch.nn.Conv2d(96, 96, kernel, stride, conv.padding, dilation, 96, bias=False).double()
    exact.load_state_dict({"weight": conv.weight.to(torch.bfloat16).double()})
    for ours, right in zip(gradients(conv), gradients(exact), strict=True):
        assert (ours - right).abs().max() <= 0.01 * right.abs().max()  # bfloat16 keeps 8 bits


def test_depthwise_convolutions_take_the_fast_route_only_where_it_is_one():
    conv = DepthwiseConv2d(8, 3)
    images = torch.randn(1, 8, 6, 6)
    assert type(conv(images.bfloat16()).grad_fn).__name__ == "_Bf16DepthwiseBackward"
    assert type(conv(images).grad_fn).__name__ == "ConvolutionBackward0"
