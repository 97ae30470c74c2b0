"""MAML on sinusoid regression: Table 2 and Figures 2 and 3 of Finn, Abbeel, Levine 2017 (arXiv 1703.03400, section 5.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import maml, nets, optim
from tinymeta.data.sine import SineTasks, sine_points, sine_tasks
from tinymeta.experiments import maml_sine_report as report
from tinymeta.experiments.maml_methods import (
    METHODS,
    InnerLoop,
    begin,
    check_methods,
    gradient_of,
    meta_step,
    multi_step,
)
from tinymeta.experiments.maml_sine_regressors import KINDS, Regressors, averaged
from tinymeta.experiments.maml_sine_tasks import Held, Params, mse, on_grid
from tinymeta.experiments.maml_sine_trace import TRACE, save_trained
from tinymeta.experiments.settings import expect, expect_at_least, expect_interval, expect_once
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, mean_ci95, stream

SHOWN_AMPLITUDES = (2.0, 4.0)  # of the test tasks drawn in the figure of fits

AT_LEAST_ONE = (
    "meta_batch", "points", "query_points", "inner_steps", "test_points", "test_steps", "test_query_points",
    "validation_tasks", "hidden", "variant_steps", "implicit_steps", "cg_steps",
    "regressor_iterations", "regressor_points", "tuning_regressors",
)  # fmt: skip
AT_LEAST_ZERO = (
    "iterations", "inner_lr", "implicit_lr", "meta_lr", "baseline_lr", "regressor_lr", "step_sizes", "sigma", "penalties",
)  # fmt: skip


@dataclass(frozen=True)
class Config(Regressors, InnerLoop):
    """The paper's protocol; what it leaves open (initialisation, batch, Adam, iterations) is the authors' code's.

    One difference from that code: its initial weights are cut at 2 sigma. Adam's rate is `meta_lr` for MAML and `baseline_lr` for
    the pretrained net and the oracle. `points` are a task's support points in training (K), `step_sizes` the rates among which
    those of the baselines are tuned for each K. Tests are on a grid over the whole range, or for test_query="fresh" on K fresh
    points as in the authors' code. `variants` are further methods (see maml_methods.py); the multi-task baselines' settings are
    those of `Regressors`.

    Every `validate_every` iterations MAML and each variant adapt to the validation tasks, on as many points as the first of
    test_points; the parameters with the lowest mean error over all steps are kept. For 0, and of the pretrained net and the
    oracle always, they are those of the last iteration.
    """

    iterations: int = 70_000
    meta_batch: int = 25
    meta_lr: float = 1e-3
    baseline_lr: float = 1e-3
    points: int = 10
    query_points: int = 10
    order: int = 2
    test_points: tuple[int, ...] = (5, 10, 20)
    test_tasks: int = 600
    test_steps: int = 10
    test_query: str = "grid"
    test_query_points: int = 100
    step_sizes: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.1)
    validate_every: int = 1000
    validation_tasks: int = 600
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        expect_at_least(1, self, AT_LEAST_ONE)
        expect_interval(self, ("test_tasks",))
        expect_at_least(0, self, AT_LEAST_ZERO)
        for name in ("test_points", "hidden", "step_sizes", "penalties"):
            expect(self, name, bool(getattr(self, name)), "at least one value")
        expect_once(self, ("penalties",))
        expect(self, "order", self.order in (1, 2), "2 for MAML or 1 for first-order MAML")
        expect(self, "test_query", self.test_query in ("grid", "fresh"), "grid or fresh")
        expect(self, "validate_every", self.validate_every >= 0, "1 or more, or 0 to keep the last parameters")
        expect(self, "regressors", self.regressors >= 0, "1 or more, or 0 to leave them out")
        check_methods("variants", self)
        if self.hero in self.variants:
            raise ValueError(f"variants has {self.hero!r}, which is trained anyway: leave it out")

    @property
    def hero(self) -> str:
        """The key of MAML itself in METHODS."""
        return "maml" if self.order == 2 else "first-order"


class Learned(NamedTuple):
    """What training gave, for each K how it adapts, and after how many iterations it was best, if that was looked at."""

    name: str
    meta: Any
    methods: dict[int, maml.Method]
    best_after: int = 0


def train(config: Config, run: Run) -> Outcome:
    """Train all nets on the same tasks, then adapt each to the same test tasks."""
    learned, diverged = _variants(config, run)
    pretrained = _learn(config, run, "pretrained", maml.maml(0.0, 0), config.baseline_lr)["meta"]
    oracle = _learn(config, run, "oracle", maml.maml(0.0, 0), config.baseline_lr, inputs=_with_task, width=3)["meta"]
    regressors = {name: averaged(config, run, name) for name in KINDS if config.regressors}
    baselines = {"pretrained": pretrained} | {name: found.mean for name, found in regressors.items()}
    tuned = {name: _tuned(config, params) for name, params in baselines.items()}
    learned += [Learned(name, params, _at_rates(tuned[name])) for name, params in baselines.items()]
    outcome = _compare(config, learned, oracle)
    outcome.rows.extend(report.validation_rows({one.name: one.best_after for one in learned if one.best_after}))
    outcome.rows.extend(report.regressor_rows(regressors))
    outcome.claims.extend([*report.regressor_claims(regressors), *diverged])
    outcome.series["tuning"] = tuned
    save_trained(run.folder, {one.name: one.meta for one in learned})
    return outcome


def _variants(config: Config, run: Run) -> tuple[list[Learned], list[Claim]]:
    """MAML and the variants asked for; a variant that diverges is a claim that did not hold, and takes no other with it."""
    learned, diverged = [_variant(config, run, config.hero)], []
    for key in config.variants:
        try:
            learned.append(_variant(config, run, key))
        except FloatingPointError as error:
            diverged.append(Claim(f"{METHODS[key].name} trains without diverging", False, str(error)))
    return learned, diverged


def _variant(config: Config, run: Run, key: str) -> Learned:
    name, method = METHODS[key].name, METHODS[key].build(config, None)
    held = Held.draw(config, "validation", config.validation_tasks) if config.validate_every else None
    state = _learn(config, run, key, method, config.meta_lr, held=held)
    methods = dict.fromkeys(config.test_points, method)
    return Learned(name, state.get("best", state["meta"]), methods, state.get("best_after", 0))


def _only_x(x: NDArray, tasks: SineTasks) -> NDArray:
    return x


def _with_task(x: NDArray, tasks: SineTasks) -> NDArray:
    """The oracle's inputs (T, points, 3): x, amplitude and phase."""
    known = np.stack(tasks, axis=-1)[:, None].astype(x.dtype)
    return np.concatenate([x, np.broadcast_to(known, (*x.shape[:-1], 2))], axis=-1)


