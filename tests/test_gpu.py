"""What runs on a GPU says what the CPU says, and does not wait where it need not: python -m pytest -m gpu."""

import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import gpu as measured
from benchmarks.gpu import batch_of, own_step, own_training
from datasets.specs.registry import dataset_spec
from datasets.streets.write import write_streets
from inference.pipeline import Stopwatch, download
from inference.predictor import Predictor, most_probable
from network.deepv3 import DeepLabV3Plus, build_network
from network.fuse import ConvReLU, fast_network
from tests.conftest import as_if_trained
from tests.moving import frames_of
from utils.device import normalise, to_device, upsample
from utils.images import read_label_ids, write_image

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
USUAL = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
WAYS = [{}, {"flip": True, "scales": (0.5, 1.0, 1.75)}, {"tile": 64, "batch_size": 3, "scales": (1.0, 2.0)}]


@pytest.fixture(autouse=True)
def full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions on the GPU without TF32, so that they can be compared with those of the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Whatever makes the CPU wait for the GPU is an error while the test asks for it to be."""
    yield
    torch.cuda.set_sync_debug_mode("default")


def network(arch: str = "DeepMNV3V3PlusD_m1") -> DeepLabV3Plus:
    torch.manual_seed(0)
    net = build_network(arch, 7).eval()
    as_if_trained(net)
    return net


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (97, 131, 3), np.uint8)


@pytest.mark.parametrize("how", WAYS)
def test_probabilities_and_labels_are_those_of_the_cpu(how):
    here, there = (
        Predictor(fast_network(network(), device), 7, device=device, **USUAL, **how) for device in (CPU, GPU)
    )
    expected, got = here.probabilities(picture()), there.probabilities(picture()).cpu()
    assert (got - expected).abs().max() < 1e-3
    assert (there.predict(picture()).cpu() == here.predict(picture())).float().mean() > 0.999


@pytest.mark.parametrize("arch", ["DeepMNV3V3PlusD_m1", "DeepWV3Plus"])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("how", WAYS)
def test_no_step_of_a_prediction_waits_for_the_gpu(how, amp, arch, no_waiting):
    predictor = Predictor(fast_network(network(arch), GPU, amp=amp), 7, device=GPU, amp=amp, **USUAL, **how)
    predictor.predict(picture())
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    on_their_way = [download(predictor.predict(picture(seed))) for seed in range(3)]
    torch.cuda.set_sync_debug_mode("default")
    for seed, wait in enumerate(on_their_way):
        assert np.array_equal(wait(), predictor.predict(picture(seed)).cpu())


def test_normalising_waits_for_nothing(no_waiting):
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8, device=GPU)
    torch.cuda.set_sync_debug_mode("error")
    normalise(images, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize("flags", [[], ["--fp16"], ["--adam", "--ema", "0.99", "--clip_norm", "1"]])
def test_no_training_step_waits_for_the_gpu(flags, no_waiting):
    images, labels = batch_of(2, 64, GPU)
    training = own_training("DeepMNV3V3PlusD_m1", GPU, flags)
    step = own_step(training, images, labels)
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        step()


@pytest.mark.parametrize("way", ["train.py", "train.py --fp16"])
def test_fifty_fast_steps_learn_what_the_plain_recipe_learns(way):
    images, labels = batch_of(1, 64, GPU)  # of several, the published code mixes the weights
    plain = measured.plain_step("DeepMNV3V3PlusD_m1", images, labels, GPU)
    flags = ["--published_loss", *(measured.WAYS[way] or ())]
    fast = measured.build_step("DeepMNV3V3PlusD_m1", images, labels, GPU, flags)
    expected, got = (np.array([float(step()) for _ in range(50)]) for step in (plain, fast))
    for losses in (expected, got):
        assert losses[-5:].mean() < 0.9 * losses[:5].mean()
    assert np.abs(got - expected).mean() < 0.1 * expected.mean()  # float16 skips a step or two until its scale fits


def test_pictures_that_go_up_while_the_gpu_works_arrive_whole():
    pictures = [np.full((512, 512, 3), value, np.uint8) for value in range(40)]
    torch.cuda._sleep(100_000_000)
    sums = [to_device(one, GPU).long().sum() for one in pictures]  # each picture's memory is free for the next one
    assert [one.item() for one in sums] == [value * 512 * 512 * 3 for value in range(40)]


def test_a_stopwatch_counts_what_the_gpu_does_after_the_block():
    begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(200_000_000)  # until its clock has sped up
    begun.record()
    torch.cuda._sleep(200_000_000)
    done.record()
    done.synchronize()
    watch, start = Stopwatch(GPU), time.perf_counter()
    with watch.working():
        torch.cuda._sleep(200_000_000)
    work = begun.elapsed_time(done) / 1000
    assert time.perf_counter() - start < 0.5 * work
    assert watch.seconds == pytest.approx(work, rel=0.2)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 4)])
def test_a_convolution_joined_with_its_relu_has_bias_and_geometry(groups, stride, dilation):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 24, 3, stride, dilation, dilation, groups).to(GPU)
    images = torch.randn(2, 16, 19, 23, device=GPU)
    with torch.inference_mode():
        expected = plain(images).relu()
        assert torch.allclose(ConvReLU(plain)(images), expected, atol=1e-4)
        plain.bfloat16()
        assert (ConvReLU(plain)(images) - expected).abs().max() < 0.02 * expected.max()


def test_labels_of_a_large_picture_are_found_band_by_band(monkeypatch):
    logits = torch.randn(7, 12, 17, device=GPU)
    whole = most_probable(logits, (47, 66))
    monkeypatch.setattr("inference.predictor._WHOLE_GPU", 100)
    for band in (1, 2000):
        monkeypatch.setattr("inference.predictor._BAND_GPU", band)
        assert (most_probable(logits, (47, 66)) == whole).float().mean() > 0.999


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("arch", ["DeepMNV3V3PlusD_m1", "DeepSRNX50V3PlusD_m1", "DeepR50V3PlusD_m1", "DeepWV3Plus"])
def test_a_network_that_is_made_fast_in_bfloat16_is_as_right_as_one_that_is_autocast(arch, compile):
    net = network(arch).to(GPU, memory_format=torch.channels_last)
    images = torch.randn(8, 3, 160, 224, device=GPU).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        exact = net(images)
        with torch.autocast("cuda", torch.bfloat16):
            usual = net(images)
    made = fast_network(net, GPU, amp=torch.bfloat16, compile=compile)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        fast = upsample(made(images).float().contiguous(), (160, 224))
    # Random weights amplify rounding: between images the quotient is 0.5 to 3. Wrong layers make it 10 and more.
    assert (fast - exact).abs().mean() <= 3 * (usual - exact).abs().mean()


@pytest.mark.slow
def test_a_compiled_network_says_the_same():
    usual, compiled = (
        Predictor(fast_network(network(), GPU, compile=compile), 7, device=GPU, **USUAL) for compile in (False, True)
    )
    assert (compiled.probabilities(picture()) - usual.probabilities(picture())).abs().max() < 1e-4


# The commands


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn streets."""
    root = tmp_path_factory.mktemp("streets") / "streets"
    write_streets(root, num_train=6, num_val=4, num_test=0, height=96, width=128, num_workers=1)
    return root


