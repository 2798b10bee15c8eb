"""From a trained network to predictions, pictures and reports. In Python: `from inference import load_model`."""

from importlib import import_module
from typing import Any

HOMES = {"load_model": "inference.load", "Predictor": "inference.predictor"}


def __getattr__(name: str) -> Any:
    """What Python programs use, imported when it is asked for: the commands' settings need no torch."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
