"""Three permuted-MNIST tasks in a row: Fig. 2A of Kirkpatrick et al. 2016 (arXiv 1612.00796; Fig. 3A in PNAS).

The paper's table of hyperparameters gives two hidden layers of 400 ReLUs, plain SGD at 1e-3, 20 epochs per task and no
dropout. It gives no minibatch size, lambda, momentum or number of Fisher samples, and no accuracy as a number: those are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.ewc import KINDS
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run
from tinymeta.lab import figures as look

from .ewc_memory import Learner
from .ewc_report import (
    Trials,
    at_the_ends,
    band,
    choose,
    chosen_series,
    draw_grid,
    final,
    grid_series,
    mean_se,
    row,
    search,
    with_se,
)
from .ewc_settings import check_settings
from .ewc_tasks import IMAGES, Task, tasks_of_repeat
from .ewc_training import Course, Protocol, course, learn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = "ABC"
METHODS = ("SGD", "SGD+dropout", "L2", "EWC")
SOURCE = "1612.00796, Fig. 2A: curves, no numbers"


@dataclass(frozen=True)
class Config:
    """The first three are the paper's; from `batch_size` on it is silent. No momentum.

    Each method has the setting of its grid that is best on validation images in the first repeat: one of `rates` for SGD with and
    without dropout, for L2 and EWC one of `penalty_rates` with a λ. The paper's rate, 1e-3, is among them. `images` is "mnist",
    or "subset" for those in the package, `validation` the number of them that are kept from training, `fisher_samples` the number
    of training images that give a Fisher (0: all), `evaluations` the points per task of a curve, `repeats` the number of
    sequences with other permutations, weights and minibatches.
    """

    seed: int = 0
    hidden: tuple[int, ...] = (400, 400)
    epochs: int = 20
    images: str = "mnist"
    batch_size: int = 10
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    penalty_rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    l2_lams: tuple[float, ...] = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
    ewc_lams: tuple[float, ...] = (10.0, 30.0, 100.0)
    fisher: str = "exact"
    fisher_samples: int = 0
    validation: int = 10_000
    evaluations: int = 10
    repeats: int = 3

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "fisher": KINDS},
            positive=("hidden", "epochs", "batch_size", "validation", "evaluations", "repeats"),
            grids=("rates", "penalty_rates", "l2_lams", "ewc_lams"),
        )

    @property
    def learners(self) -> list[Learner]:
        """All that are trained."""
        return [
            *(Learner("SGD", rate) for rate in self.rates),
            *(Learner("SGD+dropout", rate, dropout=True) for rate in self.rates),
            *(Learner("L2", rate, lam) for rate in self.penalty_rates for lam in self.l2_lams),
            *(Learner("EWC", rate, lam, self.fisher) for rate in self.penalty_rates for lam in self.ewc_lams),
        ]


def train(config: Config, run: Run) -> Outcome:
    """Learn the tasks in turn by all methods and settings, from the same weights and minibatches; repeat with the best."""

    @lru_cache(maxsize=1)
    def of(repeat: int) -> Course:
        tasks = tasks_of_repeat(config, repeat, len(TASKS))
        return course(f"repeat {repeat + 1}", _protocol(config, tasks[0]), tasks, config.seed, "repeat", repeat)

    trials = search(config.learners, config.repeats, lambda learner, repeat: learn(run, of(repeat), learner))
    return _report(config, trials)


def _protocol(config: Config, task: Task) -> Protocol:
    return Protocol(
        config.hidden,
        "sgd",
        config.epochs * (len(task.train.y) // config.batch_size),
        config.batch_size,
        fisher_samples=config.fisher_samples,
        evaluations=config.evaluations,
    )


# ---- what was found ----


def _report(config: Config, trials: Trials) -> Outcome:
    best = choose(trials)
    curves = {method: np.stack([one.accuracy for one in trials[best[method]]]) for method in METHODS}
    series = {
        "epochs": np.linspace(0, len(TASKS) * config.epochs, curves["SGD"].shape[1]),
        "curves": {method: dict(zip(("mean", "se"), mean_se(curve), strict=True)) for method, curve in curves.items()},
        "chosen": chosen_series(best),
        "grid": grid_series(trials),
    }
    rows = [line for method in METHODS for line in _rows(method, final(trials[best[method]]))]
    return Outcome(rows, _claims(curves, at_the_ends(trials)), series)


def _rows(method: str, accuracy: Any) -> list[Row]:
    """Test accuracies (repeats, tasks) after the last task: of each task, and the mean over them."""
    named = {f"task {task}": accuracy[:, k] for k, task in enumerate(TASKS)} | {"mean of tasks": accuracy.mean(axis=1)}
    return [row(f"{method}, {name} after C", values, source=SOURCE) for name, values in named.items()]


def _claims(curves: Mapping[str, Any], ends: str) -> list[Claim]:
    """Judged in every repeat by itself; the details give means ± standard errors. Curves are (repeats, points, tasks)."""
    points = (curves["SGD"].shape[1] - 1) // len(TASKS)
    lost = {method: curve[:, points, 0] - curve[:, -1, 0] for method, curve in curves.items()}
    mean = {method: curve[:, -1].mean(axis=1) for method, curve in curves.items()}
    margin = mean["EWC"] - np.max([mean[method] for method in METHODS if method != "EWC"], axis=0)
    kept = (lost["EWC"] < lost["SGD"] / 2) & (lost["SGD"] > 1)
    fall = ", ".join(f"{with_se(values)} with {method}" for method, values in lost.items())
    means = ", ".join(f"{method} {with_se(values)}" for method, values in mean.items())
    return [
        Claim(
            "EWC keeps task A where SGD loses it: it loses less than half as much",
            bool(kept.all()),
            f"points lost on A while B and C are learned: {fall}",
        ),
        Claim(
            "EWC's mean accuracy over the three tasks is above SGD's, with and without dropout, and L2's, each at its best setting",
            bool((margin > 0).all()),
            f"{means} %; least margin in {len(margin)} repeats {margin.min():.1f} points{ends}",
        ),
    ]


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Fig. 2A, and what the choice of λ did."""
    figure, axes = look.subplots(
        caption="Mean accuracy over the three tasks on validation images, by which settings are chosen (rings): "
        "the best rate at each λ; level: SGD's best rate."
    )
    draw_grid(axes, outcome.series["grid"])
    return {"accuracy": _draw_curves(outcome.series), "lambda": figure}