def _learn(
    config: Config, run: Run, key: str, method: maml.Method, lr: float,
    inputs: Callable = _only_x, width: int = 1, held: Held | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The state after Adam on the meta-gradient, with a fresh meta-batch at every iteration; with no inner step that is pretraining
    on all tasks. With validation tasks in `held` the state has the "best" parameters."""
    adam, gradient = optim.adam(lr), gradient_of(config, method, mse)

    def first() -> dict[str, Any]:
        params = nets.init_mlp(stream(config.seed, "init"), (width, *config.hidden, 1), config.sigma)
        state = begin(method, params, adam)
        return state | {"best": state["meta"], "best_after": 0, "error": np.inf} if held else state

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        rng = stream(config.seed, "train", i)
        tasks = sine_tasks(rng, config.meta_batch)
        (x, y), (x_query, y_query) = (sine_points(tasks, rng, n) for n in (config.points, config.query_points))
        support, query = (inputs(x, tasks), y), (inputs(x_query, tasks), y_query)
        more = multi_step(key, config, i / config.iterations)
        state, loss = meta_step(gradient, adam, state, support, query, **more)
        done = i + 1
        if held and (done % config.validate_every == 0 or done == config.iterations):
            errors = held.errors(method, state["meta"], config.test_points[0], config.test_steps)[:, 1:]
            state = _validated(state, done, float(np.mean(errors, dtype=np.float64)))
        return state, {"loss": loss}

    return run.stage(key, config.iterations, first, step)


def _validated(state: dict[str, Any], done: int, error: float) -> dict[str, Any]:
    """With the best parameters so far: those of the lowest error, and the latest ones while no error was a number."""
    if error < state["error"] or not np.isfinite(state["error"]):
        return {**state, "best": state["meta"], "best_after": done, "error": error if np.isfinite(error) else np.inf}
    return state


def _tuned(config: Config, params: Params) -> dict[int, dict[str, Any]]:
    """For each K the step size with the lowest mean error after the last step on validation tasks, and the error of each."""
    held = Held.draw(config, "validation", config.validation_tasks)
    found: dict[int, dict[str, Any]] = {}
    for k in config.test_points:
        last = [
            float(np.mean(held.errors(maml.maml(lr, 1), params, k, config.test_steps)[:, -1]))
            for lr in config.step_sizes
        ]
        chosen = config.step_sizes[int(np.argmin(np.nan_to_num(last, nan=np.inf)))]
        found[k] = {"step_sizes": config.step_sizes, "validation_mse": last, "chosen": chosen}
    return found


def _at_rates(tuning: dict[int, dict[str, Any]]) -> dict[int, maml.Method]:
    return {k: maml.maml(one["chosen"], 1) for k, one in tuning.items()}


def _compare(config: Config, learned: list[Learned], oracle: Params) -> Outcome:
    held = Held.draw(config, "test", config.test_tasks)
    errors = {
        name: {k: held.errors(method, meta, k, config.test_steps) for k, method in methods.items()}
        for name, meta, methods, _ in learned
    }
    x, y = held.query
    known = mean_ci95(mse(oracle, (_with_task(x, held.tasks), y)))
    series = {
        "curves": {method: {k: report.curve(e) for k, e in by_points.items()} for method, by_points in errors.items()},
        "oracle": known,
        "fits": _fits(config, held, [one for one in learned if one.name in (learned[0].name, "pretrained")]),
    }
    rows = [*report.rows(errors), Row("oracle: amplitude and phase are inputs", known[0], None, known[1])]
    return Outcome(rows, report.claims(errors, learned[0].name), series)


def _fits(config: Config, held: Held, learned: list[Learned]) -> list[dict]:
    """What the figure of fits shows: two test tasks, and each net's outputs on the grid before and after 1 and all steps."""
    k = config.test_points[0]
    x, y = on_grid(held.tasks, config.test_query_points)
    shown = [int(np.argmin(abs(held.tasks.amplitude - amplitude))) for amplitude in SHOWN_AMPLITUDES]
    outputs: dict[str, dict[int, NDArray]] = {}
    for name, meta, methods, _ in learned:
        path = held.path(methods[k], meta, k, config.test_steps)
        outputs[name] = {n: nets.mlp(path[n], x)[:, :, 0] for n in sorted({0, 1, config.test_steps})}
    return [
        {
            "x": x[t, :, 0],
            "truth": y[t, :, 0],
            "support": [points[t, :k, 0] for points in held.support],
            "outputs": {method: {n: o[t] for n, o in after.items()} for method, after in outputs.items()},
        }
        for t in shown
    ]


# from larger weights and with larger steps a tenth of the iterations suffices
QUICK = {
    "iterations": 6_000, "meta_lr": 4e-3, "sigma": 0.3, "validate_every": 0, "validation_tasks": 200, "regressors": 0,
}  # fmt: skip

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
    presets={
        "quick": QUICK,
        "paper": {},
        "shared-start": {"shared_start": True},
        "code": {"inner_lr": 1e-3, "test_query": "fresh", "validate_every": 0, "regressors": 0},
        "variants": QUICK
        | {  # learned rates of 0.01 do not bear Adam's steps of 0.004
            "variants": ("first-order", "anil", "meta-sgd", "maml++", "reptile"),
            "variant_steps": 3,
            "meta_lr": 1e-3,
            "validate_every": 200,
        },
    },
    train=train,
    draw=report.draw,
    minutes={"quick": 0.7, "paper": 7.0, "shared-start": 7.0, "code": 2.0, "variants": 2.0},
    trace=TRACE,
)
