"""What this process tells `torchrun`, if that has started it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


def report_error(problem: str) -> None:
    """Make it part of torchrun's report; scripts/launch.py prints it again at the end."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": problem, "extraInfo": {"timestamp": int(time.time())}}}
        Path(file).write_text(json.dumps(content), encoding="utf-8")
