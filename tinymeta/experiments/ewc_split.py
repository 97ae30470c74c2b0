"""Where EWC fails: split MNIST, whose five tasks are two digits each, in the three scenarios of van de Ven & Tolias.

task    each task has outputs of its own, and it is known which task an image is of
domain  two outputs for all tasks: first or second digit
class   ten outputs: which digit, among all that were ever seen
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.ewc import KINDS
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, UserError
from tinymeta.lab import figures as look

from .ewc_memory import Learner
from .ewc_report import (
    Trials,
    at_the_ends,
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
from .ewc_tasks import IMAGES, SCENARIOS, digits_of_repeat, split_tasks
from .ewc_training import Course, Protocol, course, learn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("none", "L2", "EWC", "online EWC", "SI", "MAS", "offline")
VAN_DE_VEN = "1809.10635, Table 4, split MNIST, 20 seeds"
HSU = "Hsu et al. 2018, arXiv 1810.12488, split MNIST, 10 runs"
PUBLISHED = {  # mean after the last task in %: scenario -> method -> number; none is from VAN_DE_VEN, the others from HSU
    "task": {"none": 85.15, "L2": 98.18, "EWC": 97.70, "online EWC": 98.04, "SI": 98.56, "MAS": 99.22},
    "domain": {"none": 57.33, "L2": 66.00, "EWC": 58.85, "online EWC": 57.33, "SI": 64.76, "MAS": 68.57},
    "class": {"none": 19.90, "L2": 22.52, "EWC": 19.80, "online EWC": 19.77, "SI": 19.67, "MAS": 19.52},
}
ALSO = {"task": 85.48, "domain": 57.80, "class": 19.90}  # EWC in VAN_DE_VEN, its λ later found to be far too small


@dataclass(frozen=True)
class Config:
    """Two layers of 400 ReLUs, Adam at 1e-3, 2000 iterations of 128 images per task: van de Ven's protocol. In each scenario
    each method has the strength (λ; c for SI) of its grid that is best on validation images in the first repeat."""

    seed: int = 0
    scenarios: tuple[str, ...] = SCENARIOS
    methods: tuple[str, ...] = METHODS
    hidden: tuple[int, ...] = (400, 400)
    learning_rate: float = 1e-3
    iterations: int = 2000
    batch_size: int = 128
    images: str = "mnist"
    validation: int = 5000
    fisher: str = "exact"
    fisher_samples: int = 2000
    gamma: float = 1.0
    l2_lams: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
    ewc_lams: tuple[float, ...] = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
    online_lams: tuple[float, ...] = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
    si_cs: tuple[float, ...] = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
    mas_lams: tuple[float, ...] = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
    repeats: int = 5

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "fisher": KINDS, "scenarios": SCENARIOS, "methods": METHODS},
            positive=("hidden", "iterations", "batch_size", "validation", "repeats"),
            grids=("l2_lams", "ewc_lams", "online_lams", "si_cs", "mas_lams"),
            not_negative=("learning_rate", "gamma"),
        )

    @property
    def learners(self) -> list[Learner]:
        """All that are trained in a scenario."""
        grids = {
            "L2": self.l2_lams,
            "EWC": self.ewc_lams,
            "online EWC": self.online_lams,
            "SI": self.si_cs,
            "MAS": self.mas_lams,
        }
        lams = {method: grids.get(method, (0.0,)) for method in self.methods}
        gammas = {"online EWC": self.gamma}
        return [
            Learner(method, self.learning_rate, lam, self.fisher, gamma=gammas.get(method))
            for method in self.methods
            for lam in lams[method]
        ]


def train(config: Config, run: Run) -> Outcome:
    """All methods at all strengths, scenario by scenario."""
    return _report({scenario: _trials(config, run, scenario) for scenario in config.scenarios})


def _trials(config: Config, run: Run, scenario: str) -> Trials:
    protocol = Protocol(
        config.hidden, "adam", config.iterations, config.batch_size, "uniform", config.fisher_samples,
        paths="SI" in config.methods,
    )  # fmt: skip

    @lru_cache(maxsize=1)
    def of(repeat: int) -> Course:
        tasks = split_tasks(digits_of_repeat(config, repeat), scenario)
        if min(len(task.train.y) for task in tasks) < config.batch_size:
            raise UserError(f"batch_size = {config.batch_size} is more than the training images of a task")
        return course(f"{scenario}, repeat {repeat + 1}", protocol, tasks, config.seed, "repeat", repeat)

    return search(config.learners, config.repeats, lambda learner, repeat: learn(run, of(repeat), learner))


# ---- what was found ----


def _report(found: Mapping[str, Trials]) -> Outcome:
    best = {scenario: choose(trials) for scenario, trials in found.items()}
    accuracy = {
        scenario: {method: final(found[scenario][learner]).mean(axis=1) for method, learner in chosen.items()}
        for scenario, chosen in best.items()
    }
    series = {
        "accuracy": {s: {m: mean_se(values) for m, values in methods.items()} for s, methods in accuracy.items()},
        "chosen": {scenario: chosen_series(chosen) for scenario, chosen in best.items()},
        "grid": {scenario: grid_series(trials) for scenario, trials in found.items()},
    }
    rows = [_row(scenario, m, values) for scenario, methods in accuracy.items() for m, values in methods.items()]
    ends = {scenario: at_the_ends(trials) for scenario, trials in found.items()}
    return Outcome(rows, _claims(accuracy, ends), series)


def _row(scenario: str, method: str, accuracy: Any) -> Row:
    published = PUBLISHED[scenario].get(method)
    source = "" if published is None else VAN_DE_VEN if method == "none" else HSU
    return row(f"{scenario}-incremental, {method}, mean of tasks after the last", accuracy, published, source)


def _claims(accuracy: Mapping[str, Mapping[str, Any]], ends: Mapping[str, str]) -> list[Claim]:
    """Means over repeats; the details give standard errors."""
    claims = []
    if {"none", "EWC"} <= accuracy.get("task", {}).keys():
        held = bool(np.mean(accuracy["task"]["EWC"]) > max(ALSO["task"], float(np.mean(accuracy["task"]["none"]))))
        sentence = f"Task-incremental: EWC helps, and ends above the {ALSO['task']} % published with too small a λ"
        claims.append(Claim(sentence, held, _beside(accuracy["task"]) + ends["task"]))
    if "offline" in accuracy.get("domain", {}) and "EWC" in accuracy["domain"]:
        short = bool(np.mean(accuracy["domain"]["EWC"]) < np.mean(accuracy["domain"]["offline"]) - 10)
        sentence = "Domain-incremental: EWC ends more than 10 points below joint training, as published"
        claims.append(Claim(sentence, short, _beside(accuracy["domain"]) + ends["domain"]))
    if "EWC" in accuracy.get("class", {}):
        fails = bool(np.mean(accuracy["class"]["EWC"]) < 30)
        sentence = "Class-incremental: EWC fails, as published: it knows little but the last two digits, 20 %"
        claims.append(Claim(sentence, fails, _beside(accuracy["class"]) + ends["class"]))
    return claims


def _beside(accuracy: Mapping[str, Any]) -> str:
    return ", ".join(f"{method} {with_se(values)}" for method, values in accuracy.items()) + " %"


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Accuracies by scenario, and what the strengths were chosen from."""
    return {"scenarios": _draw_bars(outcome.series["accuracy"]), "lambda": _draw_grids(outcome.series["grid"])}


