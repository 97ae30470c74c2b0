"""Ten permuted-MNIST tasks with one set of outputs: the domain-incremental protocol of van de Ven & Tolias (arXiv 1809.10635).

Images are padded to 32x32 and all 1024 pixels are shuffled; 1000-1000 ReLUs, Adam at 1e-4, 5000 iterations of 128 images per
task. The tables of that paper give means ± SEM over 20 seeds, with λ chosen on test images; ours is chosen on validation
images of other permutations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.ewc import KINDS
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, stream
from tinymeta.lab import figures as look

from .ewc_memory import Learner
from .ewc_report import (
    Trials,
    band,
    chosen_series,
    draw_grid,
    final,
    forgotten,
    grid_series,
    matrices,
    mean_se,
    row,
    so_far,
    validation,
    with_se,
)  # fmt: skip
from .ewc_settings import check_settings
from .ewc_tasks import IMAGES, load_digits, permuted_tasks
from .ewc_training import INITS, Course, Found, Protocol, course, learn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("EWC", "online EWC", "SI", "none", "offline")
SOURCE = "1809.10635, Table 4, permuted MNIST, domain-incremental"
PUBLISHED = {  # mean, standard error over 20 seeds
    "EWC": (94.31, 0.11),
    "online EWC": (94.42, 0.13),
    "SI": (95.33, 0.11),
    "none": (78.51, 0.24),
    "offline": (97.59, 0.01),
}
# GMvandeVen/continual-learning, params/param_values.py, in standard units; online EWC has there the λ of EWC and γ = 1
PUBLISHED_STRENGTHS = {"ewc_lams": (100.0,), "online_lams": (100.0,), "si_cs": (10.0,), "gammas": (1.0,)}
ONCE = {"repeats": 1, "validation": 100}  # with one λ each nothing is tuned, and hardly a training image is kept back
TUNING = "tunings", "tuning_tasks", "tuning_iterations"
PROTOCOL_TASKS = 10
UNIT_TRACE = {
    "methods": ("online EWC",),
    "unit_trace": True,
    "validation": 1000,
    "tuning_tasks": PROTOCOL_TASKS,
}
PADDING = 2  # 28 to 32 pixels a side


@dataclass(frozen=True)
class Config:
    """The protocol, and how λ (for SI: c) is chosen.

    Each method's strength is that of its grid with the best mean accuracy on validation images after `tuning_tasks` tasks of
    `tuning_iterations` iterations, over `tunings` sequences whose permutations, weights and minibatches serve for nothing else.
    `fisher_samples` training images give each Fisher (0: all; van de Ven's scripts take 1000). Online EWC has one of the decays
    `gammas` and, with `unit_trace`, scales each task's Fisher to trace 1; its authors normalise (1805.06370, section 4).
    `validation` images are kept from all training. `repeats` counts sequences with other permutations, weights and minibatches.
    """

    seed: int = 0
    methods: tuple[str, ...] = METHODS
    tasks: int = 10
    hidden: tuple[int, ...] = (1000, 1000)
    learning_rate: float = 1e-4
    iterations: int = 5000
    batch_size: int = 128
    init: str = "uniform"
    images: str = "mnist"
    validation: int = 5000
    fisher: str = "exact"
    fisher_samples: int = 5000
    gammas: tuple[float, ...] = (0.9,)
    unit_trace: bool = False
    ewc_lams: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0)
    online_lams: tuple[float, ...] = (30.0, 100.0, 300.0, 1000.0)
    si_cs: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    tuning_tasks: int = 5
    tuning_iterations: int = 5000
    tunings: int = 1
    repeats: int = 5

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "fisher": KINDS, "init": INITS, "methods": METHODS},
            positive=("hidden", "tasks", "iterations", "batch_size", "validation", "repeats", *TUNING),
            grids=("ewc_lams", "online_lams", "gammas", "si_cs"),
            not_negative=("learning_rate",),
        )

    def grid(self, method: str) -> list[Learner]:
        """Every strength of a method, for online EWC with every γ; one learner for a method that has none."""
        lams = {"EWC": self.ewc_lams, "online EWC": self.online_lams, "SI": self.si_cs}.get(method, (0.0,))
        online = method == "online EWC"
        gammas, scaled = (self.gammas, self.unit_trace) if online else ((None,), False)
        return [
            Learner(method, self.learning_rate, lam, self.fisher, unit_trace=scaled, gamma=gamma)
            for gamma in gammas
            for lam in lams
        ]

    def protocol(self, iterations: int) -> Protocol:
        """That of every task."""
        fisher, paths = self.fisher_samples, "SI" in self.methods
        return Protocol(self.hidden, "adam", iterations, self.batch_size, self.init, fisher, paths=paths)


def train(config: Config, run: Run) -> Outcome:
    """Tune each method and run it with its best strength, method by method, so that the first ones are done first."""
    digits = load_digits(config.images, stream(config.seed, "split"), config.validation, PADDING)

    def of(name: str, tasks: int, iterations: int, *words: str | int) -> Course:
        drawn = permuted_tasks(digits, stream(config.seed, *words, "permutations"), tasks)
        return course(name, config.protocol(iterations), drawn, config.seed, *words)

    def tuning(k: int) -> Course:
        name = "tuning" if k == 0 else f"tuning {k + 1}"
        return of(name, config.tuning_tasks, config.tuning_iterations, *["tuning"] * (k + 1))

    tunings = [tuning(k) for k in range(config.tunings)]
    courses = [of(f"repeat {k + 1}", config.tasks, config.iterations, "repeat", k) for k in range(config.repeats)]
    tried: dict[Learner, list[Found]] = {}
    trials: dict[Learner, list[Found]] = {}
    for method in config.methods:
        grid = config.grid(method)
        tried |= {learner: [learn(run, at, learner) for at in tunings] for learner in grid if len(grid) > 1}
        best = grid[0] if len(grid) == 1 else max(grid, key=lambda learner: validation(tried[learner]))
        trials[best] = [learn(run, at, best) for at in courses]
    return _report(trials, tried)


# ---- what was found ----


def _report(trials: Trials, tried: Trials) -> Outcome:
    by_method = {learner.method: found for learner, found in trials.items()}
    accuracy = {method: final(found).mean(axis=1) for method, found in by_method.items()}
    series = {
        "curves": {
            method: dict(zip(("mean", "se"), mean_se(so_far(found)), strict=True))
            for method, found in by_method.items()
        },
        "matrices": {method: matrices(found).mean(axis=0) for method, found in by_method.items()},
        "chosen": chosen_series({learner.method: learner for learner in trials}),
        "tuning": grid_series(tried, repeats=None),
    }
    rows = [line for method, found in by_method.items() for line in _rows(method, accuracy[method], found)]
    tasks = final(next(iter(trials.values()))).shape[1]
    goals = PUBLISHED if tasks == PROTOCOL_TASKS else {}
    return Outcome(rows, _claims(accuracy, goals), series)


def _rows(method: str, accuracy: Any, found: Sequence[Any]) -> list[Row]:
    tasks = final(found).shape[1]
    mean, error = PUBLISHED[method] if tasks == PROTOCOL_TASKS else (None, None)
    source = f"{SOURCE}, ± {error} SE over 20 seeds" if error else ""
    rows = [row(f"{method}, mean test accuracy over {tasks} tasks after the last", accuracy, mean, source)]
    if tasks > 1:
        rows.append(row(f"{method}, points forgotten since a task was learned", forgotten(found), unit="points"))
    return rows


def _claims(accuracy: Mapping[str, Any], goals: Mapping[str, tuple[float, float]]) -> list[Claim]:
    """The published means as goals, for the mean over our seeds; standard errors in the details."""
    claims = []
    for method in ("EWC", "online EWC", "SI"):
        if method in accuracy and method in goals:
            goal, error = goals[method]
            sentence = f"{method} ends at or above the published {goal} ± {error} %"
            claims.append(Claim(sentence, bool(np.mean(accuracy[method]) >= goal), f"{with_se(accuracy[method])} %"))
    if {"EWC", "none"} <= accuracy.keys():
        detail = f"{with_se(accuracy['EWC'])} against {with_se(accuracy['none'])} %"
        held = bool((accuracy["EWC"] > accuracy["none"]).all())
        claims.append(Claim("EWC ends above a network that is protected by nothing, in every repeat", held, detail))
    return claims


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Accuracy against the number of tasks, the accuracy matrices, and the tuning of λ and γ where there was one."""
    figures = {"accuracy": _draw_curves(outcome.series["curves"]), "matrices": _draw_matrices(outcome.series)}
    tuning = outcome.series["tuning"]
    caption = "Tuning: mean validation accuracy after a few tasks of other permutations; rings: chosen."
    for against in "lambda", "gamma":
        if len({(point["method"], point[against]) for point in tuning}) > len({point["method"] for point in tuning}):
            figures[against], axes = look.subplots(caption=caption)
            draw_grid(axes, tuning, against=against)
    return figures


def _draw_curves(curves: Mapping[str, Any]) -> Figure:
    caption = "Mean test accuracy over the tasks learned so far. Bands: one standard error. Crosses: published, after ten tasks."
    figure, axes = look.subplots(caption=caption)
    for method, curve in curves.items():
        tasks = np.arange(1, len(curve["mean"]) + 1)
        band(axes, tasks, curve, method)
        if len(tasks) == PROTOCOL_TASKS:
            axes.plot(
                PROTOCOL_TASKS, PUBLISHED[method][0], "x", color=look.line(method)["color"], markersize=7, zorder=4
            )
    axes.set(xlabel="tasks learned", ylabel="accuracy (%)", xticks=tasks)
    axes.legend(loc="lower left")
    return figure


def _draw_matrices(series: Mapping[str, Any]) -> Figure:
    caption = "Test accuracy (%) on each task (column) after each task learned (row)."
    found = series["matrices"]
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure, axes = look.subplots(rows, columns, width=2 * columns, height=2.1 * rows, caption=caption, squeeze=False)
    for panel in axes.flat[len(found) :]:
        panel.set_visible(False)
    for panel, (method, matrix) in zip(axes.flat, found.items(), strict=False):
        image = panel.imshow(matrix, vmin=0, vmax=100, cmap="viridis")
        panel.set(title=method, xticks=[], yticks=[])
        panel.grid(False)
    axes[-1][0].set(xlabel="task", ylabel="learned up to task")
    figure.colorbar(image, ax=list(axes.flat), shrink=0.7)
    return figure


EXPERIMENT = Experiment(
    name="ewc-domain-10",
    title="EWC on ten permuted-MNIST tasks, van de Ven's protocol",
    paper="van de Ven & Tolias 2018, Generative replay with feedback connections, arXiv 1809.10635, Table 4",
    summary=(
        "Ten times the network learns MNIST with its pixels shuffled in another way, always with the same ten outputs, and never "
        "sees old tasks again. EWC, online EWC and SI hold the weights that old tasks need; none holds nothing; offline, the "
        "ceiling, learns from all tasks so far at once."
    ),
    how_to_read=(
        "The published numbers are means over 20 seeds, with λ chosen on test images. Ours is chosen on validation images of "
        "other permutations, or, in the presets published-..., that of the authors' code of today (in standard units, the same "
        "here: λ = 100, γ = 1, c = 10), and nothing is tuned. The published runs train on all 60,000 images, ours on those "
        "that are not kept for validation: all but 100 in these presets."
    ),
    config=Config,
    presets={
        "quick": {
            "tasks": 4,
            "hidden": (200, 200),
            "learning_rate": 1e-3,
            "iterations": 300,
            "images": "subset",
            "validation": 1000,
            "fisher_samples": 1000,
            "ewc_lams": (10.0, 30.0, 100.0),
            "online_lams": (10.0, 30.0, 100.0),
            "si_cs": (1.0, 3.0, 10.0),
            "tuning_tasks": 3,
            "tuning_iterations": 300,
            "repeats": 2,
        },
        "published-ewc": {"methods": ("EWC", "online EWC"), **PUBLISHED_STRENGTHS, **ONCE},
        "published-ewc-seeds": {"methods": ("EWC",), **PUBLISHED_STRENGTHS, **ONCE, "repeats": 5},
        "tuned-online": {
            "methods": ("online EWC",),
            "gammas": (1.0,),
            "online_lams": (50.0, 100.0, 200.0),
            "validation": 1000,
            "repeats": 3,
        },
        "tuned-ewc": {
            "methods": ("EWC",),
            "ewc_lams": (25.0, 50.0, 100.0, 200.0),
            "validation": 1000,
            "tuning_tasks": PROTOCOL_TASKS,
            "tunings": 2,
        },
        "unit-trace": UNIT_TRACE | {"gammas": (1.0,), "online_lams": (1e4, 2e4, 4e4)},
        "tuned-decay": UNIT_TRACE | {"gammas": (1.0, 1.15, 1.3), "online_lams": (2e4,), "tunings": 2},
        "published-si": {"methods": ("SI",), **PUBLISHED_STRENGTHS, **ONCE},
        "published-si-seeds": {"methods": ("SI",), **PUBLISHED_STRENGTHS, **ONCE, "repeats": 5},
        "published-bounds": {"methods": ("none", "offline"), **PUBLISHED_STRENGTHS, **ONCE},
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={
        "quick": 2,
        "published-ewc": 25,
        "published-ewc-seeds": 50,
        "published-si": 15,
        "published-si-seeds": 50,
        "published-bounds": 25,
        "tuned-ewc": 120,
        "tuned-online": 55,
        "unit-trace": 80,
        "tuned-decay": 100,
        "paper": 600,
    },
)
