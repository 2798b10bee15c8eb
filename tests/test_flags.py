"""Flags: those of the published code are all accepted, with their defaults or a stated reason to differ."""

import json
import subprocess
import sys

import pytest

from config import TrainConfig, as_dict
from datasets.show import ShowConfig
from inference.settings import (
    SNAPSHOT,
    SubmissionConfig,
)
from tests.commands import CONFIGS
from tests.conftest import ROOT
from utils.flags import make_parser, parse_command_line, parse_numbers
from video.settings import VideoTrainConfig

REFERENCE = json.loads((ROOT / "tests/golden/reference_flags.json").read_text())
IGNORED = {
    "train.py": {"trunk", "hardnm", "apex", "local_rank"},
    "eval.py": {"trunk", "mode", "dataset_cls", "fixed_aspp_pool", "dist_bn"},
    "demo.py": {"num_workers"},
    "demo_folder.py": {"num_workers"},
}

# The checkpoint says which architecture and data set it belongs to; always assuming one is a fault of the published
# code (its demos yield a random classifier for any other checkpoint).
DIFFERENT_ON_PURPOSE = {
    ("eval.py", "--arch"),
    ("eval.py", "--dataset"),
    ("eval.py", "--dataset_cls"),
    ("demo.py", "--arch"),
    ("demo_folder.py", "--arch"),
    ("demo.py", "--snapshot"),  # the network that this project carries
    ("demo_folder.py", "--snapshot"),
}


def parser_of(script):
    return make_parser(CONFIGS[script.removesuffix(".py")])


def _cases():
    return [(command, entry) for command, entries in REFERENCE.items() for entry in entries]


@pytest.mark.parametrize(("command", "entry"), _cases(), ids=lambda v: v if isinstance(v, str) else v["flags"][-1])
def test_every_published_flag_is_accepted_with_its_default(command, entry):
    actions = {flag: action for action in parser_of(command)._actions for flag in action.option_strings}
    for flag in entry["flags"]:
        assert flag in actions
    action = actions[entry["flags"][-1]]
    if (command, entry["flags"][-1]) in DIFFERENT_ON_PURPOSE:
        assert action.default in (None, SNAPSHOT)
        return
    assert action.default == entry["default"]
    if entry["type"] == "switch":
        assert action.nargs == 0
    else:
        assert action.type.__name__ == entry["type"]


@pytest.mark.parametrize("command", [f"{module.replace('.', '/')}.py" for module in CONFIGS])
def test_help_is_answered_without_loading_torch(command):
    script = (
        "import runpy, sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        f"try: runpy.run_path({command!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('HEAVY', sorted({'torch', 'cv2', 'numpy'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--" in result.stdout
    assert result.stdout.endswith("HEAVY []\n")


def test_a_module_is_called_as_it_was_started():
    told = subprocess.run([sys.executable, "-m", "video.train"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2
    assert "--frames" in told.stderr
    assert "(python -m video.train --help explains the flags)" in told.stderr


@pytest.mark.parametrize("config", CONFIGS.values())
def test_every_flag_has_a_help_text_in_a_named_group(config):
    parser = make_parser(config)
    for action in parser._actions:
        assert action.help
    titles = [group.title for group in parser._action_groups if group._group_actions]
    assert all(titles)
    assert len(titles) == len(set(titles))


def test_a_switch_that_was_always_on_gains_a_no_form():
    assert parse_command_line(TrainConfig, []).augment.gblur
    assert parse_command_line(TrainConfig, ["--gblur"]).augment.gblur
    assert not parse_command_line(TrainConfig, ["--no-gblur"]).augment.gblur


def test_what_a_command_cannot_do_without_is_told_also_where_it_has_no_flag(capsys):
    with pytest.raises(SystemExit):
        parse_command_line(SubmissionConfig, [])
    assert "error: the following arguments are required: path" in capsys.readouterr().err
    assert parse_command_line(SubmissionConfig, ["results"]).input.path == "results"


@pytest.mark.parametrize("spelling", ["--local_rank=1", "--local-rank=1"])
def test_the_rank_is_accepted_as_every_launcher_of_pytorch_spells_it(spelling):
    assert parse_command_line(TrainConfig, [spelling]).ignored.local_rank == 1


@pytest.mark.parametrize("scales", ["inf", "1,nan", "0.5,-1", "x"])
def test_scales_are_positive_and_finite(scales):
    with pytest.raises(ValueError, match="--scales expects comma-separated positive numbers"):
        parse_numbers(scales, "--scales", float, positive=True)


@pytest.mark.parametrize("config", [TrainConfig, VideoTrainConfig])
def test_a_training_that_would_end_before_it_begins_is_told(config, capsys):
    words = ["--frames", "film"] if config is VideoTrainConfig else []
    words += ["--start_epoch", "3", "--max_epoch", "3"]
    with pytest.raises(SystemExit):
        parse_command_line(config, words)
    assert "error: --start_epoch 3 must be below --max_epoch 3." in capsys.readouterr().err
    assert parse_command_line(config, [*words, "--resume"]).run.resume  # the checkpoint decides


@pytest.mark.parametrize("command", IGNORED)
def test_flags_without_effect_have_a_help_section_of_their_own(command):
    groups = {group.title: group._group_actions for group in parser_of(command)._action_groups}
    ignored = groups["accepted for old command lines, without effect"]
    assert {action.dest for action in ignored} == IGNORED[command]


def test_flags_that_change_no_result_are_not_among_the_settings_that_are_kept():
    plain = parse_command_line(TrainConfig, [])
    other = parse_command_line(TrainConfig, ["--trunk", "x", "--hardnm", "1", "--apex", "--local_rank", "3", "--debug"])
    assert other.ignored.hardnm == 1 and other.errors.debug
    assert as_dict(other) == as_dict(plain)
    assert {"run", "device"} <= set(as_dict(plain))


@pytest.mark.parametrize("config", CONFIGS.values())
def test_every_command_can_show_the_traceback_of_an_error(config):
    sections = {group.title: group._group_actions for group in make_parser(config)._action_groups}
    assert [action.dest for action in sections["errors"]] == ["debug"]


def test_a_flag_that_has_no_use_in_a_command_is_left_out():
    assert "--dump_augmentation_images" in make_parser(TrainConfig).format_help()
    assert "--dump_augmentation_images" not in make_parser(ShowConfig).format_help()


def test_two_number_formats_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        parse_command_line(TrainConfig, ["--fp16", "--bf16"])
    assert "error: --fp16 and --bf16 exclude each other" in capsys.readouterr().err
    assert parse_command_line(TrainConfig, ["--fp16", "--no-bf16"]).precision.fp16


def test_settings_cannot_be_changed_after_parsing():
    config = parse_command_line(TrainConfig, [])
    with pytest.raises(AttributeError):
        config.run.max_epoch = 3  # type: ignore[misc]
