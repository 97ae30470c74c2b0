"""What the EWC experiments report: a strength chosen on validation images, accuracies ± standard error, curves and grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinymeta import ewc
from tinymeta.lab import Row, mean_ci95
from tinymeta.lab import figures as look

from .ewc_memory import Learner
from .ewc_training import Found

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"lambda": {"xscale": "log", "xlabel": "λ (SI: c)"}, "gamma": {"xlabel": "γ"}}

Trials = Mapping[Learner, Sequence[Found]]  # one per repeat


def search(learners: Sequence[Learner], repeats: int, learn: Callable[[Learner, int], Found]) -> Trials:
    """learn(learner, repeat) of all learners in the first repeat, and in the others of those that are chosen by it."""
    trials = {learner: [learn(learner, 0)] for learner in learners}
    for repeat in range(1, repeats):
        for learner in choose(trials).values():
            trials[learner].append(learn(learner, repeat))
    return trials


def choose(trials: Trials) -> dict[str, Learner]:
    """By method, the learner with the best mean accuracy over tasks on validation images at the end of the first repeat."""
    best: dict[str, Learner] = {}
    for learner in trials:
        known = best.get(learner.method)
        if known is None or validation(trials[learner][:1]) > validation(trials[known][:1]):
            best[learner.method] = learner
    return best


def at_the_ends(trials: Trials) -> str:
    """For a claim's details: the methods whose chosen rate or strength is the least or the greatest that was tried, so that a
    better one may lie beyond; "" if there is none."""
    found = []
    for method, best in choose(trials).items():
        mine = [learner for learner in trials if learner.method == method]
        for name, tried, chosen in (
            ("rate", {one.learning_rate for one in mine}, best.learning_rate),
            ("λ", {one.lam for one in mine}, best.lam),
        ):
            if len(tried) > 1 and chosen in (min(tried), max(tried)):
                found.append(f"{method} ({name} {chosen:.2g})")
    return f"; at an end of what was tried: {', '.join(found)}" if found else ""


def validation(found: Sequence[Found]) -> float:
    """The mean over tasks and repeats on validation images, in %."""
    return float(np.mean([one.validation for one in found]))


def final(found: Sequence[Found]) -> NDArray[np.float64]:
    """Accuracies on test images after the last task, (repeats, tasks), in %."""
    return np.stack([one.accuracy[-1] for one in found])


def matrices(found: Sequence[Found]) -> NDArray[np.float64]:
    """R (repeats, tasks, tasks) for tinymeta.ewc's metrics: on task j after learning task i, in %."""
    tasks = found[0].accuracy.shape[1]
    points = (len(found[0].accuracy) - 1) // tasks
    return np.stack([one.accuracy[points::points] for one in found])


def so_far(found: Sequence[Found]) -> NDArray[np.float64]:
    """The mean over the tasks learned so far, after each task, (repeats, tasks), in %."""
    return np.stack([np.diagonal(np.cumsum(R, axis=1)) / np.arange(1, len(R) + 1) for R in matrices(found)])


def forgotten(found: Sequence[Found]) -> NDArray[np.float64]:
    """Points lost per task since it had been learned, the mean over all but the last, (repeats,)."""
    return np.array([ewc.forgetting(R, "learned") for R in matrices(found)])


def mean_se(x: ArrayLike) -> tuple[Any, Any]:
    """(mean, its standard error) over axis 0; NaN for an error of one."""
    samples = np.asarray(x, np.float64)
    with np.errstate(invalid="ignore"):
        spread = samples.std(axis=0, ddof=1) if len(samples) > 1 else np.full_like(samples[0], np.nan)
    mean, error = samples.mean(axis=0), spread / np.sqrt(len(samples))
    return (float(mean), float(error)) if samples.ndim == 1 else (mean, error)


def with_se(x: ArrayLike) -> str:
    """`94.31 ± 0.11`, or `94.31 (one seed)`."""
    mean, error = mean_se(x)
    return f"{mean:.2f} ± {error:.2f}" if np.isfinite(error) else f"{mean:.2f} (one seed)"


def row(quantity: str, values: ArrayLike, published: float | None = None, source: str = "", unit: str = "%") -> Row:
    """A line of the table from one value per repeat."""
    mean, ci95 = mean_ci95(values)
    return Row(quantity, mean, published, ci95 if np.isfinite(ci95) else None, unit, source)


def grid_series(trials: Trials, repeats: int | None = 1) -> list[dict[str, Any]]:
    """Everything that was tried, with what it was chosen by: the mean over the first `repeats`, all for None."""
    return [
        {
            "method": learner.method,
            "rate": learner.learning_rate,
            "lambda": learner.lam,
            "gamma": learner.gamma,
            "fisher": learner.kind,
            "validation": validation(found[:repeats]),
            "test": float(final(found)[:repeats].mean()),
            "lr_lambda_max_fisher": found[0].stability,
        }
        for learner, found in trials.items()
    ]


def chosen_series(best: Mapping[str, Learner]) -> dict[str, dict[str, float | None]]:
    """By method, the rate, the strength and the decay that were chosen."""
    return {method: {"rate": one.learning_rate, "lambda": one.lam, "gamma": one.gamma} for method, one in best.items()}


def band(axes: Axes, x: ArrayLike, curve: Mapping[str, Any], method: str, **options: Any) -> None:
    """A method's mean and, where there are several seeds, its standard error as a band."""
    mean, error = np.array(curve["mean"], float), np.array(curve["se"], float)
    axes.plot(x, mean, **look.line(method), **options)
    if np.isfinite(error).all():
        axes.fill_between(x, mean - error, mean + error, color=look.line(method)["color"], alpha=0.18, linewidth=0)


def draw_grid(
    axes: Axes, grid: Sequence[Mapping[str, Any]], ylabel: str = "validation accuracy (%)", against: str = "lambda"
) -> None:
    """By method, the best of what was chosen from at each λ, or each γ, a level line where there is one; rings: the choice."""
    for method in dict.fromkeys(point["method"] for point in grid if point[against] is not None):
        best: dict[float, float] = {}
        for point in sorted((p for p in grid if p["method"] == method), key=lambda p: p[against]):
            x = point[against]
            best[x] = max(point["validation"], best.get(x, -np.inf))
        style, top = look.line(method), max(best, key=lambda x: best[x])
        if len(best) == 1:
            axes.axhline(best[top], **style)
            continue
        axes.plot(list(best), list(best.values()), marker=".", **style)
        axes.plot(top, best[top], "o", markersize=10, mfc="none", color=style["color"])
    axes.set(**AXES[against], ylabel=ylabel)
    axes.legend(fontsize=8)
