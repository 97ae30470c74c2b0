"""Many permuted-MNIST tasks in a row: Fig. 2B of Kirkpatrick et al. 2016 (arXiv 1612.00796; Fig. 3B in PNAS).

Its protocol: SGD with dropout against EWC, each with the best of 50 random settings, and an early stopping that looks at the
validation images of all tasks seen so far, "to give SGD with dropout the best possible chance". The paper prints curves only. Ours
has SGD without dropout too, beside runs in which EWC has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.engine import trees
from tinymeta.ewc import KINDS
from tinymeta.lab import Claim, Experiment, Outcome, Run, stream
from tinymeta.lab import figures as look

from .ewc_memory import Learner
from .ewc_report import (
    Trials,
    at_the_ends,
    band,
    choose,
    final,
    forgotten,
    grid_series,
    mean_se,
    row,
    search,
    so_far,
    validation,
    with_se,
)
from .ewc_settings import check_settings
from .ewc_tasks import IMAGES, Task, accuracies, tasks_of_repeat
from .ewc_training import Course, Found, Protocol, State, begin, course, descend, look_back, summed_up

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("SGD", "SGD+dropout", "EWC")
SOURCE = "1612.00796, Fig. 2B: curves, no numbers"


@dataclass(frozen=True)
class Config:
    """Two hidden layers. Each method is tried with `combinations` random settings: a learning rate, log-uniform in `rates`, a
    width, uniform in `widths`, and for EWC a λ, log-uniform in `lams`; the best on validation images is reported.

    The ranges of rates and widths, epochs, dropout, patience and the number of combinations are the paper's; that of λ, the
    minibatch size and the number of tasks, which its text does not give, are ours. `ewc_dropout`: whether EWC's networks have
    dropout too, as the paper's table can be read. A "step" of the stopping rule is an epoch.
    """

    seed: int = 0
    tasks: int = 10
    combinations: int = 50
    rates: tuple[float, float] = (1e-5, 1e-3)
    widths: tuple[int, int] = (400, 2000)
    lams: tuple[float, float] = (1.0, 1000.0)
    epochs: int = 100
    patience: int = 5
    ewc_dropout: bool = True
    images: str = "mnist"
    batch_size: int = 10
    fisher: str = "exact"
    fisher_samples: int = 10_000
    validation: int = 10_000
    repeats: int = 1

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "fisher": KINDS},
            positive=("tasks", "combinations", "epochs", "batch_size", "validation", "repeats"),
            not_negative=("patience",),
        )
        for name in ("rates", "widths", "lams"):
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "rates" and low == high):  # settings are told apart by their rates
                raise ValueError(f"{name} = {(low, high)}, expected two positive numbers, the lower one first")

    @property
    def settings(self) -> list[tuple[Learner, int]]:
        """(learner, width) of everything that is tried; all methods draw the same rates and widths."""
        found = []
        for number in range(self.combinations):
            rng = stream(self.seed, "search", number)
            rate, lam = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (self.rates, self.lams))
            width = int(rng.integers(self.widths[0], self.widths[1] + 1))
            found.append((Learner("SGD", rate), width))
            found.append((Learner("SGD+dropout", rate, dropout=True), width))
            found.append((Learner("EWC", rate, lam, self.fisher, dropout=self.ewc_dropout), width))
        return found


def train(config: Config, run: Run) -> Outcome:
    """All settings of all methods; repeat with the best of each, on other permutations."""
    widths = dict(config.settings)

    @lru_cache(maxsize=1)
    def of(repeat: int) -> list[Task]:
        return tasks_of_repeat(config, repeat, config.tasks)

    def learn(learner: Learner, repeat: int) -> Found:
        tasks = of(repeat)
        batches = len(tasks[0].train.y) // config.batch_size
        hidden = (widths[learner],) * 2
        protocol = Protocol(hidden, "sgd", batches, config.batch_size, fisher_samples=config.fisher_samples)
        name = f"repeat {repeat + 1}, {learner.name}, width {widths[learner]}"
        return _learn_stopping(config, run, course(name, protocol, tasks, config.seed, "repeat", repeat), learner)

    return _report(config, search(list(widths), config.repeats, learn))


# ---- one sequence with early stopping ----


def _learn_stopping(config: Config, run: Run, at: Course, learner: Learner) -> Found:
    """One stage of the run, an epoch a step; it ends with the last task's."""

    def step(state: State, _: int) -> tuple[State, dict[str, float]]:
        state, error = _epoch(config, at, learner, state)
        return state, {"validation_error": error}

    state = run.stage(
        at.name,
        config.tasks * config.epochs,
        partial(_start, at),
        step,
        until=lambda state: state["task"] == config.tasks,
        in_place=True,
    )
    return Found(state["accuracy"], state["validation"], state["stability"])


