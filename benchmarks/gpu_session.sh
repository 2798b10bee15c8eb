#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most five and a half minutes, what matters most first; each part has its
# own limit and survives the others. Results go to the folder OUT (default: results); at most eight files.
#   benchmarks/gpu_session.sh          # on a machine with PyTorch, Triton and a GPU; wheels in .whl/ are installed first
#   benchmarks/gpu_session.sh --tiny   # a rehearsal on any machine, in miniature, with more patience
# PYTHON: the interpreter. KERBLINE_COMMIT: what the results call this checkout, if it has no .git.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT="${OUT:-results}" PYTHON="${PYTHON:-python3}" LIMIT=330 PATIENCE=1 TINY=()
[ "${1:-}" = --tiny ] && TINY=(--tiny --device cpu) LIMIT=1800 PATIENCE=6
mkdir -p "$OUT"
exec > >(tee "$OUT/session.txt") 2>&1
export PYTHONUNBUFFERED=1 KINETO_LOG_LEVEL=5

if [ -d .whl ] && [ ${#TINY[@]} = 0 ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
    export PYTHONPATH="/tmp/site${PYTHONPATH:+:$PYTHONPATH}"
fi
nvidia-smi --query-gpu=name,driver_version,memory.total,temperature.gpu,utilization.gpu --format=csv 2>/dev/null

part() { # name, seconds, command: run it within its limit and what is left of the whole
    local name="$1" limit=$(($2 * PATIENCE)) start=$SECONDS left=$((LIMIT - SECONDS)) code
    shift 2
    [ "$left" -lt 5 ] && { echo "== $name: no time left"; return; }
    echo "== $name"
    timeout -k 5 "$((limit < left ? limit : left))" "$@"
    code=$?
    echo "== $name: $((SECONDS - start)) s, exit code $code"
}
gpu() { # name, seconds, arguments of benchmarks.gpu; results in name.json
    part "$1" "$2" "$PYTHON" -m benchmarks.gpu "${@:3}" "${TINY[@]}" --json "$OUT/$1.json"
}

networks=(DeepWV3Plus:2 DeepSRNX50V3PlusD_m1:2 DeepMNV3V3PlusD_m1:8) more=(DeepEffLite2V3PlusD_m1:8 DinoV2SmallDPT:2)
loss=() predicting=() compiling_ways=(compiled "plain recipe again")
if [ ${#TINY[@]} -gt 0 ]; then # nothing is compiled: on a CPU that takes minutes
    networks=(DeepMNV3V3PlusD_m1:2) more=(DeepMNV3V3PlusD_m1:1) loss=(--side 48 --pairs 2) predicting=(--ways plain eager "eager, forms")
    compiling_ways=("plain recipe again")
fi

# Tests leave most of the machine idle; meanwhile, networks are compiled for what is timed later, which then finds them.
compiling=()
if [ ${#TINY[@]} = 0 ]; then
    for arch in DeepWV3Plus:2 DeepMNV3V3PlusD_m1:8; do
        timeout 100 "$PYTHON" -m benchmarks.gpu training --arch $arch --ways compiled \
            --warm_up 1 --windows 1 --in_a_row 1 >/dev/null 2>&1 & compiling+=($!)
    done
    timeout 100 "$PYTHON" -m benchmarks.gpu inference --arch DeepWV3Plus DeepSRNX50V3PlusD_m1 DeepMNV3V3PlusD_m1 \
        --ways "compiled, forms" compiled --warm_up 1 --windows 1 --in_a_row 1 >/dev/null 2>&1 & compiling+=($!)
    part tests 95 env OMP_NUM_THREADS=2 "$PYTHON" -m pytest -n 6 -p no:cacheprovider -m "not slow" tests/test_gpu.py \
        tests/test_relaxation_triton.py tests/test_taps.py --deselect \
        tests/test_gpu.py::test_a_stopwatch_counts_what_the_gpu_does_after_the_block | tee "$OUT/tests.txt"
    kill "${compiling[@]}" 2>/dev/null # what has not ended by now would disturb the timing
    wait "${compiling[@]}" 2>/dev/null
else
    part tests 120 "$PYTHON" -m pytest -p no:cacheprovider -m gpu tests/test_gpu.py | tee "$OUT/tests.txt"
fi

part loss 45 "$PYTHON" -m benchmarks.loss "${loss[@]}" --json "$OUT/loss.json"
gpu training 60 training --arch "${networks[@]}" --windows 4 --ways "plain recipe" "train.py"
gpu inference 60 inference --arch "${networks[@]}" "${predicting[@]}"
gpu loop 35 waiting memory blocks --arch "${networks[0]}"
gpu compiled 60 training --arch "${networks[0]}" "${networks[-1]}" --windows 4 --warm_up 3 --ways "${compiling_ways[@]}"
gpu more 40 training --arch "${more[@]}" --windows 3 --ways "plain recipe" "train.py"
[ ${#TINY[@]} = 0 ] && part stopwatch 25 "$PYTHON" -m pytest -p no:cacheprovider tests/test_gpu.py -k stopwatch
echo "== all: $SECONDS s"
