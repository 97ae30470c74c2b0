"""Which Fisher, at which λ: every kind of diagonal on permuted MNIST, which no paper has compared there.

van de Ven (2025, arXiv 2502.11756) compares the kinds on split MNIST, where their best accuracies tie, and on split CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.lab import Claim, Experiment, Outcome, Run
from tinymeta.lab import figures as look

from .ewc_memory import FISHERS, Learner
from .ewc_report import Trials, final, mean_se, row, validation, with_se
from .ewc_settings import check_settings
from .ewc_tasks import IMAGES, tasks_of_repeat
from .ewc_training import Found, Protocol, course, learn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOSE = 1.0  # points below its best λ that count as a good λ
SOURCE = "not published for permuted MNIST"


@dataclass(frozen=True)
class Config:
    """SGD on `tasks` permutations. Every kind takes `fisher_samples` training images (0: all); `few` is that of the second
    exact one. The batched kind has the batches of training, as in popular code. λ is in standard units for all of them."""

    seed: int = 0
    tasks: int = 5
    hidden: tuple[int, ...] = (400, 400)
    learning_rate: float = 0.05
    epochs: int = 5
    images: str = "mnist"
    batch_size: int = 128
    validation: int = 10_000
    kinds: tuple[str, ...] = FISHERS
    fisher_samples: int = 10_000
    few: int = 100
    lams: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    repeats: int = 3

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "kinds": FISHERS},
            positive=("hidden", "tasks", "epochs", "batch_size", "validation", "few", "repeats"),
            grids=("lams",),
            not_negative=("learning_rate",),
        )

    @property
    def learners(self) -> list[Learner]:
        """SGD, and every kind at every λ."""
        few = [("exact", self.few)] if "exact" in self.kinds else []
        kinds = [*((kind, 0) for kind in self.kinds), *few]
        rate = self.learning_rate
        return [Learner("SGD", rate), *(Learner("EWC", rate, lam, *kind) for kind in kinds for lam in self.lams)]


def train(config: Config, run: Run) -> Outcome:
    """Every kind at every λ, from the same weights and minibatches."""
    trials: dict[Learner, list[Found]] = {learner: [] for learner in config.learners}
    for repeat in range(config.repeats):
        tasks = tasks_of_repeat(config, repeat, config.tasks)
        steps = config.epochs * (len(tasks[0].train.y) // config.batch_size)
        protocol = Protocol(
            config.hidden, "sgd", steps, config.batch_size, fisher_samples=config.fisher_samples, squares=True
        )
        at = course(f"repeat {repeat + 1}", protocol, tasks, config.seed, "repeat", repeat)
        for learner, found in trials.items():
            found.append(learn(run, at, learner))
    return _report(trials)


# ---- what was found ----


def _report(trials: Trials) -> Outcome:
    kinds = list(dict.fromkeys(learner.kind for learner in trials if learner.method == "EWC"))
    tried = {kind: [one for one in trials if (one.method, one.kind) == ("EWC", kind)] for kind in kinds}
    best = {kind: max(learners, key=lambda one: validation(trials[one])) for kind, learners in tried.items()}
    accuracy = {learner: final(found).mean(axis=1) for learner, found in trials.items()}
    (plain,) = (learner for learner in trials if learner.method == "SGD")
    rows = [row("SGD, mean test accuracy", accuracy[plain], source=SOURCE)]
    rows += [row(f"{kind}, mean test accuracy at λ = {best[kind].lam:g}", accuracy[best[kind]]) for kind in kinds]
    series = {
        "kinds": kinds,
        "lams": sorted({learner.lam for learner in trials if learner.method == "EWC"}),
        "accuracy": {kind: {f"{one.lam:g}": mean_se(accuracy[one]) for one in tried[kind]} for kind in kinds},
        "best": {kind: best[kind].lam for kind in kinds},
        "sgd": mean_se(accuracy[plain]),
    }
    return Outcome(rows, _claims(tried, best, accuracy, trials), series)


def _claims(
    tried: Mapping[str, Any], best: Mapping[str, Learner], accuracy: Mapping[Learner, Any], trials: Trials
) -> list[Claim]:
    top = {kind: accuracy[learner].mean() for kind, learner in best.items()}
    good = {
        kind: [one.lam for one in learners if validation(trials[one]) >= validation(trials[best[kind]]) - CLOSE]
        for kind, learners in tried.items()
    }
    spans = ", ".join(f"{kind} {min(lams):g} to {max(lams):g}" for kind, lams in good.items())
    means = ", ".join(f"{kind} {with_se(accuracy[learner])}" for kind, learner in best.items())
    claims = [
        Claim(
            "The kinds tie at their best λ: all within one point (as van de Ven found on split MNIST)",
            bool(max(top.values()) - min(top.values()) <= 1),
            f"test accuracy, {means} %; λ within {CLOSE:g} point of the best on validation images: {spans}",
        )
    ]
    if {"exact", "batched"} <= best.keys():
        detail = f"λ {best['batched'].lam:g} and {best['exact'].lam:g}; batched counts here times the batch size"
        same = best["batched"].lam == best["exact"].lam
        claims.append(Claim("Batched and exact want the same λ, once the batch size is accounted for", same, detail))
    return claims


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """The heat map, kind by λ."""
    series = outcome.series
    kinds, lams = series["kinds"], series["lams"]
    table = np.array([[series["accuracy"][kind][f"{lam:g}"][0] for lam in lams] for kind in kinds])
    caption = (
        "Mean test accuracy (%) over the tasks after the last, by Fisher kind and λ; framed: the λ chosen on validation images. "
        f"SGD, λ = 0: {series['sgd'][0]:.1f}."
    )
    figure, axes = look.subplots(width=6.4, height=0.45 * len(kinds) + 1.4, caption=caption)
    low = min(series["sgd"][0], float(table.max()) - 10)
    image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=low, vmax=float(table.max()))
    axes.grid(False)
    axes.set_xticks(range(len(lams)), [f"{lam:g}" for lam in lams])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlabel("λ")
    for (i, j), value in np.ndenumerate(table):
        dark = value < (low + table.max()) / 2
        chosen = lams[j] == series["best"][kinds[i]]
        frame = {"boxstyle": "square", "fill": False, "edgecolor": look.VERMILION, "linewidth": 1.6} if chosen else None
        axes.text(
            j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black", bbox=frame
        )
    figure.colorbar(image, ax=axes, extend="min")
    return {"heat-map": figure}


EXPERIMENT = Experiment(
    name="ewc-fisher-kinds",
    title="EWC with every kind of Fisher diagonal on permuted MNIST",
    paper="van de Ven 2025, On the computation of the Fisher information in continual learning, arXiv 2502.11756 (other data)",
    summary=(
        "The Fisher diagonal can be exact, over all images or a few; from labels that are drawn from the model, or from the true "
        "labels; from squared gradients of whole batches, as in popular code; or a by-product of an optimizer. Each is tried at "
        "every λ."
    ),
    how_to_read=(
        "Rows that look alike mean that the kind does not matter; a row that is shifted means that its λ is in other "
        "units. The λ of a kind is chosen on validation images. The exact kind with few samples shows how many images are needed."
    ),
    config=Config,
    presets={
        "quick": {
            "tasks": 3,
            "hidden": (100, 100),
            "learning_rate": 0.2,
            "images": "subset",
            "batch_size": 100,
            "validation": 1000,
            "fisher_samples": 1000,
            "lams": (0.3, 1.0, 3.0, 10.0, 30.0),
            "repeats": 2,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 3, "paper": 120},
)
