#!/usr/bin/env bash
# Fail unless the kernels' tests run every line of kernels/, and name the lines that they do not.
# Three runs, since no one of them runs all: Numba compiles (what emits vectors runs while it does), Numba leaves its functions
# to Python (their bodies run), and Numba simulates a GPU (the bodies of numba.cuda kernels run).
set -euo pipefail
cd "$(dirname "$0")/.."

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
# Nothing that Numba has compiled before: what emits vectors must run anew. CI: Hypothesis' examples are the same each time.
export CI=true COVERAGE_FILE="$folder/coverage" NUMBA_CACHE_DIR="$folder/numba" OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1

covered() {
    .venv/bin/python -m coverage run --parallel-mode --source kernels -m pytest -q -p no:cacheprovider "$@"
}
without_compiler() {
    NUMBA_DISABLE_JIT=1 covered tests/kernels && NUMBA_ENABLE_CUDASIM=1 covered tests/kernels_gpu -k numba_cuda
}
without_compiler >"$folder/log" 2>&1 &
covered tests/kernels tests/kernels_gpu -k "not nvcc and not simulator"
wait $! || { cat "$folder/log"; exit 1; }
.venv/bin/python -m coverage combine --quiet
.venv/bin/python -m coverage report --show-missing --skip-covered --fail-under 100
