#!/usr/bin/env bash
# Lint, types and the tests, in an environment of its own, but for those marked slow: scripts/test.sh -m slow runs them
# instead. Further words go to pytest: scripts/test.sh -k loss
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt requirements-dev.txt

"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m mypy .
"$VENV/bin/python" -m pytest -m "not slow and not gpu" "$@"
