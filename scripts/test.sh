#!/usr/bin/env bash
# Lint, types and the whole test suite, in an environment of its own. Further words go to pytest: scripts/test.sh -k loss
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt requirements-dev.txt

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m mypy .
"$VENV/bin/python" -m pytest -m "not slow and not gpu" "$@"
