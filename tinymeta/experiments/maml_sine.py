"""MAML on sinusoid regression: Table 2 and Figures 2 and 3 of Finn, Abbeel, Levine 2017 (arXiv 1703.03400, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinymeta import maml, nets, ops, optim
from tinymeta.data.sine import INPUTS, SineTasks, sine_points, sine_tasks
from tinymeta.engine.transforms import value_and_grad
from tinymeta.experiments import maml_sine_report as report
from tinymeta.lab import Experiment, Outcome, Row, Run, mean_ci95, stream

SHOWN_AMPLITUDES = (2.0, 4.0)  # of the test tasks drawn in the figure of fits

AT_LEAST_ONE = (
    "meta_batch", "points", "query_points", "inner_steps", "test_points", "test_tasks", "test_steps", "test_query_points",
    "validation_tasks", "hidden",
)  # fmt: skip

Params = tuple[nets.Layer, ...]


@dataclass(frozen=True)
class Config:
    """The paper's protocol; what it leaves open (initialisation, batch, Adam, iterations) is the authors' code's.

    Two differences from that code: its initial weights are cut at 2 sigma, and it tests on K fresh points, we on a grid.
    Adam's rate is `meta_lr` for MAML and `baseline_lr` for the pretrained net and the oracle. `points` are a task's support
    points in training (K), `step_sizes` the rates among which the pretrained net's is tuned for each K.
    """

    seed: int = 0
    hidden: tuple[int, ...] = (40, 40)
    sigma: float = 0.01
    iterations: int = 70_000
    meta_batch: int = 25
    meta_lr: float = 1e-3
    baseline_lr: float = 1e-3
    points: int = 10
    query_points: int = 10
    inner_lr: float = 0.01
    inner_steps: int = 1
    order: int = 2
    test_points: tuple[int, ...] = (5, 10, 20)
    test_tasks: int = 600
    test_steps: int = 10
    test_query_points: int = 100
    step_sizes: tuple[float, ...] = (0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1)
    validation_tasks: int = 200

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            found = getattr(self, name)
            if min(found, default=0) < 1 if isinstance(found, tuple) else found < 1:
                raise ValueError(f"{name} = {found}, expected 1 or more")
        if not self.step_sizes:
            raise ValueError("step_sizes = (), expected at least one step size to tune")
        if self.order not in (1, 2):
            raise ValueError(f"order = {self.order}, expected 2 for MAML or 1 for first-order MAML")


def mse(params: Params, data: Any) -> Any:
    """Mean squared error over points and outputs, one per task."""
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))


def train(config: Config, run: Run) -> Outcome:
    """Train the three nets on the same tasks, then adapt each to the same test tasks."""
    learned = _learn(config, run, "maml", config.meta_lr, config.inner_steps)
    pretrained = _learn(config, run, "pretrained", config.baseline_lr)
    oracle = _learn(config, run, "oracle", config.baseline_lr, inputs=_with_task, width=3)
    return _compare(config, learned, pretrained, oracle)


def _only_x(x: NDArray, tasks: SineTasks) -> NDArray:
    return x


def _with_task(x: NDArray, tasks: SineTasks) -> NDArray:
    """The oracle's inputs (T, points, 3): x, amplitude and phase."""
    known = np.stack(tasks, axis=-1)[:, None].astype(x.dtype)
    return np.concatenate([x, np.broadcast_to(known, (*x.shape[:-1], 2))], axis=-1)


def _learn(
    config: Config, run: Run, name: str, lr: float, inner_steps: int = 0, inputs: Callable = _only_x, width: int = 1
) -> Params:
    """Adam on the meta-loss, a fresh meta-batch at every iteration; with no inner step that is pretraining on all tasks."""

    def objective(params: Params, support: Any, query: Any) -> Any:
        return maml.meta_loss(mse, params, support, query, config.inner_lr, inner_steps, config.order)

    adam, descent = optim.adam(lr), value_and_grad(objective)

    def begin() -> dict[str, Any]:
        params = nets.init_mlp(stream(config.seed, "init"), (width, *config.hidden, 1), config.sigma)
        return {"params": params, "adam": adam.init(params)}

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        rng = stream(config.seed, "train", i)
        tasks = sine_tasks(rng, config.meta_batch)
        (x, y), (x_query, y_query) = (sine_points(tasks, rng, n) for n in (config.points, config.query_points))
        loss, gradient = descent(state["params"], (inputs(x, tasks), y), (inputs(x_query, tasks), y_query))
        updates, moments = adam.update(gradient, state["adam"])
        return {"params": optim.apply_updates(state["params"], updates), "adam": moments}, {"loss": float(loss)}

    return run.stage(name, config.iterations, begin, step)["params"]


