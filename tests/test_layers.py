"""A file imports only from its own layer and lower ones (docs/architecture.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

DECLARATIONS = (
    "datasets/spec.py",
    "datasets/lists.py",
    "datasets/tables.py",
    "datasets/camvid.py",
    "datasets/streets/__init__.py",
    "datasets/cityscapes.py",
    "datasets/kitti.py",
    "datasets/mapillary.py",
    "datasets/folder.py",
    "datasets/registry.py",
    "datasets/__init__.py",
)
BUILDERS = (
    "datasets/",
    "transforms/presets.py",
    "loss/build.py",
    "network/build.py",
    "training/",
    "inference/build.py",
    "inference/pixel_count.py",
    "video/build.py",
    "video/pairs.py",
    "video/exact.py",
    "video/clips.py",
    "video/settings.py",
    "inference/settings.py",
)
ENTRY_POINTS = (
    "train.py", "eval.py", "demo.py", "demo_folder.py", "Pixel_percentage.py", "propagate.py",
    "inference/submission.py", "video/train.py", "datasets/verify.py", "datasets/show.py",
    "datasets/streets/__main__.py", "training/compare.py", "network/convert.py",
)  # fmt: skip
# Read by settings, so that --help can list the networks without torch.
LIGHT = (
    "network/names.py", "network/__init__.py", "utils/flags.py", "utils/columns.py", "utils/torchrun.py",
    "utils/__init__.py",
    "inference/defaults.py", "inference/__init__.py", "video/__init__.py",
)  # fmt: skip
SETTINGS = (
    "config.py", "datasets/settings.py", "inference/settings.py", "video/settings.py",
    "training/settings.py",
)  # fmt: skip
PACKAGES = ("datasets", "network", "loss", "transforms", "inference", "training", "utils", "video")
TRAINING_COMMANDS = ("train.py", "video/train.py")
# Packages with builders build on each other in one direction only; commands may use any.
UNKNOWN_TO = {"datasets": ("inference", "video"), "video": ("inference",)}
HEAVY = {"torch", "numpy", "cv2", "scipy", "matplotlib", "PIL"}


def layer(path: str) -> int:
    if path in DECLARATIONS or path in LIGHT:
        return 0
    if path in ENTRY_POINTS:
        return 3
    return 2 if path.startswith(BUILDERS) else 1


def project_files() -> list[str]:
    found = [path.name for path in ROOT.glob("*.py")]
    for package in PACKAGES:
        found += [path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")]
    return sorted(found)


def imported_modules(path: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def file_of(module: str) -> str | None:
    for candidate in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
        if (ROOT / candidate).is_file() and (candidate.split("/")[0] in PACKAGES or "/" not in candidate):
            return candidate
    return None


def forbidden(importer: str, imported: str) -> str | None:
    if layer(imported) > layer(importer):
        return f"{importer} (layer {layer(importer)}) imports {imported} (layer {layer(imported)})"
    leaf, other = importer.split("/")[0], imported.split("/")[0]
    if other == "training" and leaf != "training" and importer not in TRAINING_COMMANDS:
        return f"{importer} imports {imported}: that is for the training commands alone"
    if layer(importer) < 3 and other in UNKNOWN_TO.get(leaf, ()):
        return f"{importer} imports {imported}: {leaf}/ does not know {other}/"
    packages_differ = leaf in PACKAGES and other in PACKAGES and leaf != other
    if layer(importer) == layer(imported) == 1 and packages_differ and other != "utils":
        return f"{importer} imports {imported}: packages of layer 1 do not know each other"
    if layer(importer) == 1 and leaf in PACKAGES and imported == "config.py":
        return f"{importer} imports config: blocks take plain arguments"
    return None


@pytest.mark.parametrize("path", project_files())
def test_a_file_imports_only_from_below(path):
    problems = [forbidden(path, file) for module in imported_modules(path) if (file := file_of(module))]
    assert [p for p in problems if p] == []


@pytest.mark.parametrize("path", [*DECLARATIONS, *LIGHT, *SETTINGS])
def test_declarations_and_flags_import_nothing_heavy(path):
    assert {module.split(".")[0] for module in imported_modules(path)} & HEAVY == set()


def test_the_check_itself_notices_a_wrong_import():
    assert forbidden("loss/relaxation.py", "datasets/index.py")
    assert forbidden("network/blocks.py", "loss/relaxation.py")
    assert forbidden("transforms/joint.py", "config.py")
    assert forbidden("datasets/spec.py", "config.py")
    assert forbidden("datasets/gather.py", "video/flow.py")
    assert forbidden("eval.py", "training/log.py")
    assert forbidden("datasets/loaders.py", "training/progress.py")
    assert forbidden("transforms/joint.py", "utils/images.py") is None
    assert forbidden("train.py", "datasets/loaders.py") is None
    assert forbidden("datasets/show.py", "inference/legend.py") is None  # a command
    assert forbidden("video/train.py", "training/resuming.py") is None
    assert forbidden("training/setup.py", "training/resuming.py") is None
