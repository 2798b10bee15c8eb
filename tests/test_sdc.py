"""The SDC network: displaced sampling, loss, the network itself, and what its files must hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from network.checkpoint import Checkpoint, save_checkpoint
from tests.golden import parity_fixtures as fixtures
from video.flow import build_flow
from video.sdc import (
    BUFFERS,
    NUM_FRAMES,
    PREDICTION,
    RECONSTRUCTION,
    SDCNet,
    displace,
    load_sdc,
    sdc_loss,
)

GOLDEN = Path(__file__).parent / "golden"
MODES = tuple(NUM_FRAMES)


def constant(u: float, v: float, height: int, width: int, batch: int = 1) -> torch.Tensor:
    """The motion of a picture that moves as a whole."""
    return torch.tensor([float(u), float(v)]).view(1, 2, 1, 1).expand(batch, 2, height, width).clone()


def changed(net: SDCNet) -> SDCNet:
    """The network as training might leave it: its last layer listens to all features."""
    torch.manual_seed(1)
    nn.init.normal_(net.final_flow.weight, std=0.05)
    return net.eval()


# --- displaced sampling -----------------------------------------------------------------------------------------


def test_a_motion_of_one_pixel_to_the_right_fetches_the_right_neighbour_and_the_border_stands():
    image = torch.tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    assert displace(image, constant(1, 0, 2, 3)).tolist() == [[[[2.0, 3.0, 3.0], [5.0, 6.0, 6.0]]]]
    assert displace(image, constant(0, -1, 2, 3)).tolist() == [[[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]]
    assert displace(image, constant(0.25, 0.5, 2, 3))[0, 0, 0, 0] == 1 + 0.25 * 1 + 0.5 * 3


def test_whole_pixels_are_fetched_exactly_however_large_the_picture():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 5, 2048)
    assert torch.equal(displace(image, constant(0, 0, 5, 2048)), image)
    assert torch.equal(displace(image, constant(-700, 2, 5, 2048))[..., :3, 700:], image[..., 2:, :1348])


def test_far_outside_is_the_border_and_pulls_no_motion():
    image = torch.arange(4.0).view(1, 1, 1, 4)
    motion = constant(0, 0, 1, 4)
    motion[0, 0, 0] = torch.tensor([1e9, -torch.inf, torch.inf, 100.0])
    motion.requires_grad_()
    found = displace(image, motion)
    assert found[0, 0, 0].tolist() == [3.0, 0.0, 3.0, 3.0]
    found.sum().backward()
    assert motion.grad.abs().sum() == 0


def test_each_image_of_a_batch_has_its_own_motion():
    image = torch.arange(8.0).view(2, 1, 1, 4)
    motion = torch.cat([constant(1, 0, 1, 4), constant(-1, 0, 1, 4)])
    assert displace(image, motion).flatten(1).tolist() == [[1, 2, 3, 3], [4, 4, 5, 6]]


# --- loss -------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_by_a_motion_of_the_whole_picture_costs_nothing():
    picture = 255 * torch.rand(2, 3, 6, 7)
    loss, terms = sdc_loss(picture, picture, constant(5, -3, 6, 7, batch=2))
    assert float(loss) == 0 == sum(map(float, terms.values()))


def test_a_picture_too_bright_by_a_fifth_costs_colour_alone():
    grey = torch.full((1, 3, 4, 4), 51.0)
    loss, terms = sdc_loss(2 * grey, grey, constant(0, 0, 4, 4))
    assert float(terms["color"]) == pytest.approx(0.2)
    assert float(terms["gradient"]) == float(terms["smoothness"]) == 0
    assert float(loss) == pytest.approx(0.7 * 0.2)


def test_a_ramp_in_place_of_an_even_picture_costs_its_slope_in_grey_levels():
    ramp = 255 * torch.linspace(0, 1, 6).expand(1, 3, 4, 6)  # a fifth of white from column to column
    loss, terms = sdc_loss(ramp, torch.zeros_like(ramp), constant(0, 0, 4, 6))
    assert float(terms["color"]) == pytest.approx(0.5)
    assert float(terms["gradient"]) == pytest.approx(51)
    assert float(loss) == pytest.approx(0.7 * 0.5 + 0.2 * 51)


def test_an_edge_the_wrong_way_round_has_the_right_gradient():
    edge = torch.tensor([0.0, 255.0]).expand(1, 1, 2, 2)
    assert float(sdc_loss(edge, edge.flip(3), constant(0, 0, 2, 2))[1]["gradient"]) == 0


def test_a_motion_that_grows_from_row_to_row_costs_its_growth():
    motion = constant(0, 0, 5, 3)
    motion[:, 1] = 0.5 * torch.arange(5.0)[:, None]  # v alone, so half of the differences
    loss, terms = sdc_loss(torch.zeros(1, 3, 5, 3), torch.zeros(1, 3, 5, 3), motion)
    assert float(terms["smoothness"]) == pytest.approx(0.25)
    assert float(loss) == pytest.approx(0.025)


# --- network ----------------------------------------------------------------------------------------------------


def recorded(mode: str) -> tuple[SDCNet, torch.Tensor, torch.Tensor]:
    """The network with the weights of the recorded figures, and their frames [1, 3, 3, 64, 128] RGB and flows."""
    net = SDCNet(mode).eval()
    own = net.state_dict()
    net.load_state_dict(fixtures.state_dict(own) | {key: own[key] for key in BUFFERS})
    frames, flows = (
        np.stack([fixtures.unit(f"sdc-{name}-{i}", channels * 64 * 128) for i in range(count)])
        for name, channels, count in (("frame", 3, 3), ("flow", 2, 2))
    )
    bgr = torch.from_numpy((frames + 0.5) * 255).float().view(1, 3, 3, 64, 128)
    return net, bgr.flip(2), torch.from_numpy(flows * 8).float().view(1, 2, 2, 64, 128)


@pytest.mark.parametrize("mode", MODES)
def test_keys_and_shapes_are_the_published_ones(mode):
    with torch.device("meta"):
        state = SDCNet(mode).state_dict()
    rows = [line.split("\t") for line in (GOLDEN / "sdc_keys.tsv").read_text().splitlines()]
    assert [[mode, key, str(tuple(value.shape))] for key, value in state.items()] == [r for r in rows if r[0] == mode]


@pytest.mark.parametrize("mode", MODES)
@torch.inference_mode()
def test_motion_and_losses_are_those_of_the_published_network(mode):
    net, frames, flows = recorded(mode)
    motion = net(frames[:, : net.num_frames], flows[:, : net.num_frames - 1])
    loss, terms = sdc_loss(displace(frames[:, 1], motion), frames[:, 2], motion)
    with np.load(GOLDEN / f"sdc_{mode}_64x128.npz") as figures:
        np.testing.assert_allclose(motion[0, :, ::8, ::8], figures["motion"], atol=1e-4)
        np.testing.assert_allclose([motion.mean(), motion.std()], figures["motion_mean_std"], rtol=1e-4)
        parts = [*terms.values(), loss]
        np.testing.assert_allclose(parts, figures["losses"], rtol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [4, 8])
def test_a_narrower_network_has_the_same_keys_and_all_channels_in_proportion(mode, width):
    with torch.device("meta"):
        narrow, whole = SDCNet(mode, width).state_dict(), SDCNet(mode).state_dict()
    assert narrow.keys() == whole.keys()
    assert narrow["conv6_1.0.weight"].shape == (width * 16, width * 16, 3, 3)
    assert narrow["final_flow.weight"].shape[1] == whole["final_flow.weight"].shape[1] - 8 + width // 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("height", "width"), [(64, 128), (65, 90), (1, 1), (7, 200)])
def test_a_new_network_gives_back_the_last_flow_of_pictures_of_any_size(mode, height, width):
    torch.manual_seed(0)
    frames = 255 * torch.rand(2, NUM_FRAMES[mode], 3, height, width)
    flows = 10 * torch.randn(2, NUM_FRAMES[mode] - 1, 2, height, width)
    torch.testing.assert_close(SDCNet(mode, 4)(frames, flows), flows[:, -1], atol=1e-4, rtol=0)


def test_sides_are_padded_to_multiples_of_64_by_their_border_and_cut_again():
    net = changed(SDCNet(width=4))
    torch.manual_seed(0)
    frames = 255 * torch.rand(1, 3, 3, 64, 1)  # each row even, so that their mean does not change with the width
    flows = torch.randn(1, 2, 2, 64, 90)
    cut = net(frames.expand(-1, -1, -1, -1, 90), flows)
    whole = net(frames.expand(-1, -1, -1, -1, 128), F.pad(flows, (0, 38, 0, 0, 0, 0), mode="replicate"))
    torch.testing.assert_close(cut, whole[..., :90], atol=1e-4, rtol=1e-4)


def test_light_that_is_brighter_in_all_frames_does_not_change_the_motion():
    net = changed(SDCNet(width=4))
    torch.manual_seed(0)
    frames = 200 * torch.rand(1, 3, 3, 64, 64)
    flows = torch.randn(1, 2, 2, 64, 64)
    torch.testing.assert_close(net(frames, flows), net(frames + 40, flows), atol=1e-3, rtol=0)
    brighter_at_the_end = frames + torch.tensor([0, 0, 40]).view(1, 3, 1, 1, 1)
    assert (net(frames, flows) - net(brighter_at_the_end, flows)).abs().max() > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_learns_once_the_last_layer_listens(mode):
    net = changed(SDCNet(mode, 4)).train()
    frames = 255 * torch.rand(1, 3, 3, 64, 64)
    motion = net(frames[:, : net.num_frames], torch.randn(1, net.num_frames - 1, 2, 64, 64))
    sdc_loss(displace(frames[:, 1], motion), frames[:, 2], motion)[0].backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_under_autocast_the_motion_stays_in_float32():
    flow = constant(20.03, -7.51, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        motion = SDCNet(PREDICTION, 4)(torch.zeros(1, 2, 3, 64, 64), flow[:, None])
    torch.testing.assert_close(motion, flow, atol=1e-4, rtol=0)


def test_a_width_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="--width must be a positive multiple of 4, got 6"):
        SDCNet(width=6)


# --- files, and the flow estimator ------------------------------------------------------------------------------


def saved(path, net, mode=RECONSTRUCTION):
    save_checkpoint(path, Checkpoint(state_dict=net.state_dict(), arch=f"SDCNet_{mode}"))
    return path


def test_a_checkpoint_says_its_width_and_gives_the_same_motion(tmp_path):
    net = changed(SDCNet(width=8))
    loaded = load_sdc(saved(tmp_path / "sdc.pth", net))
    assert loaded.width == 8
    assert not loaded.training
    frames, flows = 255 * torch.rand(1, 3, 3, 64, 64), torch.zeros(1, 2, 2, 64, 64)
    assert torch.equal(loaded(frames, flows), net(frames, flows))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_file_loads_with_its_flow_network_and_its_own_scale(tmp_path, mode, prefix):
    net = changed(SDCNet(mode, 4))
    flow_network = {"flownet2.flownetc.conv1.0.weight": torch.zeros(64, 3, 7, 7), "flownet2.s.x": torch.ones(1)}
    own = net.state_dict() | {"flow_std": torch.full((1, 2, 1, 1), 3.0), "rgb_mean": torch.full((1, 3, 1, 1), 109.9)}
    torch.save({"epoch": 7, "state_dict": {prefix + k: v for k, v in (flow_network | own).items()}}, tmp_path / "a.pth")
    loaded = load_sdc(tmp_path / "a.pth", mode=mode).state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(loaded[key], value) for key, value in own.items())


def test_a_file_without_the_scale_of_flows_has_the_published_one(tmp_path):
    net = SDCNet(width=4)
    torch.save({k: v for k, v in net.state_dict().items() if k not in BUFFERS}, tmp_path / "bare.pth")
    assert torch.equal(load_sdc(tmp_path / "bare.pth").flow_std, net.flow_std)


def test_a_file_of_something_else_is_refused_and_told_why(tmp_path, light_checkpoint):
    with pytest.raises(ValueError, match="holds DeepMNV3V3PlusD_m1; expected SDCNet_reconstruction"):
        load_sdc(light_checkpoint)
    with pytest.raises(ValueError, match="holds SDCNet_prediction; expected SDCNet_reconstruction"):
        load_sdc(saved(tmp_path / "prediction.pth", SDCNet(PREDICTION, 4), PREDICTION))
    torch.save(SDCNet(PREDICTION, 4).state_dict(), tmp_path / "published.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name in ("published.pth", "other.pth"):
        with pytest.raises(ValueError, match=rf"{name} holds other weights .*; expected SDCNet_reconstruction"):
            load_sdc(tmp_path / name)
    half = {key: value for key, value in SDCNet(width=4).state_dict().items() if not key.startswith("deconv")}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half.pth holds other weights \(.* 12 missing \(deconv5"):
        load_sdc(tmp_path / "half.pth")


def wall_seen_from(*lefts: int) -> list[np.ndarray]:
    """Pictures [64, 80, 3] of one wall, each beginning at this column of it."""
    tiles = np.random.default_rng(0).integers(0, 255, (20, 28, 3))
    wall = np.kron(tiles, np.ones((4, 4, 1))).astype(np.uint8)
    return [np.ascontiguousarray(wall[:64, left : left + 80]) for left in lefts]


def test_flow_sdc_refines_dis_from_image_to_other(tmp_path):
    image, other = wall_seen_from(10, 5)  # what is at x in `image` is at x + 5 in `other`
    estimate = build_flow("sdc", weights=str(saved(tmp_path / "sdc.pth", SDCNet(width=4))))
    flow = estimate(image, other)
    assert flow.shape == (64, 80, 2)
    assert flow.dtype == np.float32
    assert np.median(flow[..., 0]) == pytest.approx(5, abs=0.1)
    np.testing.assert_allclose(flow, build_flow("dis")(image, other), atol=1e-3)
