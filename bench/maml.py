"""MAML's meta-step, second order, against JAX, torch.func, TorchOpt and higher: the sinusoid with Adam, and Omniglot's conv net.

A contender is a process that `main` starts, with the exact results in a file. For each setting it compares its first meta-loss and
meta-gradient with those of float64, and reports the seconds of that first call and the median time of a step. The first calls of
tinymeta are those of two more processes, one with nothing compiled on disk and one after it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from .measure import alternate, median_seconds, memory, new_peak, summarise, write

ROUNDS = {"training": 3, "sine": 5, "omniglot": 5, "first call": 3}
SEED = 1  # seed 0 puts a ReLU of the conv net at 0, where float32 decides by its last bit
INNER_LR = {"sine": 0.01, "omniglot": 0.4}


class Setting(NamedTuple):
    """Tasks in a meta-batch, inner steps, and the points of support and of query of a task."""

    tasks: int
    steps: int
    points: int

    def __str__(self) -> str:
        return f"{self.tasks} tasks, {self.steps} inner step{'s' * (self.steps > 1)}"


SETTINGS = {
    "sine": [Setting(4, 1, 10), Setting(25, 1, 10), Setting(100, 1, 10), Setting(25, 5, 10)],
    "omniglot": [Setting(8, 1, 5)],
}
TITLES = {
    "sine": "MAML's meta-step on sinusoids, second order, with Adam",
    "omniglot": "MAML's meta-step on 5-way 1-shot Omniglot, second order, with Adam",
}
PACKAGES = ["tinymeta", "numpy", "numba", "torch", "jax", "torchopt", "higher"]
EXACT = "TINYMETA_BENCH_MAML_REFERENCE"  # the file with the exact losses and gradients, for the contenders
NOTE = (
    "float32. Floor: the flops of the products at {rate:.0f} GF/s, NumPy's product of 2048 x 2048 matrices in the same run. "
    "First call of tinymeta: capture, compilation and the import of Numba, with nothing on disk, and in a second process with "
    "what the first left there, medians of three; of the others, which keep nothing on disk: what it takes in each process, "
    "without their imports. "
    "Error: largest of loss and gradient against tinymeta op by op in float64, relative to the largest entry, before timing."
)
COLUMNS = {
    "of_sgemm": "share of sgemm's rate", "first": "first call, nothing on disk, s", "from_disk": "first call, from disk, s",
    "peak": "process, MB", "error": "largest error",
}  # fmt: skip
MEMORY = (  # of the table with one setting: later ones find what those before left
    "Memory of the step: the peak in the calls after the first over what the process held before that one, its libraries and "
    "inputs; process: the peak of all."
)
FEWER_CALLS = {"TorchOpt": 0.1, "higher": 0.05}  # of those that take a hundred times as long, as a fraction


def data(kind: str, setting: Setting) -> tuple[list, tuple, tuple]:
    """(parameters as a flat list of arrays, support, query), float32; labels are int64."""
    rng = np.random.default_rng(SEED)
    return _sine(rng, setting) if kind == "sine" else _images(rng, setting)


def flops(kind: str, setting: Setting) -> int:
    """Of the products of a meta-step. For one point a gradient takes a forward pass and twice as much to go back, and a
    Hessian-vector product, as the derivative of both, twice as many products; the inputs have no gradient."""
    first, rest = (
        (40, 40 * 40 + 40) if kind == "sine" else (9 * 64 * 14**2, 9 * 64 * 64 * (7**2 + 4**2 + 2**2) + 64 * 5)
    )
    gradient, hvp = 2 * first + 3 * rest, 2 * first + 6 * rest
    return 2 * setting.tasks * setting.points * (setting.steps * (gradient + hvp) + gradient)


def _sine(rng: np.random.Generator, setting: Setting) -> tuple[list, tuple, tuple]:
    params = []
    for a, b in ((1, 40), (40, 40), (40, 1)):
        params += [(np.sqrt(1 / a) * rng.normal(size=(a, b))).astype(np.float32), np.zeros(b, np.float32)]
    amplitude, phase = rng.uniform(0.1, 5, (setting.tasks, 1, 1)), rng.uniform(0, np.pi, (setting.tasks, 1, 1))
    x = [rng.uniform(-5, 5, (setting.tasks, setting.points, 1)).astype(np.float32) for _ in range(2)]
    support, query = ((u, (amplitude * np.sin(u - phase)).astype(np.float32)) for u in x)
    return params, support, query


def _images(rng: np.random.Generator, setting: Setting) -> tuple[list, tuple, tuple]:
    """Random strokes stand for characters: time does not depend on what is drawn."""
    params = []
    for channels in (1, 64, 64, 64):
        limit = np.sqrt(6 / (9 * (channels + 64)))
        w = rng.uniform(-limit, limit, (64, channels, 3, 3)).astype(np.float32)
        params += [w, np.ones(64, np.float32), np.zeros(64, np.float32)]
    params += [(rng.normal(size=(64, 5)) / 8).astype(np.float32), np.zeros(5, np.float32)]
    labels = np.tile(np.arange(5), (setting.tasks, 1))
    x = [(rng.random((setting.tasks, setting.points, 1, 28, 28)) < 0.1).astype(np.float32) for _ in range(2)]
    return params, (x[0], labels), (x[1], labels)


# ---- contenders: make(kind, setting) -> one(), which does a meta-step and returns its loss and gradient ----


def tinymeta_step(kind: str, setting: Setting, backend: str = "") -> tuple[Callable, Any, Any]:
    """(step(params, state, support, query) -> (params, state, loss, gradient), params, state)."""
    os.environ["TINYMETA_BACKEND"] = backend
    import tinymeta as tm
    from tinymeta import maml, nets, ops, optim

    flat, _, _ = data(kind, setting)
    if kind == "sine":
        params: Any = tuple(nets.Layer(*flat[i : i + 2]) for i in (0, 2, 4))
    else:
        params = tuple(nets.NormLayer(*flat[i : i + 3]) for i in (0, 3, 6, 9)), nets.Layer(*flat[12:])

    def loss(params: Any, data: Any) -> Any:
        x, y = data
        if kind == "sine":
            return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))
        return ops.mean(ops.softmax_cross_entropy(nets.conv4(params, x), y), axis=-1)

    adam = optim.adam(1e-3)
    descent = tm.value_and_grad(lambda p, s, q: maml.meta_loss(loss, p, s, q, INNER_LR[kind], setting.steps))

    def step(params: Any, state: Any, support: Any, query: Any) -> tuple:
        value, gradient = descent(params, support, query)
        updates, state = adam.update(gradient, state)
        return optim.apply_updates(params, updates), state, value, gradient

    return step, params, adam.init(params)._replace(step=np.asarray(0))


def tinymeta(kind: str, setting: Setting, backend: str = "", compiled: bool = True) -> Callable:
    import tinymeta as tm

    step, *state = tinymeta_step(kind, setting, backend)
    run = tm.compile(step) if compiled else step
    _, support, query = data(kind, setting)

    def one() -> tuple:
        *state[:], value, gradient = run(*state, support, query)
        return value, gradient

    return one


def tinymeta_numpy(kind: str, setting: Setting) -> Callable:
    return tinymeta(kind, setting, "numpy")


def tinymeta_eager(kind: str, setting: Setting) -> Callable:
    return tinymeta(kind, setting, compiled=False)


def peer(module: str, name: str) -> Callable:
    """A contender of a module that is imported in its own process only."""

    def make(kind: str, setting: Setting) -> Callable:
        from importlib import import_module

        found = getattr(import_module(f"bench.{module}"), name)
        return found(kind, setting, *data(kind, setting), INNER_LR[kind])

    return make


CONTENDERS: dict[str, Callable[[str, Setting], Callable]] = {
    "sine: tinymeta": tinymeta,
    "sine: tinymeta without Numba": tinymeta_numpy,
    "sine: tinymeta, eager": tinymeta_eager,
    "sine: JAX, jit and vmap": peer("maml_jax", "vmapped"),
    "sine: torch.func, vmap": peer("maml_torch", "vmapped"),
    "sine: TorchOpt": peer("maml_torch", "torchopt_loop"),
    "sine: higher": peer("maml_torch", "higher_loop"),
    "omniglot: tinymeta": tinymeta,
    "omniglot: tinymeta without Numba": tinymeta_numpy,
    "omniglot: tinymeta, eager": tinymeta_eager,
    "omniglot: torch.func, vmap": peer("maml_torch", "vmapped"),
    "omniglot: PyTorch, loop": peer("maml_torch", "looped"),
    "omniglot: JAX, jit and loop": peer("maml_jax", "looped"),
    "omniglot: JAX, jit and vmap": peer("maml_jax", "vmapped"),
}


def report(contender: str) -> dict[str, Any]:
    """What a contender's process prints: by setting, and the peak of the whole process."""
    if EXACT not in os.environ:
        raise SystemExit(
            f"{EXACT} names no file with exact results; python -m bench maml writes one and starts all contenders"
        )
    kind, _, name = contender.partition(": ")
    found, peak = {}, 0.0
    for setting in SETTINGS[kind]:
        one = CONTENDERS[contender](kind, setting)
        if name == "tinymeta":
            import numba  # noqa: F401  as its peers have their libraries, before the memory that is held is read
        held, start = memory("VmRSS"), time.perf_counter()
        loss, gradient = one()
        first = time.perf_counter() - start
        error = agreeing(setting, loss, gradient)
        peak = max(peak, memory("VmHWM"))
        new_peak()
        many = 400 * 25 / (setting.tasks * setting.steps) if kind == "sine" else 12
        ms = 1e3 * median_seconds(one, max(3, min(1000, int(many * FEWER_CALLS.get(name, 1)))))
        found[str(setting)] = {"error": error, "first": first, "ms": ms, "mb": memory("VmHWM") - held}
        peak = max(peak, memory("VmHWM"))
    return {"settings": found, "peak": peak}


