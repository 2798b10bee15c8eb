#!/usr/bin/env bash
# A training on Slurm that outlives its time limit: sbatch --nodes=2 --gpus-per-node=8 scripts/slurm_train.sh --exp mine ...
# All arguments go to train.py. Two minutes before the limit, or when the job is to give way to another, the training saves,
# ends with code 143, and the job goes back into the queue; then it goes on from there. Slurm was not at hand: tested
# with stand-ins for its commands (tests/test_survival.py).
#SBATCH --job-name=kerbline
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/slurm-%j.out
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
PYTHON="${PYTHON:-python}"

training=""
trap '[ -z "$training" ] || kill -TERM "$training"' USR1 TERM # srun passes it on to all machines
first="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
# One agent on each machine; they meet at the first one. An agent that loses another starts its processes again.
srun --kill-on-bad-exit=0 "$PYTHON" scripts/launch.py "${SLURM_GPUS_ON_NODE:-1}" \
    --nnodes="$SLURM_JOB_NUM_NODES" --rdzv_id="$SLURM_JOB_ID" --rdzv_backend=c10d \
    --rdzv_endpoint="$first:${MASTER_PORT:-29500}" --max_restarts="${MAX_RESTARTS:-3}" \
    train.py --resume "$@" &
training=$!
code=0
wait "$training" || code=$?
while kill -0 "$training" 2>/dev/null; do # a trap ends `wait` before the training has ended
    code=0
    wait "$training" || code=$?
done
if [ "$code" = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
