"""The LSTM optimizer's kernels: a step, an unroll of 20 steps with the gradient of the weights, their growth with n and their
start, against PyTorch and JAX, float32, two layers of 20 units.

Every contender is compared with the reference in float64 before it is timed, in the process that times it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinymeta.kernels.lstm import Weights, reference
from tinymeta.kernels.lstm.blocks import flat_weights, from_blocks, to_blocks, zero_blocks

from .lstm_peers import SCALE, JaxNetwork, P, Problem, TorchNetwork
from .measure import alternate, median_seconds, memory, new_peak, sgemm, summarise, write

SIZES = (15_910, 100_000)  # the parameters of the paper's MNIST network, and more
LARGE = 1_000_000
STEPS = 20
GROWTH = (10_000, 100_000, 1_000_000, 10_000_000)
FLOPS = 9_960  # of the matrix products of a step, for each coordinate; three times as many with the backward pass
ROUNDS, ROUNDS_LARGE = 5, 3
SECONDS = 0.3  # that a contender is timed for, at each size
EXACT = "TINYMETA_BENCH_LSTM_REFERENCE"  # the file with the exact gradient, for the contenders
LAYOUTS = ("JAX jit, (H, n)", "JAX jit, (n, H)")
PACKAGES = ["tinymeta", "numpy", "numba", "torch", "jax"]
NUMBA, UPDATE, TILED = "tinymeta, Numba", "tinymeta, LSTMOptimizer.update on Numba", "tinymeta, tiled NumPy"


def problem(n: int, steps: int) -> Problem:
    rng = np.random.default_rng(0)

    def uniform(*shape: int, size: float = 1.0) -> np.ndarray:
        return np.float32(size) * (2 * rng.random(shape, np.float32) - 1)

    layers = tuple((uniform(d + 20, 80, size=0.4), uniform(80)) for d in (2, 20))
    weights = Weights(layers, uniform(20, size=0.4), uniform(1, size=0.1).reshape(()))
    gradients = uniform(steps, n) * np.float32(10) ** uniform(steps, n, size=6)  # on both branches of the preprocessing
    return Problem(weights, [uniform(n, 20) for _ in range(4)], gradients, uniform(steps, n))


def wide(weights: Weights) -> Weights:
    return Weights(
        tuple((W.astype(float), b.astype(float)) for W, b in weights.layers),
        weights.W_out.astype(float), weights.b_out.astype(float),
    )  # fmt: skip


# ---- ours, in the form of the peers ----


class Kernels:
    """A CPU backend of `tinymeta.kernels.lstm`."""

    def __init__(self, problem: Problem, numba: bool) -> None:
        from tinymeta.kernels.lstm import tiled

        self.forward = self.backward = tiled
        if numba:
            from tinymeta.kernels.lstm import cpu, cpu_unroll

            self.forward, self.backward = cpu, cpu_unroll
        pairs = tuple(zip(problem.state[::2], problem.state[1::2], strict=True))
        self.problem, self.n = problem, problem.gradients.shape[1]
        self.blocks = to_blocks(pairs, self.n, np.dtype(np.float32))
        self.gradient, self.updated = problem.gradients[0].copy(), np.empty(self.n, np.float32)

    def step(self) -> None:
        weights, blocks = self.problem.weights, self.blocks
        self.forward.advance(weights, blocks, blocks, [self.gradient], [self.updated], SCALE, P, add=False)

    def update(self) -> np.ndarray:
        return self.updated

    def state(self) -> list[np.ndarray]:
        return [x for layer in from_blocks(self.blocks, (20, 20), self.n) for x in layer]

    def compile_unroll(self) -> Callable[[], list[np.ndarray]]:
        _, _, gradients, d_updates = self.problem
        no_cotangent, weights = np.zeros_like(self.blocks), self.problem.weights
        few = to_blocks(((np.zeros((1, 20), np.float32),) * 2,) * 2, 1, np.dtype(np.float32))
        self.backward.unroll_backward(weights, few, gradients[:1, :1], d_updates[:1, :1], few, SCALE, P)

        def gradient() -> list[np.ndarray]:
            return flat_weights(
                self.backward.unroll_backward(weights, self.blocks, gradients, d_updates, no_cotangent, SCALE, P)[0]
            )

        return gradient


class Optimizer(Kernels):
    """The public `LSTMOptimizer.update`, in place, on a tree of three leaves."""

    def __init__(self, problem: Problem) -> None:
        from tinymeta.l2l import LSTMOptimizer
        from tinymeta.l2l.optimizer import LSTMState

        super().__init__(problem, numba=True)
        self.optimizer, self.tree = LSTMOptimizer(problem.weights, SCALE, P), np.split(self.gradient, [10, self.n // 2])
        self.now = LSTMState(self.blocks, self.n)

    def step(self) -> None:
        self.updates, self.now = self.optimizer.update(self.tree, self.now, in_place=True)

    def update(self) -> np.ndarray:
        return np.concatenate(self.updates)


NETWORKS: dict[str, Callable[[Problem], Any]] = {
    NUMBA: lambda p: Kernels(p, numba=True),
    UPDATE: Optimizer,
    TILED: lambda p: Kernels(p, numba=False),
    "JAX jit, (H, n)": lambda p: JaxNetwork(p, coordinates_last=True),
    "JAX jit, (n, H)": lambda p: JaxNetwork(p, coordinates_last=False),
    "torch.compile": lambda p: TorchNetwork(p, compiled=True),
    "PyTorch, LSTMCell": TorchNetwork,
}


# ---- what a contender's process does ----


def time_steps(name: str, *sizes: str) -> dict[str, float]:
    """ms of a step by n, and the largest error of the first step's update and state in a sample of coordinates."""
    report, errors = {}, []
    for n in map(int, sizes):
        given = problem(n, 1)
        network = NETWORKS[name](given)
        network.step()
        errors.append(agreeing(step_error(given, network, np.unique(np.r_[:1000, n - 1000 : n]))))
        start = time.perf_counter()
        network.step()
        calls = int(np.clip(SECONDS / (time.perf_counter() - start), 3, 300))
        report[str(n)] = 1e3 * median_seconds(network.step, calls)
        del network
    return report | {"error": max(errors)}