def agreeing(setting: Setting, loss: Any, gradient: Any) -> float:
    """The largest error of a first call, if it is one of float32's rounding; nothing else is timed."""
    with np.load(os.environ[EXACT]) as exact:
        pairs = [(exact[f"loss, {setting}"], np.asarray(loss)), (exact[f"gradient, {setting}"], _flat(gradient))]
    error = float(np.max([np.max(np.abs(found - true)) / np.max(np.abs(true)) for true, found in pairs]))
    if not error < 1e-5:
        raise SystemExit(f"the largest error against float64 is {error:.1e}, expected below 1e-5: {setting}")
    return error


def exact_results(kind: str) -> dict[str, np.ndarray]:
    """Loss and gradient of every setting in float64, op by op."""
    import tinymeta as tm

    found = {}
    for setting in SETTINGS[kind]:
        step, *state = tinymeta_step(kind, setting)
        given = [*state, *data(kind, setting)[1:]]
        _, _, loss, gradient = step(*tm.trees.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, given))
        found |= {f"loss, {setting}": np.asarray(loss), f"gradient, {setting}": _flat(gradient)}
    return found


def _flat(gradient: Any) -> np.ndarray:
    """All numbers of a tree of lists and tuples, in order."""
    if isinstance(gradient, (list, tuple)):
        return np.concatenate([_flat(part) for part in gradient])
    return np.ravel(np.asarray(gradient))