def _start(at: Course) -> State:
    state = begin(at)
    return {**state, "task": 0, **_fresh(state["params"])}


def _fresh(params: Any) -> State:
    """At the start of a task: epochs done, the error after the last one, how often it rose in a row, the lowest and its weights."""
    return {"epoch": 0, "error": np.inf, "rises": 0, "lowest": np.inf, "best": trees.map(np.copy, params)}


def _epoch(config: Config, at: Course, learner: Learner, state: State) -> tuple[State, float]:
    number, batches = state["task"], at.protocol.steps
    for batch in range(batches):
        descend(at, learner, state, number, state["epoch"] * batches + batch)
    error = 100 - float(accuracies(state["params"], at.tasks[: number + 1], "validation").mean())
    state = _after_epoch(state, error)
    if state["epoch"] == config.epochs or state["rises"] > config.patience:
        state = _end_task(at, learner, state)
    return state, error


def _after_epoch(state: State, error: float) -> State:
    """The paper's record: how often in a row the error has risen, and the weights with the lowest."""
    rises = state["rises"] + 1 if error > state["error"] else 0
    state = {**state, "epoch": state["epoch"] + 1, "error": error, "rises": rises}
    if error < state["lowest"]:
        state |= {"lowest": error, "best": trees.map(np.copy, state["params"])}
    return state


def _end_task(at: Course, learner: Learner, state: State) -> State:
    """Back to the best weights, which are what is remembered; after the last task, what is left of the sequence."""
    number, params = state["task"], trees.map(np.copy, state["best"])
    accuracy = np.concatenate([state["accuracy"], accuracies(params, at.tasks)[None]])
    state = {**state, "params": params, "accuracy": accuracy}
    if number + 1 < len(at.tasks):
        return {**look_back(at, learner, state, number), "task": number + 1, **_fresh(params)}
    return {"task": number + 1, **summed_up(at, learner, state)}


# ---- what was found ----


def _report(config: Config, trials: Trials) -> Outcome:
    best = choose(trials)
    found = {method: trials[best[method]] for method in METHODS}
    first = max(found.values(), key=validation)  # whichever: at the first task there is nothing to forget yet
    alone = np.array([one.accuracy[1, 0] for one in first])
    widths = dict(config.settings)
    series = {
        "curves": {m: dict(zip(("mean", "se"), mean_se(so_far(results)), strict=True)) for m, results in found.items()},
        "single_task": mean_se(alone)[0],
        "chosen": {m: {"rate": one.learning_rate, "lambda": one.lam, "width": widths[one]} for m, one in best.items()},
        "search": [
            {**point, "width": widths[learner]} for learner, point in zip(trials, grid_series(trials), strict=True)
        ],
    }
    rows = [row("a single task (the first, by the method that ends best), test accuracy", alone, source=SOURCE)]
    for method, results in found.items():
        name = f"{method}, mean test accuracy over {config.tasks} tasks after the last"
        rows.append(row(name, final(results).mean(axis=1), source=SOURCE))
    return Outcome(rows, _claims(found, at_the_ends(trials)), series)