def step_error(given: Problem, network: Any, sample: np.ndarray) -> float:
    before = [x[sample].astype(float) for x in given.state]
    state = tuple(zip(before[::2], before[1::2], strict=True))
    update, after = reference.step(wide(given.weights), state, given.gradients[0, sample].astype(float), SCALE, P)
    pairs = zip(network.state(), (x for layer in after for x in layer), strict=True)
    return max(largest(network.update()[sample] - update), *(largest(x[sample] - exact) for x, exact in pairs))


def time_unroll(name: str, size: str) -> dict[str, float]:
    """ms of an unroll with its gradient, the largest error relative to each array's largest number, and the MB that it took."""
    gradient = NETWORKS[name](problem(int(size), STEPS)).compile_unroll()
    new_peak()
    before = memory("VmRSS")
    found = gradient()
    taken = memory("VmHWM") - before
    with np.load(os.environ[EXACT]) as file:
        exact = [file[f"arr_{k}"] for k in range(len(file.files))]
    error = agreeing(max(largest(a - b) / largest(b) for a, b in zip(found, exact, strict=True)))
    start = time.perf_counter()
    gradient()
    calls = int(np.clip(2 * SECONDS / (time.perf_counter() - start), 3, 50))
    return {"ms": 1e3 * median_seconds(gradient, calls), "mb": taken, "error": error}


def agreeing(error: float) -> float:
    """The error, if it is one of rounding; nothing else is timed."""
    if not error < 1e-4:
        raise SystemExit(f"the largest error against the reference is {error}, expected one of float32's rounding")
    return error


def largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x)))


