"""On a GPU: eager overhead, the LSTM optimizer, Fisher diagonals and MAML's meta-step, against CuPy, PyTorch and JAX: `make gpu`.

A contender is a process. Each of its cases is compared with results of NumPy on the host before it is timed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import tinymeta as tm

from . import fisher, gpu_contenders, lstm, maml
from .fisher_peers import chunked
from .lstm_peers import SCALE, P, Problem
from .measure import alternate, median_seconds, summarise, write
from .overhead import OPS, X, chain

ROUNDS, SECONDS = 2, 0.25  # SECONDS: that a case is called again and again
OURS = "tinymeta"
CONTENDERS: dict[str, type] = {
    OURS: gpu_contenders.Tinymeta,
    "PyTorch": gpu_contenders.Torch,
    "torch.compile": gpu_contenders.CompiledTorch,
    "JAX jit": gpu_contenders.Jax,
    "JAX jit, (H, n)": gpu_contenders.JaxCoordinatesLast,
}
STEPS = (*lstm.SIZES, lstm.LARGE)  # n of a step
COPIES = (1, 10)  # how often an unroll has the coordinates of the smallest n
MAML = {"sine": maml.SETTINGS["sine"][1], "omniglot": maml.SETTINGS["omniglot"][0]}
TITLES = {
    "lstm": "The LSTM optimizer on a GPU, 2 x 20 units",
    "fisher": f"Fisher diagonal on a GPU, N = {fisher.N}",
    "maml": "MAML's meta-step on a GPU, second order, with Adam",
}
EXPECTED = "TINYMETA_BENCH_GPU"  # names the folder of the expected results
PEERS = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def synchronized(f: Callable[[], object], wait: Callable[[], None]) -> Callable[[], None]:
    """f, and a wait until the GPU is done."""

    def run() -> None:
        f()
        wait()

    return run


# ---- cases ----


def unrolled(copies: int) -> Problem:
    """The same coordinates so many times: the gradient is as many times that of one."""
    given = lstm.problem(lstm.SIZES[0], lstm.STEPS)
    state = [np.tile(x, (copies, 1)) for x in given.state]
    return Problem(given.weights, state, *(np.tile(x, (1, copies)) for x in (given.gradients, given.d_updates)))


def cases() -> dict[str, tuple[Callable[[Any], Any], str, float]]:
    """By name: what a contender is asked for, the file of the expected results, and the factor by which its own are larger."""
    found: dict[str, tuple[Callable[[Any], Any], str, float]] = {}
    for n in STEPS:
        found[f"lstm: step, n = {n:,}"] = (lambda c, n=n: c.lstm_step(lstm.problem(n, 1))), f"step {n}", 1
    for copies in COPIES:
        name = f"lstm: unroll of {lstm.STEPS} with gradient, n = {copies * lstm.SIZES[0]:,}"
        found[name] = (lambda c, k=copies: c.lstm_unroll(unrolled(k))), "unroll", copies
    for width in fisher.WIDTHS:
        for kind in fisher.KINDS:
            name = f"{kind}, 784-{width}-{width}-10"
            found[f"fisher: {name}"] = (lambda c, w=width, k=kind: c.fisher(*fisher.mlp(w), k)), name, fisher.N
    for kind, setting in MAML.items():
        found[f"maml: {kind}, {setting}"] = (lambda c, k=kind, s=setting: c.meta_step(k, s)), kind, 1
    return found


def expected_results(folder: Path) -> None:
    """In float64 by the reference kernels; of MAML, by our engine on NumPy's arrays. Of a step, the first coordinates."""
    for n in STEPS:
        given = lstm.problem(n, 1)
        before = [x[:1000].astype(float) for x in given.state]
        state = tuple(zip(before[::2], before[1::2], strict=True))
        gradient = given.gradients[0, :1000].astype(float)
        update, after = lstm.reference.step(lstm.wide(given.weights), state, gradient, SCALE, P)
        np.savez(folder / f"step {n}", update, *(x for layer in after for x in layer))
    np.savez(folder / "unroll", *lstm.exact_gradient())
    for width in fisher.WIDTHS:
        params, x, y = fisher.mlp(width)
        wide = [a.astype(float) for a in params]
        for kind in fisher.KINDS:
            np.savez(folder / f"{kind}, 784-{width}-{width}-10", *chunked(wide, x.astype(float), y, kind)())
    for kind, setting in MAML.items():
        step, *state = maml.tinymeta_step(kind, setting)
        _, _, value, gradient = step(*state, *maml.data(kind, setting)[1:])
        np.savez(folder / kind, value, *tm.trees.leaves(gradient))


