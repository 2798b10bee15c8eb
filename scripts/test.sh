#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment. Tests marked slow or gpu are left out; scripts/test.sh -m slow runs only
# the slow ones. Further arguments go to pytest: scripts/test.sh -k loss
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt requirements-dev.txt

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m mypy .
"$VENV/bin/python" -m pytest -m "not slow and not gpu" "$@"