def _draw_bars(accuracy: Mapping[str, Any]) -> Figure:
    caption = "Mean test accuracy over the five tasks after the last, ± one standard error. Crosses: published, see the table."
    figure, axes = look.subplots(1, len(accuracy), height=3.2, width=6.4, caption=caption, sharey=True, squeeze=False)
    for panel, (scenario, methods) in zip(axes[0], accuracy.items(), strict=True):
        for k, (method, (mean, error)) in enumerate(methods.items()):
            panel.bar(k, mean, yerr=error, color=look.line(method)["color"])
            if method in PUBLISHED[scenario]:
                panel.plot(k, PUBLISHED[scenario][method], "x", color=look.BLACK)
        panel.set(title=f"{scenario}-incremental", ylim=(0, 100))
        panel.set_xticks(range(len(methods)), list(methods), rotation=60, ha="right", fontsize=8)
    axes[0][0].set_ylabel("accuracy (%)")
    return figure


def _draw_grids(grids: Mapping[str, Any]) -> Figure:
    caption = "Mean accuracy on validation images, by which strengths are chosen (rings)."
    figure, axes = look.subplots(1, len(grids), height=3.4, width=7.0, caption=caption, squeeze=False)
    for panel, (scenario, grid) in zip(axes[0], grids.items(), strict=True):
        draw_grid(panel, grid, "accuracy (%)" if panel is axes[0][0] else "")
        panel.set_title(f"{scenario}-incremental")
        panel.get_legend().remove()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    return figure


EXPERIMENT = Experiment(
    name="ewc-split",
    title="Where EWC fails: split MNIST in three scenarios",
    paper="van de Ven & Tolias 2018, arXiv 1809.10635, and Hsu et al. 2018, arXiv 1810.12488",
    summary=(
        "Five tasks of two digits each. Where every task has outputs of its own, a penalty on moving weights is enough. Where "
        "the outputs are shared it helps little, and where the network must tell digits apart that it never saw together, "
        "nothing in EWC can teach it."
    ),
    how_to_read=(
        "In the right panel 20 % means that only the last two digits are known. EWC's strength is chosen on validation images "
        "in each scenario over orders of magnitude: no λ helps there."
    ),
    config=Config,
    presets={
        "quick": {
            "hidden": (100, 100),
            "iterations": 200,
            "images": "subset",
            "validation": 1000,
            "fisher_samples": 500,
            "l2_lams": (1e-3, 1e-2, 1e-1),
            "ewc_lams": (1e2, 1e4, 1e6),
            "online_lams": (1e2, 1e4, 1e6),
            "si_cs": (1.0, 100.0, 1e4),
            "mas_lams": (0.01, 1.0, 100.0),
            "repeats": 2,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 3, "paper": 75},
)