def error(found: list[np.ndarray], file: str, factor: float) -> float:
    """The largest, relative to the largest number of each array; of a step, over its first coordinates."""
    with np.load(Path(os.environ[EXPECTED]) / f"{file}.npz") as expected:
        exact = [factor * np.asarray(x) for x in expected.values()]
    pairs = [(x[: len(e)] if file.startswith("step") else x, e) for x, e in zip(found, exact, strict=True)]
    return max(float(np.max(np.abs(x - e)) / max(1e-30, np.max(np.abs(e)))) for x, e in pairs)


def report(name: str) -> dict[str, dict[str, float]]:
    """ms and error by case."""
    contender, found = CONTENDERS[name](), {}
    for case, (make, file, factor) in cases().items():
        work = make(contender)
        if work is None:
            continue
        call, results = work
        run = synchronized(call, contender.wait)
        run()
        off = error(results(), file, factor)
        if not off < 1e-3:
            raise SystemExit(f"{case}, {name}: the largest relative error is {off}, expected one of float32's rounding")
        calls = int(np.clip(SECONDS / median_seconds(run, 3), 5, 1000))
        found[case] = {"ms": 1e3 * median_seconds(run, calls), "error": off}
        del work, call, results, run
    return found


# ---- the tables ----


def tables(note: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= PEERS | {EXPECTED: folder, "JAX_COMPILATION_CACHE_DIR": folder}
        expected_results(Path(folder))
        reports = alternate("bench.gpu", list(CONTENDERS), ROUNDS)
    note += (
        "float32 products throughout (JAX: precision highest). Median of calls that are each waited for; an unroll's gradient is "
        "copied to the host. Error: largest against NumPy's result on the host (float64; MAML: float32), relative to the largest "
        "number of each array, before timing."
    )
    for table, title in TITLES.items():
        rows = []
        for case in (c for c in cases() if c.startswith(table)):
            of = {name: [r[case] for r in rounds] for name, rounds in reports.items() if case in rounds[0]}
            for row in summarise(of, "ms", OURS):
                worst = max(r["error"] for r in of[row["name"]])
                rows.append(row | {"name": f"{case.partition(': ')[2]}: {row['name']}", "error": float(f"{worst:.1e}")})
        write(f"gpu-{table}", title, "ms", ROUNDS, rows, ["numpy", "torch", "jax"], note, {"error": "largest error"})


def overhead(note: str) -> None:
    import cupy

    gradient, wait = tm.grad(lambda x: chain(x, tm.ops.tanh).sum()), cupy.cuda.Device().synchronize
    np.testing.assert_allclose(cupy.asnumpy(gradient(cupy.asarray(X))), gradient(X), rtol=1e-12)
    rows = []
    for label, n in (("8 numbers", 8), ("1,000,000 numbers", 1_000_000)):
        x = cupy.asarray(np.resize(X, n))
        ours = 1e6 * median_seconds(synchronized(lambda x=x: gradient(x), wait), 200) / OPS
        bare = 1e6 * median_seconds(synchronized(lambda x=x: chain(x, cupy.tanh), wait), 200) / OPS
        for name, us in (("tinymeta, value and gradient", ours), ("bare CuPy, value only", bare)):
            rows.append({"name": f"{name}, {label}", "median": round(us, 3), "ratio": round(us / ours, 3)})
    note += "Equal to the CPU's gradient to 1e-12 before timing."
    write("gpu", "Eager overhead on a GPU, per op", "µs", 1, rows, ["numpy"], note)


def device() -> str:
    """The GPU, what runs on it, and the rates it reaches: a copy's bytes and a float32 product's flops."""
    import cupy

    wait = cupy.cuda.Device().synchronize
    x, square = cupy.zeros(1 << 28, np.float32), cupy.ones((8192, 8192), np.float32)
    copy = 2 * x.nbytes / median_seconds(synchronized(lambda: x.copy(), wait), 10) / 1e12
    flops = 2 * 8192**3 / median_seconds(synchronized(lambda: square @ square, wait), 10) / 1e12
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    peers = ", ".join(f"{p} {metadata.version(p)}" for p in ("jaxlib", "triton"))
    return f"{name}, CuPy {cupy.__version__}, {peers}; it copies {copy:.2f} TB/s and multiplies {flops:.0f} TF/s in float32. "


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(report(sys.argv[1])))
        return
    note = device()
    overhead(note)
    tables(note)


if __name__ == "__main__":
    main()
