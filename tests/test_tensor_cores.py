"""Convolutions in the forms that suit a GPU's tensor cores say what the usual ones say; on a GPU: tests/test_gpu.py."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from network.deepv3 import build_network
from network.fuse import (
    ConvReLU,
    SpaceToBatchConv2d,
    batch_to_space,
    fuse_activations,
    fuse_batch_norms,
    space_to_batch,
    use_kn2row,
    use_space_to_batch,
)
from tests.conftest import as_if_trained

SIDES = st.integers(1, 13)


def test_split_by_two_puts_even_and_odd_rows_and_columns_apart():
    x = torch.arange(15.0).view(1, 1, 3, 5)
    parts = space_to_batch(x, 2)
    assert parts.tolist() == [
        [[[0, 2, 4], [10, 12, 14]]], [[[1, 3, 0], [11, 13, 0]]], [[[5, 7, 9], [0, 0, 0]]], [[[6, 8, 0], [0, 0, 0]]],
    ]  # fmt: skip
    assert torch.equal(batch_to_space(parts, 2, (3, 5)), x)


@given(SIDES, SIDES, st.integers(2, 4), st.sampled_from([1, 3, 5]), st.integers(1, 2))
def test_a_split_convolution_is_the_dilated_one_at_every_size(height, width, dilation, kernel, batch):
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, kernel, padding=dilation * (kernel // 2), dilation=dilation).double()
    images = torch.randn(batch, 3, height, width, dtype=torch.float64)
    with torch.inference_mode():
        expected = plain(images)
        assert torch.allclose(SpaceToBatchConv2d(plain)(images), expected, atol=1e-12)


@pytest.mark.slow
def test_a_compiled_split_convolution_is_not_compiled_for_every_remainder():
    plain = nn.Conv2d(4, 6, 3, padding=4, dilation=4)
    counting = CompileCounterWithBackend("inductor")
    made = torch.compile(SpaceToBatchConv2d(copy.deepcopy(plain)), backend=counting)
    for size in ((64, 64), (65, 70), (66, 71), (97, 103), (68, 72), (68, 71), (67, 72), (99, 100)):
        images = torch.randn(1, 4, *size)
        with torch.inference_mode():
            assert torch.allclose(made(images), plain(images), atol=1e-5)
    assert counting.frame_count <= 3


def test_a_convolution_and_its_relu_become_one_where_nothing_else_reads_it():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.bare = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False)
            self.between, self.relu = nn.Identity(), nn.ReLU()
            self.relu_of_two, self.relu_of_bare = nn.ReLU(), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.two(self.relu(self.between(self.one(x))))
            return self.relu_of_two(y) + y + self.relu_of_bare(self.bare(x))

    net, x = Net(), torch.randn(1, 3, 5, 5)
    expected = net(x)
    fuse_activations(net)
    assert [type(net.one), type(net.two), type(net.bare)] == [ConvReLU, nn.Conv2d, nn.Conv2d]
    assert [type(net.relu), type(net.relu_of_two)] == [nn.Identity, nn.ReLU]
    assert torch.allclose(net(x), expected, atol=1e-6)


ARCHS = ["DeepWV3Plus", "DeepSRNX50V3PlusD_m1", "DeepR50V3PlusD_m1", "DeepMNV3V3PlusD_m1"]


@pytest.mark.parametrize("arch", ARCHS)
def test_in_bfloat16_they_are_as_right_as_before(arch):
    torch.manual_seed(0)
    net = as_if_trained(build_network(arch, 5).eval())
    fuse_batch_norms(net)
    suited, images = copy.deepcopy(net), torch.randn(1, 3, 96, 160)
    use_kn2row(suited)
    fuse_activations(suited)
    use_space_to_batch(suited)
    with torch.inference_mode():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            usual, ours = net(images), suited(images)
    assert (ours - exact).abs().mean() <= 1.5 * (usual - exact).abs().mean()
