#!/usr/bin/env bash
# Lint, types and tests, in a virtual environment. Tests marked slow or gpu are left out; scripts/test.sh -m slow runs only
# the slow ones. Further arguments go to pytest: scripts/test.sh -k loss
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt requirements-dev.txt

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m mypy .
# Three at a time with one thread each, since some wait; a file's tests stay together, since they share what is slow to
# make. In alphabetical order, or the files with few but long tests would come last, one alone.
OMP_NUM_THREADS=1 "$VENV/bin/python" -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" "$@"