def _claims(found: Mapping[str, Any], ends: str) -> list[Claim]:
    accuracy = {method: final(results).mean(axis=1) for method, results in found.items()}
    means = ", ".join(f"{method} {with_se(values)}" for method, values in accuracy.items())
    baseline = np.maximum(accuracy["SGD"], accuracy["SGD+dropout"])
    claims = [
        Claim(
            "EWC ends above SGD, with dropout and without, each with the best of its random settings",
            bool((accuracy["EWC"] > baseline).all()),
            f"{means} %{ends}",
        )
    ]
    if final(found["EWC"]).shape[1] > 1:
        lost = {method: forgotten(results) for method, results in found.items()}
        fall = ", ".join(f"{with_se(values)} with {method}" for method, values in lost.items())
        held = bool((lost["EWC"] < np.minimum(lost["SGD"], lost["SGD+dropout"]) / 2).all())
        claims.append(
            Claim("EWC forgets less than half as much", held, f"points lost since a task was learned: {fall}")
        )
    return claims


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Fig. 2B, and what the random search saw."""
    return {"accuracy": _draw_curves(outcome.series), "search": _draw_search(outcome.series["search"])}


def _draw_curves(series: Mapping[str, Any]) -> Figure:
    caption = "Mean test accuracy over the tasks so far. Bands: one standard error. Dotted: a single task."
    figure, axes = look.subplots(caption=caption)
    for method, curve in series["curves"].items():
        tasks = np.arange(1, len(curve["mean"]) + 1)
        band(axes, tasks, curve, method)
    axes.axhline(series["single_task"], **look.line("single task"))
    axes.set(xlabel="number of tasks", ylabel="accuracy (%)", xticks=tasks)
    axes.legend(loc="lower left")
    return figure


def _draw_search(tried: list[dict[str, Any]]) -> Figure:
    caption = (
        "The random search: mean validation accuracy after the last task, by learning rate and width, and for EWC by λ."
    )
    figure, panels = look.subplots(1, 3, width=7.0, height=3.0, caption=caption, sharey=True)
    for panel, (key, label, scale) in zip(
        panels, (("rate", "learning rate", "log"), ("width", "width", "linear"), ("lambda", "λ", "log")), strict=True
    ):
        for method in METHODS:
            points = [(p[key], p["validation"]) for p in tried if p["method"] == method and p[key] > 0]
            if points:
                panel.plot(
                    *zip(*points, strict=True), "o", color=look.line(method)["color"], label=method, markersize=4
                )
        panel.set(xlabel=label, xscale=scale)
        panel.tick_params(which="minor", labelbottom=False)
    panels[0].set_ylabel("accuracy (%)")
    panels[0].legend(fontsize=8)
    return figure


# a tenth of the paper's epochs, of minibatches ten times as large, which bear larger rates
BRIEF = {"epochs": 10, "ewc_dropout": False, "batch_size": 100, "repeats": 2}

EXPERIMENT = Experiment(
    name="ewc-permuted-10",
    title="EWC on many permuted-MNIST tasks",
    paper="Kirkpatrick et al. 2016, Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796, Fig. 2B",
    summary=(
        "Task after task the network learns MNIST with its pixels shuffled in another way. SGD, with dropout and an early stopping "
        "that may look at old tasks, forgets a little more with each; EWC should not."
    ),
    how_to_read=(
        "EWC's curve should stay near the dotted line, what a single task reaches, while those of SGD fall. Each "
        "method is shown with the best of its random settings; the search is the second figure."
    ),
    config=Config,
    presets={
        "quick": BRIEF
        | {
            "tasks": 5,
            "combinations": 4,
            "rates": (0.03, 0.3),
            "lams": (1.0, 30.0),
            "widths": (100, 200),
            "images": "subset",
            "fisher_samples": 1000,
            "validation": 1000,
        },
        "short": BRIEF
        | {
            "combinations": 8,
            "rates": (0.003, 0.6),
            "lams": (1.0, 100.0),
            "widths": (400, 800),
            "fisher_samples": 5000,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 3, "short": 110, "paper": 45_000},
)
