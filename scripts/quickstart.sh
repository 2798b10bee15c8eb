#!/usr/bin/env bash
# From nothing to a trained, scored and demonstrated network: about five minutes on two CPU cores, on a GPU if there
# is one. Run again, it reuses what is there. Shorter, for a trial: MINUTES=0.5 scripts/quickstart.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install requirements.txt

DATA="${DATA:-data/streets}"
EXP="${EXP:-quickstart}"
RUN="logs/ckpt/$EXP"
UNSEEN="$DATA/test/$(sed -n '1s:.*/::; 1s/ .*//p' "$DATA/test.txt" 2>/dev/null || true)"

"$VENV/bin/python" -m datasets.synthetic --root "$DATA"