@pytest.mark.parametrize("precision", ["--bf16", "--fp16", "--no-bf16"])
def test_a_network_is_trained_and_evaluated(precision, streets, command, tmp_path):
    trained = command(
        "train", "--dataset", "streets", "--dataset_dir", streets, "--arch", "DeepMNV3V3PlusD_m1", "--crop_size", 64,
        "--bs_mult", 2, "--max_epoch", 2, "--lr", 0.01, "--jointwtborder", "--class_uniform_pct", 0.5,
        "--ckpt", tmp_path / "runs", "--exp", "run", "--num_workers", 2, "--device", "cuda", precision,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    checkpoint = next((tmp_path / "runs").rglob("best.pth"))
    folders = {}
    for device in ("cpu", "cuda"):
        folders[device] = tmp_path / device
        ended = command(
            "eval", "--snapshot", checkpoint, "--dataset_dir", streets, "--ckpt_path", folders[device],
            "--scales", "0.5,1", "--dump_images", "--device", device,
        )  # fmt: skip
        assert ended.code == 0, ended.err
    scores = [json.loads(next(folder.rglob("metrics.json")).read_text()) for folder in folders.values()]
    assert scores[0]["mean_iou"] == pytest.approx(scores[1]["mean_iou"], abs=0.01)
    for here in folders["cpu"].rglob("pred/**/*.png"):
        there = folders["cuda"] / here.relative_to(folders["cpu"])
        assert np.mean(read_label_ids(here) == read_label_ids(there)) > 0.99


def test_a_folder_is_segmented(light_checkpoint, command, tmp_path):
    for seed in range(5):
        write_image(tmp_path / "photos" / f"{seed}.png", picture(seed))
    ids = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        ended = command(
            "demo_folder", "--demo-folder", tmp_path / "photos", "--snapshot", light_checkpoint, "--save-dir", out,
            "--device", device,
        )  # fmt: skip
        assert ended.code == 0, ended.err
        ids[device] = [read_label_ids(path) for path in sorted(out.rglob("*_ids.png"))]
    assert len(ids["cuda"]) == 5
    for here, there in zip(ids["cpu"], ids["cuda"], strict=True):
        assert np.mean(here == there) > 0.99


@pytest.mark.parametrize("temporal", [(), ("--temporal",)])
def test_a_film_keeps_its_frames(temporal, light_checkpoint, command, tmp_path):
    from utils.video_io import new_video

    with new_video(tmp_path / "drive.mp4", 10, (128, 96)) as write_frame:
        for seed in range(7):
            write_frame(picture(seed)[:96, :128])
    names, shares = dataset_spec("camvid").class_names, []
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        flags = ("--snapshot", light_checkpoint, "--save-dir", out, "--device", device, *temporal)
        ended = command("demo", "--demo-video", tmp_path / "drive.mp4", *flags)
        assert ended.code == 0, ended.err
        assert len(frames_of(out / "drive_overlay.mp4")[0]) == 7
        with (out / "drive_class_shares.csv").open() as file:
            shares.append([[float(row[name]) for name in names] for row in csv.DictReader(file)])
    assert len(shares[0]) == 7
    assert np.allclose(*shares, atol=0.5)  # percent