@dataclass(frozen=True)
class Held:
    """Tasks that no net was trained on: support points (the first K are used) and a grid of query points for each."""

    tasks: SineTasks
    support: tuple[NDArray, NDArray]
    query: tuple[NDArray, NDArray]

    @classmethod
    def draw(cls, config: Config, name: str, count: int) -> Held:
        rng = stream(config.seed, name)
        tasks = sine_tasks(rng, count)
        x = np.linspace(*INPUTS, config.test_query_points, dtype=np.float32)[:, None]
        y = tasks.amplitude[:, None, None] * np.sin(x - tasks.phase[:, None, None])
        query = np.broadcast_to(x, y.shape).copy(), y.astype(np.float32)
        return cls(tasks, sine_points(tasks, rng, max(config.test_points)), query)

    def path(self, params: Params, points: int, lr: float, steps: int) -> list[Params]:
        """The parameters of every task before and after each step on its first `points` points."""
        x, y = self.support
        support = x[:, :points].copy(), y[:, :points].copy()
        with np.errstate(over="ignore", invalid="ignore"):  # a task that diverges is counted, not an error
            return maml.adaptation_path(mse, params, support, lr, steps, order=1)


def _errors(held: Held, params: Params, points: int, lr: float, steps: int) -> report.Errors:
    path = held.path(params, points, lr, steps)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([mse(fast, held.query) for fast in path], axis=1)


def _tuned(config: Config, params: Params, points: int) -> dict[str, Any]:
    """The step size with the lowest mean error after the last step on validation tasks, and the error of each."""
    held = Held.draw(config, "validation", config.validation_tasks)
    paths = (held.path(params, points, lr, config.test_steps) for lr in config.step_sizes)
    with np.errstate(over="ignore", invalid="ignore"):
        found = [float(np.mean(mse(path[-1], held.query))) for path in paths]
    best = int(np.argmin(np.nan_to_num(found, nan=np.inf)))
    return {"step_sizes": config.step_sizes, "validation_mse": found, "chosen": config.step_sizes[best]}


def _compare(config: Config, learned: Params, pretrained: Params, oracle: Params) -> Outcome:
    held = Held.draw(config, "test", config.test_tasks)
    hero = "MAML" if config.order == 2 else "first-order MAML"
    tuning = {k: _tuned(config, pretrained, k) for k in config.test_points}
    nets_and_rates = {
        hero: (learned, dict.fromkeys(config.test_points, config.inner_lr)),
        "pretrained": (pretrained, {k: tuning[k]["chosen"] for k in config.test_points}),
    }
    errors = {
        method: {k: _errors(held, params, k, rates[k], config.test_steps) for k in config.test_points}
        for method, (params, rates) in nets_and_rates.items()
    }
    x, y = held.query
    known = mean_ci95(mse(oracle, (_with_task(x, held.tasks), y)))
    series = {
        "curves": {method: {k: report.curve(e) for k, e in by_points.items()} for method, by_points in errors.items()},
        "oracle": known,
        "tuning": tuning,
        "fits": _fits(config, held, nets_and_rates),
    }
    return Outcome(
        [*report.rows(errors), Row("oracle: amplitude and phase are inputs", known[0], None, known[1])],
        report.claims(errors, hero),
        series,
    )


def _fits(config: Config, held: Held, nets_and_rates: dict[str, tuple[Params, dict[int, float]]]) -> list[dict]:
    """What the figure of fits shows: two test tasks, and each net's outputs on the grid before and after 1 and all steps."""
    k, (x, y) = config.test_points[0], held.query
    shown = [int(np.argmin(abs(held.tasks.amplitude - amplitude))) for amplitude in SHOWN_AMPLITUDES]
    outputs: dict[str, dict[int, NDArray]] = {}
    for method, (params, rates) in nets_and_rates.items():
        path = held.path(params, k, rates[k], config.test_steps)
        outputs[method] = {n: nets.mlp(path[n], x)[:, :, 0] for n in sorted({0, 1, config.test_steps})}
    return [
        {
            "x": x[t, :, 0],
            "truth": y[t, :, 0],
            "support": [points[t, :k, 0] for points in held.support],
            "outputs": {method: {n: o[t] for n, o in after.items()} for method, after in outputs.items()},
        }
        for t in shown
    ]


EXPERIMENT = Experiment(
    name="maml-sine",
    title="MAML: learning a sine wave from a few points in one gradient step",
    paper="Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.1",
    summary=(
        "Each task is a sine wave of its own amplitude and phase. MAML looks for initial weights of a small ReLU net from "
        "which one gradient step on a few points fits any such wave; the baseline is the same net trained on all waves at once."
    ),
    how_to_read=(
        "Lower is better: the figures are mean squared errors on new waves, over the whole range and not only near the points. "
        "Look at how far each curve falls in its first gradient step: MAML's falls at once, the pretrained net's hardly does."
    ),
    config=Config,
    presets={  # quick: from larger weights and with larger steps a tenth of the iterations suffices
        "quick": {"iterations": 6_000, "meta_lr": 4e-3, "sigma": 0.3},
        "paper": {},
        "code": {"inner_lr": 1e-3},
    },
    train=train,
    draw=report.draw,
    minutes={"quick": 0.7, "paper": 5.0, "code": 5.0},
)
