"""The settings of `python -m training.compare`; see config.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from config import ErrorConfig
from utils.flags import option


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """what to compare"""

    runs: Sequence[str] = option((), "run folders of train.py, such as logs/ckpt/*", "runs", required=True)
    out: str = option(
        "comparison", "the results are OUT.csv and OUT.png; if OUT is a folder, comparison.csv and .png in it"
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trainings: runs that differ only in their seed form a group, with means and spread of their scores."""

    runs: RunsConfig
    errors: ErrorConfig
