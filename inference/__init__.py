"""From a trained network to probabilities, labels, pictures and reports.

Only `settings.py`, `build.py` and `submission.py` read the command line's settings, and only the last a data set's
files. Elsewhere an error may name a flag, as the way out.

In Python: `from inference import load_model`; the README shows how to go on.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`load_model` and `Predictor`, imported when they are asked for: the commands' settings need no torch."""
    if name == "load_model":
        from inference.build import load_model

        return load_model
    if name == "Predictor":
        from inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