FIRST = "first call | "  # before the name of a contender whose process only makes first calls


def first_calls(contender: str) -> dict[str, float]:
    """The seconds of the first call, by setting; Numba is imported in the first of all."""
    kind, found = contender.partition(": ")[0], {}
    for setting in SETTINGS[kind]:
        one = CONTENDERS[contender](kind, setting)
        start = time.perf_counter()
        one()
        found[str(setting)] = time.perf_counter() - start
    return found


def cold_and_warm(contender: str, rounds: int) -> list[dict[str, float]]:
    """Medians of the first calls by setting: of processes that find nothing on disk, and of those that come after them."""
    pairs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(alternate("bench.maml", [FIRST + contender], 2, {"TINYMETA_CACHE": folder})[FIRST + contender])
    return [
        {setting: median(report[setting] for report in reports) for setting in reports[0]}
        for reports in zip(*pairs, strict=True)
    ]


def rows(kind: str, reports: dict[str, list[dict[str, Any]]], rate: float) -> list[dict[str, Any]]:
    """One row per setting and contender; `rate` is sgemm's, in GF/s."""
    made = []
    for setting in SETTINGS[kind]:
        of = {name: [r["settings"][str(setting)] for r in rounds] for name, rounds in reports.items()}
        for row in summarise(of, "ms", f"{kind}: tinymeta"):
            found, rounds = of[row["name"]], reports[row["name"]]
            made.append(row | {
                "name": f"{row['name'].partition(': ')[2]}, {setting}",
                "of_sgemm": round(flops(kind, setting) / row["median"] / 1e6 / rate, 3),
                "first": round(median(r["first"] for r in found), 2), "from_disk": None,
                "mb": round(median(r["mb"] for r in found)), "peak": round(median(r["peak"] for r in rounds)),
                "error": f"{max(r['error'] for r in found):.1e}",
            })  # fmt: skip
    return made


