#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment. Tests marked slow or gpu are left out; scripts/test.sh -m slow runs only
# the slow ones. Further arguments go to pytest: scripts/test.sh -k loss
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt requirements-dev.txt

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m mypy .
# Two at a time with one thread each; a file's tests stay together, since they share what is slow to make.
OMP_NUM_THREADS=1 "$VENV/bin/python" -m pytest -n 2 --dist loadfile -m "not slow and not gpu" "$@"
