"""Large images: resized in parts, predicted in chunks, within memory that can be set."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from inference.predictor import Predictor
from inference.sliding_window import GIB, find_views, fit_chunk, resize
from tests.conftest import ROOT, needs_kept_memory

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "device": "cpu"}
CPU = torch.device("cpu")
SCALES = st.sampled_from([(1.0,), (0.5, 1.0, 2.0), (0.77, 1.3)])


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def pixel_net(num_classes: int = 3) -> nn.Module:
    """A network that looks at one pixel at a time."""
    torch.manual_seed(0)
    return nn.Conv2d(3, num_classes, 1)


# Resizing


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), new_height=st.integers(1, 80), new_width=st.integers(1, 80))
def test_resizing_is_the_well_known_antialiased_one(height, width, new_height, new_width):
    image = picture(height, width)
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    expected = [np.asarray(c.resize((new_width, new_height), Image.Resampling.BILINEAR)) for c in channels]
    whole = resize(torch.from_numpy(image), (new_height, new_width), slice(0, new_height), slice(0, new_width))
    np.testing.assert_allclose(whole.numpy(), np.stack(expected, 2), atol=2e-3)


@settings(deadline=None)
@given(data=st.data(), size=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_a_part_of_a_resized_picture_is_that_part_of_the_whole_bit_by_bit(data, size):
    image = torch.from_numpy(picture(17, 23))
    parts = []
    for side in size:
        start = data.draw(st.integers(0, side - 1))
        parts.append(slice(start, data.draw(st.integers(start + 1, side))))
    whole = resize(image, size, slice(0, size[0]), slice(0, size[1]))
    assert torch.equal(resize(image, size, *parts), whole[parts[0], parts[1]])


# Chunks


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 36), width=st.integers(1, 36), scales=SCALES, overlap=st.sampled_from([0.0, 1 / 3, 0.7]),
    spare=st.floats(0, 1), batch_size=st.integers(1, 5),
)  # fmt: skip
def test_labels_are_the_same_however_little_memory_there_is(height, width, scales, overlap, spare, batch_size):
    image, settings_ = picture(height, width), {"scales": scales, "tile": 12, "overlap": overlap, **PLAIN}
    roomy = Predictor(pixel_net(), 3, **settings_)
    seen = find_views((height, width), scales, 12, overlap, CPU)
    least = next(
        memory / GIB
        for memory in range(15_000, 10**7, 500)  # an image in one tile needs 13 kB: its logits are padded to 32x32
        if fits(seen, (height, width), memory / GIB)
    )  # fmt: skip
    tight = Predictor(pixel_net(), 3, batch_size=batch_size, max_memory=least * (1 + spare), **settings_)
    first, second = roomy.probabilities(image).topk(2, dim=0).values
    clear = first - second > 1e-5  # sums in another order may differ in the last bit
    assert torch.equal(tight.predict(image)[clear], roomy.predict(image)[clear])


def fits(seen: list, size: tuple[int, int], max_memory: float) -> bool:
    try:
        fit_chunk(seen, size, 3, max_memory)
    except ValueError:
        return False
    return True


def test_in_chunks_no_tile_is_shown_to_the_network_twice():
    shown = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            shown.append(len(images))
            return images[:, :2]

    image, settings_ = picture(300, 40), {"tile": 40, "overlap": 0.5, **PLAIN}
    Predictor(Spy(), 2, **settings_).predict(image)
    whole = sum(shown)
    shown.clear()
    few_rows = (4 * 300 * 40 + 60 * 40 * (2 * 4 + 8)) / GIB
    Predictor(Spy(), 2, max_memory=few_rows, **settings_).predict(image)
    assert sum(shown) == whole


def test_what_does_not_fit_into_the_memory_allowed_is_told_with_the_way_out():
    whole = Predictor(pixel_net(), 3, max_memory=1e-4, flip=True, **PLAIN)
    with pytest.raises(ValueError, match=r"--max_memory 0.0001: .* 200x100 pixels .* smaller tiles"):
        whole.predict(picture(100, 200))


@pytest.mark.parametrize("compute", [Predictor.predict, Predictor.probabilities])
@pytest.mark.parametrize("limit", [1e-5, 1e-4])  # too little for the pixels, and for the classes
def test_an_image_that_is_seen_once_and_whole_must_fit_too(compute, limit):
    with pytest.raises(ValueError, match=r"--max_memory \S+: .* 200x100 pixels .* smaller tiles"):
        compute(Predictor(pixel_net(), 3, max_memory=limit, **PLAIN), picture(100, 200))
    assert compute(Predictor(pixel_net(), 3, max_memory=1e-3, **PLAIN), picture(100, 200)).shape[-2:] == (100, 200)


PREDICT = """
import resource
import numpy as np, torch
from inference.predictor import Predictor
from network.deepv3 import build_network
from utils.device import keep_freed_memory
keep_freed_memory()  # as the commands do
predictor = Predictor({net}, {classes}, device="cpu", mean=(0.5,) * 3, std=(0.5,) * 3, **{how})
for size in {sizes}:
    assert predictor.predict(np.zeros((*size, 3), np.uint8)).shape == size
    print({measured} / 2**30)
"""
PEAK = "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10"
HELD = "int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize()"
SIXTY = {"net": "torch.nn.Conv2d(3, 60, 1)", "classes": 60}


def measure(measured, how, *sizes, net, classes):
    """GiB that a process takes, at most or now, after it has predicted pictures of each of these sizes."""
    script = PREDICT.format(net=net, classes=classes, how=how, sizes=sizes, measured=measured)
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(line) for line in ended.stdout.split()]


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with the module resource")
def test_the_memory_of_a_process_stays_within_what_is_allowed():
    # All its probabilities at once would take 0.89 GiB.
    start, sliced = measure(PEAK, {"tile": 128, "overlap": 0.2, "max_memory": 0.2}, (64, 64), (2000, 2000), **SIXTY)
    assert sliced - start < 0.25


@needs_kept_memory
def test_memory_of_a_large_picture_is_given_back_when_a_picture_of_another_size_follows():
    sizes = (64, 64), (2400, 2400), (64, 64)  # logits of 1.29 GiB
    before, large, after = measure(HELD, {"max_memory": 4}, *sizes, **SIXTY)
    assert large - before > 1.2
    assert after - before < 0.3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with the module resource")
def test_128_megapixels_and_19_classes_fit_into_6_gib_with_the_light_network():
    # Little overlap, so that the test takes minutes: 153 tiles.
    how, net = {"tile": 1024, "overlap": 0.02, "max_memory": 4}, 'build_network("DeepMNV3V3PlusD_m1", 19)'
    assert measure(PEAK, how, (8192, 16384), net=net, classes=19)[0] < 6
