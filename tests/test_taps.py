"""Atrous convolutions summed tap by tap say what the usual ones say."""

import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from network.deepv3 import build_network
from network.fuse import Kn2rowConv2d, fast_network, sum_shifted, use_kn2row
from tests.conftest import ROOT

CPU = torch.device("cpu")


def conv(dilation: int, kernel: int = 3, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(4, 6, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)


def test_each_tap_adds_the_pixel_that_lies_the_dilation_away():
    plain = nn.Conv2d(1, 1, 3, padding=2, dilation=2, bias=False)
    nn.init.zeros_(plain.weight)
    plain.weight.data[0, 0, 0, 0], plain.weight.data[0, 0, 1, 2] = 1, 10  # up left, and right
    image = torch.arange(16.0).view(1, 1, 4, 4)
    expected = [[20, 30, 0, 0], [60, 70, 0, 0], [100, 110, 0, 1], [140, 150, 4, 5]]
    with torch.inference_mode():
        assert Kn2rowConv2d(plain)(image.bfloat16())[0, 0].tolist() == expected


SIDES = st.integers(1, 9)


@given(SIDES, SIDES, st.integers(1, 12), st.sampled_from([1, 3, 5]), st.booleans(), st.integers(1, 2))
def test_in_bfloat16_the_sum_of_taps_is_the_convolution(height, width, dilation, kernel, bias, batch):
    plain = conv(dilation, kernel, bias)
    images = torch.randn(batch, 4, height, width).bfloat16()
    with torch.inference_mode():
        expected = plain(images.float())
        with torch.autocast("cpu", torch.bfloat16):
            got = Kn2rowConv2d(plain)(images)
    assert got.dtype == torch.bfloat16
    assert (got - expected).abs().max() <= 0.02 * expected.abs().max()


@settings(max_examples=20)
@given(
    st.integers(1, 6), SIDES, st.integers(1, 5), st.sampled_from([1, 3]), st.booleans(), st.integers(1, 2),
    st.sampled_from([3, 130]),
)  # fmt: skip
def test_the_gpus_sum_of_taps_is_that_of_the_cpu(height, width, dilation, kernel, bias, batch, channels):
    pytest.importorskip("triton", reason="the kernel needs Triton, which is made for Linux")
    from network.kn2row_triton import sum_in_one_pass

    device = "cuda" if torch.cuda.is_available() else "cpu"
    taps = torch.randn(batch, kernel * kernel * channels, height, width, device=device).bfloat16()
    offset = torch.randn(channels, device=device).bfloat16() if bias else None
    out = torch.full((batch, channels, height, width), torch.nan, dtype=taps.dtype, device=device)
    out = out.contiguous(memory_format=torch.channels_last)
    got = sum_in_one_pass(taps, offset, out, [kernel, kernel], [dilation, 2 * dilation])
    expected = sum_shifted(taps.cpu(), offset.cpu() if bias else None, [kernel, kernel], [dilation, 2 * dilation])
    assert got.dtype == torch.bfloat16
    assert torch.allclose(got.cpu().float(), expected.float(), rtol=1e-2, atol=1e-2)


def test_the_gpus_sum_of_taps_can_be_compiled_where_there_is_no_gpu():
    pytest.importorskip("triton", reason="the kernel needs Triton, which is made for Linux")
    compiling = """
        from triton import compile
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from network.kn2row_triton import _sum_kernel

        sizes = {"HAS_BIAS": True, "ROWS": 3, "COLUMNS": 3, "PIXELS": 16, "CHANNELS": 128}
        kinds = {"taps": "*bf16", "bias": "*bf16", "out": "*bf16"}
        kinds |= {name: kinds.get(name, "constexpr" if name in sizes else "i32") for name in _sum_kernel.arg_names}
        kernel = compile(ASTSource(_sum_kernel, kinds, sizes), GPUTarget("cuda", 90, 32))
        assert len(kernel.asm["cubin"]) > 1000
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(compiling)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr


def test_a_network_with_its_pyramid_summed_by_taps_gives_the_same_logits_in_bfloat16():
    torch.manual_seed(0)
    net = build_network("DeepR18V3PlusD_m1", 5).eval()
    by_taps = copy.deepcopy(net)
    use_kn2row(by_taps)
    images = torch.randn(1, 3, 256, 192)
    with torch.inference_mode():
        exact = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            usual, summed = net(images), by_taps(images)
    assert not torch.equal(usual, summed)  # so it did compute otherwise
    assert (summed - exact).abs().mean() <= 1.5 * (usual - exact).abs().mean()


@pytest.mark.parametrize(
    ("has_tiles", "amp", "kind"),
    [(True, torch.bfloat16, Kn2rowConv2d), (True, None, nn.Conv2d), (False, torch.bfloat16, nn.Conv2d)],
)
def test_only_in_bfloat16_where_the_cpu_has_matrix_tiles_a_fast_network_sums_by_taps(monkeypatch, has_tiles, amp, kind):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_tiles, raising=False)
    net = fast_network(build_network("DeepR18V3PlusD_m1", 5), CPU, amp=amp)
    assert [type(branch[0]) for branch in net.aspp.features] == [nn.Conv2d, kind, kind, kind]


@pytest.mark.slow
def test_a_compiled_network_summed_by_taps_is_not_compiled_for_every_size():
    torch.manual_seed(0)
    net = build_network("DeepR18V3PlusD_m1", 5).eval()
    use_kn2row(net)
    counting = CompileCounterWithBackend("inductor")
    made = torch.compile(net, backend=counting)
    for height, width in ((64, 128), (96, 160), (128, 192), (160, 256), (320, 312)):
        images = torch.randn(1, 3, height, width)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            assert (made(images) - net(images)).abs().max() <= 0.05 * net(images).abs().max()
    assert counting.frame_count == 2