def exact_gradient() -> list[np.ndarray]:
    """dL/dφ in float64, a thousand coordinates at a time."""
    weights, state, gradients, d_updates = problem(SIZES[0], STEPS)
    total: list[Any] = [0.0] * 6
    for start in range(0, SIZES[0], 1000):
        h1, c1, h2, c2 = (x[start : start + 1000].astype(float) for x in state)
        zero = tuple((np.zeros_like(h1), np.zeros_like(h1)) for _ in range(2))
        g, d = (x[:, start : start + 1000].astype(float) for x in (gradients, d_updates))
        part = reference.unroll_backward(wide(weights), ((h1, c1), (h2, c2)), g, d, zero, SCALE, P)[0]
        total = [a + b for a, b in zip(total, flat_weights(part), strict=True)]
    return total


def time_growth() -> dict[str, float]:
    """ns of a step by n, per coordinate."""
    from tinymeta.kernels.lstm import cpu

    weights, report = problem(1, 1).weights, {}
    for n in GROWTH:
        blocks, gradient, update = zero_blocks(weights, n), np.full(n, 0.1, np.float32), np.empty(n, np.float32)

        def step(args: tuple = (weights, blocks, blocks, [gradient], [update], SCALE, P)) -> None:
            cpu.advance(*args, add=False)

        report[str(n)] = 1e9 * median_seconds(step, max(3, 2_000_000 // n)) / n
        del blocks, step
    return report


def time_start() -> dict[str, float]:
    """ms of the import of the kernels, after NumPy's, and of the first calls."""
    times = [time.perf_counter()]
    from tinymeta.kernels.lstm import cpu, cpu_unroll

    times.append(time.perf_counter())
    weights, _, gradients, d_updates = problem(64, 2)
    blocks = zero_blocks(weights, 64)
    for call in (
        lambda: cpu.step(weights, blocks, gradients[0], SCALE, P),
        lambda: cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates, blocks, SCALE, P),
    ):
        call()
        times.append(time.perf_counter())
    return dict(zip(("import", "step", "unroll"), 1e3 * np.diff(times), strict=True))


def time_cold_start() -> dict[str, float]:
    """The same with nothing compiled yet."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        return time_start()


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "step": time_steps, "unroll": time_unroll, "sgemm": sgemm, "growth": time_growth, "start": time_start,
    "cold start": time_cold_start,
}  # fmt: skip


def run(contender: str) -> None:
    """`TASK | NAME | N ...`: do it, and print its report."""
    task, *arguments = contender.split(" | ")
    print(json.dumps(TASKS[task](*arguments)))


# ---- the tables ----


def reports_of(names: Sequence[str], task: str, sizes: Sequence[int], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """The reports of one task by network, in alternated processes."""
    keys = {" | ".join([task, name, *map(str, sizes)]): name for name in names}
    return {keys[key]: rows for key, rows in alternate("bench.lstm", list(keys), rounds).items()}


def main() -> None:
    if len(sys.argv) > 1:
        return run(sys.argv[1])
    rate = statistics.median(r["gflops"] for r in alternate("bench.lstm", ["sgemm"], ROUNDS)["sgemm"])
    steps_table(rate)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[EXACT] = f"{folder}/exact.npz"
        np.savez(os.environ[EXACT], *exact_gradient())
        unroll_table(rate)
    growth_table(rate)
    start_table()
    return None


def floored(rows: list[dict[str, Any]], flops: float, rate: float) -> list[dict[str, Any]]:
    """Each row with its share of the rate of sgemm (GF/s); times are in ms."""
    return [row | {"of_sgemm": round(flops / row["median"] / 1e6 / rate, 3)} for row in rows]


def with_errors(rows: list[dict[str, Any]], reports: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row | {"error": f"{max(r['error'] for r in reports[row['name']]):.1e}"} for row in rows]


def steps_table(rate: float) -> None:
    rows = []
    for sizes, rounds, left_out in ((SIZES, ROUNDS, ()), ((LARGE,), ROUNDS_LARGE, ("PyTorch, LSTMCell", UPDATE))):
        names = [name for name in NETWORKS if name not in left_out]
        reports = reports_of(names, "step", sizes, rounds)
        for n in sizes:
            found = floored(with_errors(summarise(reports, str(n), NUMBA), reports), n * FLOPS, rate)
            rows += [row | {"name": f"n = {n:,}: {row['name']}"} for row in found]
    note = (
        f"float32; the state is carried from call to call. At n = {LARGE:,} {ROUNDS_LARGE} rounds, without eager PyTorch. "
        f"Floor: {FLOPS:,} flops of matrix products per coordinate at {rate:.0f} GF/s, NumPy's product of 2048 x 2048 "
        "matrices in the same run. Error: largest of update and state against the reference in float64, before timing."
    )
    columns = {"of_sgemm": "share of sgemm's rate", "error": "largest error"}
    write("lstm", "Step of the LSTM optimizer, 2 x 20 units", "ms", ROUNDS, rows, PACKAGES, note, columns)


def unroll_table(rate: float) -> None:
    n, names = SIZES[0], [NUMBA, TILED, *LAYOUTS, "PyTorch, LSTMCell"]
    reports = reports_of(names, "unroll", [n], ROUNDS)
    rows = floored(with_errors(summarise(reports, "ms", NUMBA), reports), 3 * STEPS * n * FLOPS, rate)
    for row in rows:
        row["mb"] = statistics.median(r["mb"] for r in reports[row["name"]])
    note = (
        f"n = {n:,}, float32, gradient with respect to the weights alone; JAX by scan with jax.checkpoint. "
        f"Floor: three times the flops of {STEPS} steps at {rate:.0f} GF/s. Memory: the peak of the process over what it held "
        "before the call, with the inputs. Error: against the reference in float64, relative to the largest number of each array."
    )
    columns = {"of_sgemm": "share of sgemm's rate", "mb": "memory, MB", "error": "largest error"}
    title = f"Unroll of {STEPS} steps with the gradient of the weights"
    write("lstm_unroll", title, "ms", ROUNDS, rows, PACKAGES, note, columns)


def growth_table(rate: float) -> None:
    reports = alternate("bench.lstm", ["growth"], ROUNDS_LARGE)["growth"]
    by_size = {f"n = {n:,}": [{"ns": report[str(n)]} for report in reports] for n in GROWTH}
    middle = f"n = {GROWTH[1]:,}"
    rows = summarise(by_size, "ns", middle)
    note = (
        f"Floor: {FLOPS / rate:.1f} ns, the flops at {rate:.0f} GF/s; beyond the caches 320 bytes of state are also read, "
        "and as many written."
    )
    packages, columns = ["tinymeta", "numpy", "numba"], {"ratio": f"× {middle}"}
    write("lstm_growth", "Step on Numba, per coordinate", "ns", ROUNDS_LARGE, rows, packages, note, columns)


def start_table() -> None:
    reports = alternate("bench.lstm", ["start"], ROUNDS)["start"]
    cold = alternate("bench.lstm", ["cold start"], 1)["cold start"]
    parts = {
        "import of the kernels, after NumPy's": "import", "first step": "step", "first unroll, after a step": "unroll",
    }  # fmt: skip
    rows = summarise({name: [{"ms": r[key]} for r in reports] for name, key in parts.items()}, "ms", "first step")
    for row, key in zip(rows, parts.values(), strict=True):
        row["cold"] = cold[0][key]
    note = "From the compiled kernels on disk; the last column with none there, which is so once on a machine, in one process."
    columns = {"ratio": "× first step", "cold": "compiled anew, ms"}
    write("lstm_start", "Start of the CPU kernels", "ms", ROUNDS, rows, ["tinymeta", "numpy", "numba"], note, columns)


if __name__ == "__main__":
    main()
