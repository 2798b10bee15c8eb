"""The SDC network: displaced sampling, loss, the network itself, and what its files must hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from utils.checkpoint import Checkpoint, save_checkpoint
from video.build import build_flow
from video.displaced import displaced
from video.names import PREDICTION, RECONSTRUCTION, arch_name
from video.sdc import SDCNet, load_sdc, sdc_motion
from video.sdc_loss import sdc_loss

# FlowNetS's encoder and decoder, one level finer: (layer, output channels, input channels, kernel) at width 64.
LAYERS = (
    ("conv1.0", 64, 8, 7),
    ("conv2.0", 128, 64, 5),
    ("conv3.0", 256, 128, 5),
    ("conv3_1.0", 256, 256, 3),
    ("conv4.0", 512, 256, 3),
    ("conv4_1.0", 512, 512, 3),
    ("conv5.0", 512, 512, 3),
    ("conv5_1.0", 512, 512, 3),
    ("conv6.0", 1024, 512, 3),
    ("conv6_1.0", 1024, 1024, 3),
    ("deconv5.0", 512, 1024, 4),
    ("deconv4.0", 256, 1024, 4),
    ("deconv3.0", 128, 768, 4),
    ("deconv2.0", 64, 384, 4),
    ("deconv1.0", 32, 192, 4),
    ("deconv0.0", 16, 96, 4),
    ("final_flow", 2, 24, 3),
)


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
    assert displaced(image, constant(1, 0, 2, 3)).tolist() == [[[[2.0, 3.0, 3.0], [5.0, 6.0, 6.0]]]]
    assert displaced(image, constant(0, -1, 2, 3)).tolist() == [[[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]]
    assert displaced(image, constant(0.25, 0.5, 2, 3))[0, 0, 0, 0] == 1 + 0.25 * 1 + 0.5 * 3


def test_whole_pixels_are_fetched_exactly_however_large_the_picture():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 5, 2048)
    assert torch.equal(displaced(image, constant(0, 0, 5, 2048)), image)
    assert torch.equal(displaced(image, constant(-700, 2, 5, 2048))[..., :3, 700:], image[..., 2:, :1348])


def test_far_outside_is_the_border_and_a_motion_that_is_no_number_makes_no_colour():
    image = torch.arange(4.0).view(1, 1, 1, 4)
    motion = constant(0, 0, 1, 4)
    motion[0, 0, 0] = torch.tensor([1e9, -torch.inf, torch.inf, torch.nan])
    motion.requires_grad_()
    found = displaced(image, motion)
    assert found[0, 0, 0, :3].tolist() == [3.0, 0.0, 3.0]
    assert found[0, 0, 0, 3].isnan()
    found[0, 0, 0, :3].sum().backward()
    assert motion.grad[0, :, 0, :3].abs().sum() == 0


def test_each_image_of_a_batch_has_its_own_motion():
    image = torch.arange(8.0).view(2, 1, 1, 4)
    motion = torch.cat([constant(1, 0, 1, 4), constant(-1, 0, 1, 4)])
    assert displaced(image, motion).flatten(1).tolist() == [[1, 2, 3, 3], [4, 4, 5, 6]]


# A reach of 0 is left out: at a whole pixel the slope is that to one side or to the other.
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(2, 9),
    st.integers(2, 9),
    st.integers(0, 1000),
    st.floats(0.01, 20),
)
def test_sampling_and_both_gradients_are_grid_samples(batch, channels, height, width, seed, reach):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, channels, height, width, generator=generator, dtype=torch.float64, requires_grad=True)
    motion = reach * torch.randn(batch, 2, height, width, generator=generator, dtype=torch.float64)
    motion.requires_grad_()
    x = torch.arange(width) + motion[:, 0]
    y = torch.arange(height)[:, None] + motion[:, 1]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], 3)
    theirs = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    ours = displaced(image, motion)
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand(ours.shape, generator=generator, dtype=torch.float64)
    for mine, its in zip(
        torch.autograd.grad((ours * weights).sum(), (image, motion)),
        torch.autograd.grad((theirs * weights).sum(), (image, motion)),
        strict=True,
    ):
        torch.testing.assert_close(mine, its)


def test_gradients_pass_gradcheck():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    # Away from whole pixels, where the slope jumps; partly outside.
    motion = torch.randint(-3, 4, (2, 2, 4, 5)).double() + 0.2 + 0.6 * torch.rand(2, 2, 4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(displaced, (image, motion.requires_grad_()))


def test_a_motion_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"images \[1, 3, 4, 6\] need motion \[1, 2, 4, 6\], got \[1, 2, 4, 5\]"):
        displaced(torch.zeros(1, 3, 4, 6), torch.zeros(1, 2, 4, 5))


# --- loss -------------------------------------------------------------------------------------------------------


def test_a_perfect_prediction_by_a_motion_of_the_whole_picture_costs_nothing():
    picture = 255 * torch.rand(2, 3, 6, 7)
    assert [float(part) for part in sdc_loss(picture, picture, constant(5, -3, 6, 7, batch=2))] == [0, 0, 0, 0]


def test_a_picture_too_bright_by_a_fifth_costs_colour_alone():
    grey = torch.full((1, 3, 4, 4), 51.0)
    loss = sdc_loss(2 * grey, grey, constant(0, 0, 4, 4))
    assert float(loss.color) == pytest.approx(0.2)
    assert float(loss.gradient) == float(loss.smoothness) == 0
    assert float(loss.total) == pytest.approx(0.7 * 0.2)


def test_a_ramp_in_place_of_an_even_picture_costs_its_slope_once():
    ramp = 255 * torch.linspace(0, 1, 6).expand(1, 3, 4, 6)  # a fifth of white from column to column
    loss = sdc_loss(ramp, torch.zeros_like(ramp), constant(0, 0, 4, 6))
    assert float(loss.color) == pytest.approx(0.5)
    assert float(loss.gradient) == pytest.approx(0.2)
    assert float(loss.total) == pytest.approx(0.7 * 0.5 + 0.2 * 0.2)


def test_an_edge_the_wrong_way_round_is_no_match():
    edge = torch.tensor([0.0, 255.0]).expand(1, 1, 2, 2)
    assert float(sdc_loss(edge, edge.flip(3), constant(0, 0, 2, 2)).gradient) == pytest.approx(2)


def test_a_motion_that_grows_from_row_to_row_costs_its_growth():
    motion = constant(0, 0, 5, 3)
    motion[:, 1] = 0.5 * torch.arange(5.0)[:, None]  # v alone, so half of the differences
    loss = sdc_loss(torch.zeros(1, 3, 5, 3), torch.zeros(1, 3, 5, 3), motion)
    assert float(loss.smoothness) == pytest.approx(0.25)
    assert float(loss.total) == pytest.approx(0.025)


# --- network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 32, 8])
def test_keys_and_shapes_are_those_of_the_architecture_at_every_width(width):
    with torch.device("meta"):
        state = SDCNet(width).state_dict()

    def at_width(channels: int) -> int:
        return channels * width // 64

    wanted = {"flow_mean": (1, 2, 1, 1), "flow_std": (1, 2, 1, 1)}
    for name, outputs, inputs, kernel in LAYERS:
        outputs = outputs if name == "final_flow" else at_width(outputs)
        inputs = 8 if name == "conv1.0" else 8 + at_width(16) if name == "final_flow" else at_width(inputs)
        channels = (inputs, outputs) if name.startswith("deconv") else (outputs, inputs)
        wanted |= {f"{name}.weight": (*channels, kernel, kernel), f"{name}.bias": (outputs,)}
    assert {key: tuple(value.shape) for key, value in state.items()} == wanted


def test_the_number_of_parameters_is_what_the_layers_add_up_to():
    with torch.device("meta"):
        net = SDCNet(64)
    counted = sum(outputs * inputs * kernel**2 + outputs for _, outputs, inputs, kernel in LAYERS)
    assert sum(p.numel() for p in net.parameters()) == counted == 38_730_338


@pytest.mark.parametrize(("height", "width"), [(64, 128), (65, 90), (1, 1), (7, 200)])
def test_a_new_network_gives_back_the_flow_of_pictures_of_any_size(height, width):
    torch.manual_seed(0)
    earlier, later = 255 * torch.rand(2, 2, 3, height, width)
    flow = 10 * torch.randn(2, 2, height, width)
    torch.testing.assert_close(SDCNet(4)(earlier, later, flow), flow, atol=1e-4, rtol=0)


def test_sides_are_padded_to_multiples_of_64_by_their_border_and_cut_again():
    net = changed(SDCNet(4))
    torch.manual_seed(0)
    pictures = 255 * torch.rand(2, 1, 3, 64, 1)  # each row even, so that their mean does not change with the width
    flow = torch.randn(1, 2, 64, 90)
    cut = net(*pictures.expand(-1, -1, -1, -1, 90), flow)
    whole = net(*pictures.expand(-1, -1, -1, -1, 128), F.pad(flow, (0, 38, 0, 0), mode="replicate"))
    torch.testing.assert_close(cut, whole[..., :90], atol=1e-4, rtol=1e-4)


def test_light_that_is_brighter_in_both_frames_does_not_change_the_motion():
    net = changed(SDCNet(4))
    torch.manual_seed(0)
    earlier, later = 200 * torch.rand(2, 1, 3, 64, 64)
    flow = torch.randn(1, 2, 64, 64)
    torch.testing.assert_close(net(earlier, later, flow), net(earlier + 40, later + 40, flow), atol=1e-3, rtol=0)
    assert (net(earlier, later, flow) - net(earlier, later + 40, flow)).abs().max() > 0.1


def test_every_parameter_learns_once_the_last_layer_listens():
    net = changed(SDCNet(4)).train()
    earlier, later = 255 * torch.rand(2, 1, 3, 64, 64)
    motion = net(earlier, later, torch.randn(1, 2, 64, 64))
    sdc_loss(displaced(earlier, motion), later, motion).total.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_under_autocast_the_motion_stays_in_float32():
    flow = constant(20.03, -7.51, 64, 64)
    picture = torch.zeros(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        motion = SDCNet(4)(picture, picture, flow)
    torch.testing.assert_close(motion, flow, atol=1e-4, rtol=0)


def test_a_width_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="--width must be a positive multiple of 4, got 6"):
        SDCNet(6)


# --- files, and the flow estimator ------------------------------------------------------------------------------


def saved(path, net, mode=RECONSTRUCTION):
    save_checkpoint(path, Checkpoint(state_dict=net.state_dict(), arch=arch_name(mode)))
    return path


def test_a_checkpoint_says_its_width_and_gives_the_same_motion(tmp_path):
    net = changed(SDCNet(8))
    loaded = load_sdc(saved(tmp_path / "sdc.pth", net))
    assert loaded.width == 8
    assert not loaded.training
    pictures = 255 * torch.rand(2, 1, 3, 64, 64)
    assert torch.equal(loaded(*pictures, torch.zeros(1, 2, 64, 64)), net(*pictures, torch.zeros(1, 2, 64, 64)))


def test_a_published_file_with_its_flow_network_and_its_own_scale_loads(tmp_path):
    state = {f"module.{key}": value for key, value in changed(SDCNet(4)).state_dict().items()}
    state |= {"module.flow_std": torch.full((1, 2, 1, 1), 3.0), "module.flownet2.conv1.0.weight": torch.zeros(3)}
    torch.save({"epoch": 7, "state_dict": state}, tmp_path / "published.pth.tar")
    assert load_sdc(tmp_path / "published.pth.tar", mode=PREDICTION).flow_std.flatten().tolist() == [3.0, 3.0]
    for key in ("module.flow_std", "module.flow_mean"):
        del state[key]
    torch.save({"state_dict": state}, tmp_path / "published.pth.tar")
    assert torch.equal(load_sdc(tmp_path / "published.pth.tar").flow_std, SDCNet(4).flow_std)


def test_a_file_of_something_else_is_refused_and_told_why(tmp_path, light_checkpoint):
    with pytest.raises(ValueError, match="holds DeepMNV3V3PlusD_m1; expected SDCNet_reconstruction"):
        load_sdc(light_checkpoint)
    with pytest.raises(ValueError, match="holds SDCNet_prediction; expected SDCNet_reconstruction"):
        load_sdc(saved(tmp_path / "prediction.pth", SDCNet(4), PREDICTION))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth: not the weights of an SDC-Net .* found nothing"):
        load_sdc(tmp_path / "other.pth")
    longer = SDCNet(4).state_dict() | {"conv1.0.weight": torch.zeros(4, 13, 7, 7)}
    torch.save(longer, tmp_path / "three_frames.pth")
    with pytest.raises(ValueError, match=r"should be \[width, 8, 7, 7\], found \[4, 13, 7, 7\]"):
        load_sdc(tmp_path / "three_frames.pth")
    half = {key: value for key, value in SDCNet(4).state_dict().items() if not key.startswith("deconv")}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half.pth: not the weights of an SDC-Net: .* 12 missing \(deconv5"):
        load_sdc(tmp_path / "half.pth")


def test_flow_sdc_refines_dis_from_image_to_other(tmp_path):
    rng = np.random.default_rng(0)
    wall = np.kron(rng.integers(0, 255, (20, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    image, other = wall[:64, 5:85], wall[:64, :80]  # what is at x in `image` is at x + 5 in `other`
    flow = build_flow("sdc", weights=str(saved(tmp_path / "sdc.pth", SDCNet(4))))(image, other)
    assert flow.shape == (64, 80, 2)
    assert flow.dtype == np.float32
    assert np.median(flow[..., 0]) == pytest.approx(5, abs=0.1)
    np.testing.assert_allclose(flow, build_flow("dis")(image, other), atol=1e-3)


def test_frames_and_flow_of_different_sizes_are_refused():
    picture = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r"must have the same size, got \(4, 6, 3\), \(4, 6, 3\) and \(4, 5, 2\)"):
        sdc_motion(SDCNet(4), picture, picture, np.zeros((4, 5, 2), np.float32))
