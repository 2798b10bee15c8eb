"""Every recipe and every command of the documents parses, so that none goes stale."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from config import ARCHITECTURES
from inference.settings import (
    SubmissionConfig,
)
from tests.commands import CONFIGS
from tests.conftest import ROOT
from utils.flags import parse_command_line

# As a command line names them: train.py, or after -m datasets.verify.
SCRIPTS = {f"{module}.py": config for module, config in CONFIGS.items() if "." not in module}
MODULES = {module.removesuffix(".__main__"): config for module, config in CONFIGS.items() if "." in module}
RECIPES = sorted(path.name for path in (ROOT / "scripts").glob("*.sh") if re.match("train|eval|submit", path.name))
DOCUMENTS = ("README.md", "PREPARE_DATASETS.md", "docs", "pretrained_models/README.md")
COMMAND = rf"^(?:\S+=\S+ )*(?:python|torchrun) (?:.*\b(?:{'|'.join(SCRIPTS)})|-m (?:{'|'.join(MODULES)})) .*$"


def commands_in(document: str) -> list[str]:
    """The command lines of a document, or of all in a folder, that run an entry point."""
    path = ROOT / document
    files = sorted(path.glob("*.md")) if path.is_dir() else [path]
    return [line for file in files for line in re.findall(COMMAND, file.read_text(), re.M)]


def parsed(words: list[str]):
    """The config of a command line that runs one of the entry points somewhere in it."""
    entries = SCRIPTS | MODULES
    names = [word if word in MODULES else Path(word).name for word in words]
    where = next(i for i, name in enumerate(names) if name in entries)
    return parse_command_line(entries[names[where]], words[where + 1 :])


def commands_of(recipe: str) -> list[list[str]]:
    """The entry points that a recipe would run, with their flags."""
    return [words for words in lines_of(recipe) if any(".py" in word for word in words)]


def lines_of(recipe: str) -> list[list[str]]:
    """What a recipe would run, with `echo` in Python's place."""
    weights = ["weights.pth", "results"] if recipe.startswith(("eval", "submit")) else []
    shown = subprocess.run(
        ["bash", f"scripts/{recipe}", *weights],
        cwd=ROOT,
        env={**os.environ, "PYTHON": "echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [shlex.split(line) for line in shown.stdout.splitlines()]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_parses(recipe):
    commands = commands_of(recipe)
    assert commands
    for words in commands:
        config = parsed(words)
        assert config.model.arch is None or config.model.arch.split(".")[-1] in ARCHITECTURES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_takes_overrides(recipe):
    assert '"$@"' in (ROOT / "scripts" / recipe).read_text()


@pytest.mark.parametrize("flags", [("--dataset_dir", "nowhere", "--device", "cpu"), ("--crop_sise", "3")])
@pytest.mark.parametrize("count", ["1", "2"])
def test_the_last_line_of_a_recipe_that_fails_is_the_error(count, flags):
    ended = subprocess.run(
        ["bash", "scripts/train_kitti_SEResNeXt50.sh", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable, "NGPU": count, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode != 0
    lines = ended.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert flags[0] in lines[-1]
    assert len(lines) == 1 if count == "1" else len(lines) < 8
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("count", ["0", "two", "-1"])
def test_a_wrong_number_of_processes_is_told(count):
    ended = subprocess.run(
        [sys.executable, "scripts/launch.py", count, "train.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == f"error: NGPU={count}: give the number of processes, one for each GPU.\n"


@pytest.mark.parametrize("network", ["WideResNet38", "SEResNeXt50"])
def test_the_relaxation_of_the_cityscapes_recipe_is_the_published_one(network):
    config = parsed(commands_of(f"train_cityscapes_{network}.sh")[0])
    assert (config.optim.repoly, config.loss.rlx_off_epoch, config.data.max_cu_epoch) == (1.5, 100, 150)
    assert config.data.coarse_boost_classes == "14,15,16,3,12,17,4"
    assert config.loss.strict_bdr_cls == "5,6,7,11,12,17,18"


# lr, schedule, epochs; crop, largest and smallest scale; tile; weighted or relaxed loss and its bound
PUBLISHED = {
    "mapillary": (0.02, "poly", 175, 896, 0.5, 2.0, 1024, True, False, 6.0),
    "cityscapes": (0.001, "scl-poly", 175, 896, 0.5, 2.0, 1024, False, True, 1.0),
    "kitti": (0.001, "poly", 90, 360, 1.0, 2.0, 300, True, False, 1.0),
}


@pytest.mark.parametrize("network", ["WideResNet38", "SEResNeXt50"])
@pytest.mark.parametrize("dataset", PUBLISHED)
def test_a_recipe_is_the_published_one(dataset, network):
    config = parsed(commands_of(f"train_{dataset}_{network}.sh")[0])
    optim, run, augment, loss = config.optim, config.run, config.augment, config.loss
    values = (
        optim.lr, optim.lr_schedule, run.max_epoch, augment.crop_size, augment.scale_min, augment.scale_max,
        config.data.class_uniform_tile, loss.img_wt_loss, loss.jointwtborder, loss.wt_bound,
    )  # fmt: skip
    assert values == PUBLISHED[dataset]
    assert (optim.poly_exp, optim.adam, optim.weight_decay, optim.momentum) == (1.0, False, 1e-4, 0.9)
    assert (config.data.bs_mult, config.data.class_uniform_pct, augment.color_aug) == (2, 0.5, 0.25)
    assert augment.gblur
    assert config.precision.syncbn
    assert loss.published_loss  # its sums over the batch are what the learning rates belong to


def test_a_network_is_evaluated_on_the_fold_that_its_training_holds_out():
    for name in ("WideResNet38", "SEResNeXt50"):
        trained = parsed(commands_of(f"train_cityscapes_{name}.sh")[0]).data.cv
        assert parsed(commands_of(f"eval_cityscapes_{name}.sh")[0]).data.cv_split == trained


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name.startswith("submit")])
def test_a_submission_ends_with_a_checked_zip_of_what_was_predicted(recipe):
    predicted, checked = lines_of(recipe)
    output = parsed(predicted).output
    assert checked[:2] == ["-m", "inference.submission"]
    options = parse_command_line(SubmissionConfig, checked[2:]).input
    assert options.path == f"{output.ckpt_path}/{output.exp_name}"
    assert options.zip == f"{options.path}.zip"


def test_a_recipe_without_its_arguments_says_how_to_use_it():
    result = subprocess.run(
        ["bash", "scripts/eval_cityscapes_WideResNet38.sh"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "usage:" in result.stderr


@pytest.mark.parametrize("command", [command for document in DOCUMENTS for command in commands_in(document)])
def test_a_command_of_the_documents_parses(command):
    parsed(shlex.split(command, comments=True))


def test_the_readme_has_a_command_for_every_entry_point():
    entries = {*SCRIPTS, *MODULES}
    assert {name for name in entries if any(f"{name} " in command for command in commands_in("README.md"))} == entries
