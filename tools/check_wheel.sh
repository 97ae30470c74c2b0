#!/usr/bin/env bash
# Build the wheel and install it, with NumPy alone, into an empty environment outside the checkout: imports, data, command.
set -euo pipefail
cd "$(dirname "$0")/.."
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

git archive HEAD | tar -x -C "$work" --one-top-level=source
.venv/bin/python -m pip wheel --quiet --no-deps --disable-pip-version-check --wheel-dir "$work" "$work/source"
.venv/bin/python -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/tinymeta-*.whl
cd "$work"
env/bin/python - <<'PY'
import sys
import numpy as np
import tinymeta as tm
heavy = {"numba", "cupy", "matplotlib", "hypothesis", "rich", "pooch", "torch", "jax"} & set(sys.modules)
assert not heavy, f"import tinymeta loads {heavy}"
gradient = tm.grad(lambda w: np.sum(np.tanh(w) ** 2))
compiled = tm.compile(gradient)
np.testing.assert_allclose(compiled(np.ones(3)), gradient(np.ones(3)), rtol=1e-12)
assert compiled.backend == "numpy", f"without Numba a program runs on {compiled.backend}"
assert tm.kernels.lstm.step and tm.data.omniglot().images.shape == (1623, 20, 28, 28)
PY
env/bin/tinymeta list >/dev/null
if env/bin/tinymeta demo --runs "$work/runs" 2>"$work/error"; then echo "a demo without its packages should fail" >&2; exit 1; fi
grep -q 'pip install' "$work/error"
echo "the wheel installs with NumPy alone and works"
