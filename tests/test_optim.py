"""Optimizer, learning rate, its clock, and the average of the weights."""

import re

import pytest
import torch

from config import OptimConfig, TrainConfig
from tests.networks import tiny_network, trunk_parameters
from training.loop import Progress, remedy
from training.optim import WeightAverage, build_optimizer, build_schedule, set_lr
from utils.flags import make_parser
from video.settings import VideoTrainConfig


def test_adam_wins_over_sgd_and_no_optimizer_at_all_is_an_error():
    net = tiny_network()
    assert isinstance(build_optimizer(OptimConfig(), net), torch.optim.SGD)
    for sgd in (True, False):
        assert isinstance(build_optimizer(OptimConfig(sgd=sgd, adam=True), net), torch.optim.AdamW)
    with pytest.raises(ValueError, match="--no-sgd leaves no optimizer; choose the other one with --adam"):
        build_optimizer(OptimConfig(sgd=False), net)


@pytest.mark.parametrize("adam", [False, True])
def test_the_trunk_learns_at_its_own_rate(adam):
    net = tiny_network()
    optimizer = build_optimizer(OptimConfig(lr=0.1, trunk_lr=0.25, adam=adam), net)
    set_lr(optimizer, 0.08)
    trunk = {id(parameter) for parameter in trunk_parameters(net)}
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(net.parameters()))
    assert all(rate == pytest.approx(0.02 if key in trunk else 0.08) for key, rate in rates.items())


def test_poly_starts_at_lr_and_the_last_step_is_not_at_zero():
    lr_at = build_schedule(OptimConfig(lr=0.1), max_epoch=10, rlx_off_epoch=-1)
    assert lr_at(0.0) == 0.1
    assert lr_at(5.0) == pytest.approx(0.05)
    assert lr_at(9.9) > 0


def test_scl_poly_restarts_exactly_where_the_relaxation_ends():
    config = OptimConfig(lr=0.1, lr_schedule="scl-poly", rescale=0.5, repoly=2.0)
    lr_at = build_schedule(config, max_epoch=20, rlx_off_epoch=10)
    assert lr_at(9.999) == pytest.approx(0.05, rel=1e-3)
    assert lr_at(10.0) == pytest.approx(0.05)
    assert lr_at(15.0) == pytest.approx(0.05 * 0.25)


def test_scl_poly_without_its_epoch_is_an_error():
    with pytest.raises(ValueError, match="--rlx_off_epoch"):
        build_schedule(OptimConfig(lr_schedule="scl-poly"), max_epoch=20, rlx_off_epoch=-1)


def test_warming_up_joins_the_schedule_without_a_jump():
    lr_at = build_schedule(OptimConfig(lr=0.1, warmup_epochs=2), max_epoch=10, rlx_off_epoch=-1)
    assert 0 < lr_at(0.0) < 0.001
    assert lr_at(1.0) == pytest.approx(0.045, rel=0.01)  # half of what poly says
    assert lr_at(1.9999) == pytest.approx(lr_at(2.0), rel=1e-3)
    assert lr_at(2.0) == pytest.approx(0.08)


def test_with_max_minutes_the_clock_drives_the_schedule(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("training.loop.time.monotonic", lambda: now[0])
    progress = Progress(max_epoch=100, max_minutes=10, minutes_before=5)
    progress.agree()
    assert (progress.schedule(0), progress.schedule(70), progress.is_over()) == (50, 70, False)
    now[0] += 2.5 * 60
    assert (progress.agree(7), progress.schedule(0)) == (7, 75)
    now[0] += 2.5 * 60
    assert progress.schedule(0) == 75, "until the processes agree on another time"
    progress.agree()
    assert (progress.schedule(0), progress.minutes(), progress.is_over()) == (100, 10, True)
    untimed = Progress(100, epoch=3, minutes_before=5)
    assert (untimed.schedule(0.5), untimed.is_over()) == (3.5, False)


def test_the_average_is_a_running_mean_that_forgets_the_start_first():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.0)
    average = WeightAverage(net, decay=0.5)
    torch.nn.init.constant_(net.weight, 10.0)
    average.update(net)  # decay 1/10
    assert average.net.weight.item() == pytest.approx(9.0)
    average.num_updates = 1000
    average.update(net)
    assert average.net.weight.item() == pytest.approx(9.5)


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        (TrainConfig, None),
        (TrainConfig, torch.bfloat16),
        (TrainConfig, torch.float16),
        (VideoTrainConfig, None),
        (VideoTrainConfig, torch.bfloat16),
    ],
)
def test_the_advice_where_numbers_are_lost_names_flags_that_the_command_has(config, dtype):
    known = {flag for action in make_parser(config)._actions for flag in action.option_strings}
    assert {"--lr"} <= set(re.findall(r"--[\w-]+", remedy(dtype))) <= known