def _draw_curves(series: Mapping[str, Any]) -> Figure:
    caption = "Test accuracy on each task, from when its training begins. Bands: one standard error."
    figure, panels = look.subplots(len(TASKS), 1, height=6.0, caption=caption, sharex=True, sharey=True)
    epochs, points = np.array(series["epochs"]), (len(series["epochs"]) - 1) // len(TASKS)
    learned = [np.array(c["mean"])[(k + 1) * points :, k] for c in series["curves"].values() for k in range(len(TASKS))]
    for k, (task, axes) in enumerate(zip(TASKS, panels, strict=True)):
        shown = slice(k * points, None)
        for method, curve in series["curves"].items():
            mine = {name: np.array(values, float)[shown, k] for name, values in curve.items()}
            band(axes, epochs[shown], mine, method)
        for boundary in epochs[points:-1:points]:
            axes.axvline(boundary, color=look.GREY, linestyle=":", linewidth=1)
        axes.set(title=f"Task {task}", ylabel="accuracy (%)", ylim=(min(map(np.min, learned)) - 5, 100))
    panels[-1].set_xlabel(f"epochs: {', then '.join(f'task {task}' for task in TASKS)}")
    panels[-1].legend(loc="lower left", fontsize=8)
    return figure


EXPERIMENT = Experiment(
    name="ewc-permuted-3",
    title="EWC on three permuted-MNIST tasks",
    paper="Kirkpatrick et al. 2016, Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796, Fig. 2A",
    summary=(
        "A network learns MNIST with its pixels shuffled in one way (task A), then in a second (B) and a third (C), and "
        "never sees an old task again. Plain SGD forgets. An L2 penalty that holds every weight alike keeps the old tasks "
        "only as far as it stops the new ones. EWC holds each weight by its Fisher information, which says how much the "
        "old tasks need it."
    ),
    how_to_read=(
        "In each panel higher is better: task A should not fall after the first dotted line, nor B after the second, and C "
        "should still be learned. The paper prints curves only, so there are no published numbers; its minibatch size and "
        "lambdas are not given either. Ours are chosen on validation images, and so are L2's and each method's learning rate. Very "
        "large lambdas are out of reach of plain SGD, for which lr * lambda * max(fisher) must stay below 2."
    ),
    config=Config,
    presets={
        "quick": {
            "hidden": (100, 100),
            "epochs": 5,
            "images": "subset",
            "batch_size": 100,
            "rates": (0.05, 0.1, 0.2, 0.4),
            "penalty_rates": (0.1, 0.2),  # beyond, the greatest λ is at the edge of what plain SGD bears
            "l2_lams": (3e-4, 1e-3, 3e-3),
            "ewc_lams": (1.0, 4.0, 12.0),
            "validation": 1000,
            "evaluations": 6,
            "repeats": 3,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 1, "paper": 170},
)
