"""Folder is layer: a folder imports only from those below it (docs/architecture.md)."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

# From the ground up. Folders of one floor do not know each other. `.` is the top level: the commands.
FLOORS = (
    ("utils",),
    ("datasets/specs",),
    ("config.py",),
    ("transforms", "network", "loss"),
    ("datasets",),
    ("training", "inference"),
    ("video",),
    (".",),
)
HEAVY = {"torch", "numpy", "cv2", "scipy", "matplotlib", "PIL", "av"}
# What --help and the declarations read, without torch.
LIGHT = ("config.py", "utils/flags.py", "utils/text.py")


def home(path: str) -> str:
    """The folder, or config.py, that a file belongs to."""
    known = [place for floor in FLOORS for place in floor if place != "."]
    return next((p for p in known if path == p or path.startswith(f"{p}/")), ".")


def floor(path: str) -> int:
    return next(number for number, places in enumerate(FLOORS) if home(path) in places)


@cache
def project_files() -> tuple[str, ...]:
    places = {place.split("/")[0] for floor in FLOORS for place in floor} - {".", "config.py"}
    found = [*ROOT.glob("*.py"), *(path for place in places for path in (ROOT / place).rglob("*.py"))]
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in found))


@cache
def imported_modules(path: str) -> list[str]:
    names = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def file_of(module: str) -> str | None:
    stem = module.replace(".", "/")
    return next((file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in project_files()), None)


def is_forbidden(importer: str, imported: str) -> bool:
    if home(importer) == home(imported):
        return home(importer) == "." and imported != importer  # commands do not know each other
    return floor(imported) >= floor(importer)


def test_files_import_only_from_below():
    imports = ((path, file_of(module)) for path in project_files() for module in imported_modules(path))
    assert {(path, file) for path, file in imports if file and is_forbidden(path, file)} == set()


def test_declarations_and_flags_import_nothing_heavy():
    light = (*LIGHT, *(path for path in project_files() if home(path) == "datasets/specs"))
    imports = {(path, module.split(".")[0]) for path in light for module in imported_modules(path)}
    assert {(path, package) for path, package in imports if package in HEAVY} == set()


def test_the_check_itself_notices_a_wrong_import():
    assert is_forbidden("loss/relaxation.py", "datasets/files.py")
    assert is_forbidden("network/blocks.py", "loss/relaxation.py")
    assert is_forbidden("datasets/specs/spec.py", "config.py")
    assert is_forbidden("datasets/segmentation.py", "video/flow.py")
    assert is_forbidden("inference/load.py", "training/run_log.py")
    assert is_forbidden("eval.py", "train.py")
    assert not is_forbidden("transforms/augmentation.py", "utils/images.py")
    assert not is_forbidden("video/train.py", "training/checkpoints.py")
    assert not is_forbidden("training/setup.py", "training/checkpoints.py")


def test_every_file_has_its_line_in_the_architecture():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [Path(path) for path in project_files() if Path(path).stem != "__init__"]
    names = {path.parent.name if path.stem == "__main__" else path.stem for path in files}
    assert {name for name in names if f"`{name}`" not in text and f"`{name}/`" not in text} == set()