def with_first_calls(kind: str, table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with first calls of tinymeta for which it is known what was on disk; the other contenders keep nothing there."""
    cold, warm = cold_and_warm(f"{kind}: tinymeta", ROUNDS["first call"])
    known = {f"tinymeta, {s}": {"first": round(cold[s], 2), "from_disk": round(warm[s], 2)} for s in cold}
    return [row | known.get(row["name"], {}) for row in table]


# ---- the paper's training run: 70,000 iterations, with the sampling of tasks ----

ITERATIONS = 70_000


def train_tinymeta() -> dict[str, Any]:
    """Seconds of all iterations, and the mean loss of the last ones."""
    import tinymeta as tm

    step, *state = tinymeta_step("sine", SETTINGS["sine"][1])
    run, rng, losses = tm.compile(step), np.random.default_rng(SEED), []

    def iterate(count: int) -> None:
        for _ in range(count):
            tasks = tm.data.sine_tasks(rng, 25)
            support, query = tm.data.sine_points(tasks, rng, 10), tm.data.sine_points(tasks, rng, 10)
            *state[:], loss, _ = run(*state, support, query)
            losses.append(float(loss))

    iterate(10)
    start = time.perf_counter()
    iterate(ITERATIONS)
    return {"seconds": time.perf_counter() - start, "loss": float(np.mean(losses[-1000:]))}


def train_jax() -> dict[str, Any]:
    from . import maml_jax

    params, _, _ = data("sine", SETTINGS["sine"][1])
    run = maml_jax.scanned(params, INNER_LR["sine"], ITERATIONS)
    start = time.perf_counter()
    losses = run(1)
    return {"seconds": time.perf_counter() - start, "loss": float(np.mean(losses[-1000:]))}


TRAINING: dict[str, Callable[[], dict[str, Any]]] = {"tinymeta": train_tinymeta, "JAX, one jitted scan": train_jax}


def train() -> None:
    reports = alternate("bench.maml", list(TRAINING), ROUNDS["training"])
    losses = {name: float(np.mean([r["loss"] for r in rounds])) for name, rounds in reports.items()}
    ours = losses["tinymeta"]
    if not all(0.8 * ours < loss < 1.25 * ours for loss in losses.values()):
        raise SystemExit(f"the contenders do not learn alike: {losses}")
    found = [row | {"loss": round(losses[row["name"]], 3)} for row in summarise(reports, "seconds", "tinymeta")]
    note = (
        "All are run, each on its own draw of 25 tasks of 10 + 10 points; both programs are compiled before. The loss is the mean "
        "of the last 1,000."
    )
    write("maml-sine-training", "70,000 iterations of MAML on sinusoids, sampling included", "s", ROUNDS["training"], found,
          ["tinymeta", "numpy", "jax"], note, {"loss": "loss"})  # fmt: skip


def run(contender: str) -> dict[str, Any]:
    """What the process of a contender prints."""
    if contender.startswith(FIRST):
        return first_calls(contender.removeprefix(FIRST))
    return TRAINING[contender]() if contender in TRAINING else report(contender)


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(run(sys.argv[1])))
        return
    train()
    rate = median(r["gflops"] for r in alternate("bench.lstm", ["sgemm"], ROUNDS["sine"])["sgemm"])
    for kind in TITLES:
        compare(kind, rate)


def compare(kind: str, rate: float) -> None:
    """The table of a kind of task."""
    names = [name for name in CONTENDERS if name.startswith(kind)]
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **exact_results(kind))
        file.flush()
        reports = alternate("bench.maml", names, ROUNDS[kind], {EXACT: file.name})
    note, columns = NOTE.format(rate=rate), COLUMNS
    if len(SETTINGS[kind]) == 1:
        note, columns = f"{note} {MEMORY}", COLUMNS | {"mb": "memory of the step, MB"}
    table = with_first_calls(kind, rows(kind, reports, rate))
    write(f"maml-{kind}", TITLES[kind], "ms", ROUNDS[kind], table, PACKAGES, note, columns)


if __name__ == "__main__":
    main()
