"""What maml-sine shows: the table, the claims, and figures drawn from what result.json holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinymeta.experiments.maml_methods import METHODS
from tinymeta.experiments.maml_sine_regressors import FITS, Averaged
from tinymeta.experiments.maml_sine_tasks import Errors
from tinymeta.lab import Claim, Outcome, Row, figures, mean_ci95

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = {  # Table 2: mean squared error with 5 points, after 1, 5 and 10 steps
    "MAML": {1: 0.67, 5: 0.38, 10: 0.35},
    "pretrained": {1: 2.41, 5: 2.23, 10: 2.19},
    "multi-task": {1: 4.19, 5: 3.85, 10: 3.69},
    "multi-task, l2": {1: 7.18, 5: 5.69, 10: 5.60},
    "multi-task, to the mean": {1: 2.91, 5: 2.72, 10: 2.71},
}
SOURCE = "1703.03400, Table 2"
DIVERGED = 100.0  # a mean squared error; the targets' own squares are at most 25
VARIANTS = {entry.name for entry in METHODS.values()}
DASHES, ALPHAS = ((0, (1, 1)), "--", "-"), (0.5, 0.75, 1.0)  # before adaptation, after one step, after all


def curve(errors: Errors) -> dict[str, Any]:
    """What is kept of the errors for each number of steps."""
    mean, ci95 = mean_ci95(errors)
    return {"mean": mean, "ci95": ci95, "median": _median(errors), "diverged": _diverged(errors)}


def _median(errors: Errors) -> NDArray:
    """The median over tasks after each step; a task whose error is no number counts as infinitely bad."""
    return np.median(np.where(np.isnan(errors), np.inf, errors), axis=0)


def _diverged(errors: Errors) -> NDArray:
    return np.mean(~(errors < DIVERGED), axis=0)


def rows(errors: dict[str, dict[int, Errors]]) -> list[Row]:
    """For each method and K: means and medians after 1, 5 and 10 steps, and the share of tasks that diverged."""
    found = []
    for method, by_points in errors.items():
        found.append(_row(f"{method}, {_after(0)}", next(iter(by_points.values()))[:, 0]))
        for k, e in by_points.items():
            steps = [n for n in (1, 5, 10) if n < e.shape[1]]
            published = PUBLISHED.get(method, {}) if k == 5 else {}
            found += [_row(f"{method}, {k} points, {_after(n)}", e[:, n], published.get(n)) for n in steps]
            found += [Row(f"{method}, {k} points, {_after(n)}, median", float(_median(e)[n])) for n in steps]
            share = 100 * float(_diverged(e)[-1])
            found.append(Row(f"{method}, {k} points, error above {DIVERGED:g} at the end", share, unit="% of tasks"))
    return found


def validation_rows(best_after: dict[str, int]) -> list[Row]:
    """When each method was at its best on validation tasks."""
    return [Row(f"{name}, iterations up to the lowest validation error", n) for name, n in best_after.items()]


def regressor_rows(baselines: dict[str, Averaged]) -> list[Row]:
    """How well the regressors of each multi-task baseline fit their own waves, and the strength of their penalty."""
    found = []
    for name, (_, e, strength) in baselines.items():
        mean, ci95 = mean_ci95(e)
        quantity = f"{name}: regressors on their own waves"
        found.append(Row(quantity, float(mean), FITS, ci95, source="1703.03400, appendix C"))
        found.append(Row(f"{quantity}, median", float(np.median(e))))
        found += [Row(f"{name}: strength of the penalty", strength)] if strength else []
    return found


def _row(quantity: str, errors: NDArray, published: float | None = None) -> Row:
    mean, ci95 = mean_ci95(errors)
    return Row(quantity, mean, published, ci95, source=SOURCE if published else "")


def _after(steps: int) -> str:
    return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before adaptation"


def claims(errors: dict[str, dict[int, Errors]], hero: str) -> list[Claim]:
    """What section 5.1 says of MAML, whose name here is `hero`."""
    found = []
    for k, e in errors[hero].items():
        (ours, ci), (theirs, their_ci) = mean_ci95(e[:, 1]), mean_ci95(errors["pretrained"][k][:, 1])
        sentence = (
            f"After one gradient step on {k} points, {hero}'s error is below the pretrained net's, 95 % intervals apart"
        )
        detail = f"{ours:.2f} ± {ci:.2f} against {theirs:.2f} ± {their_ci:.2f}"
        found.append(Claim(sentence, bool(ours + ci < theirs - their_ci), detail))
    k, e = next(iter(errors[hero].items()))
    found += [_further(hero, k, e)] if e.shape[1] > 2 else []
    return found + _table_2(errors, hero)


def _further(hero: str, k: int, e: Errors) -> Claim:
    gain, ci = mean_ci95(e[:, 1] - e[:, -1])
    sentence = f"{hero} goes on improving after the step that it was trained for ({k} points)"
    lower, diverged = f"{gain:.2f} ± {ci:.2f} lower", f"{100 * _diverged(e)[-1]:.2g} % of the waves diverge"
    return Claim(sentence, bool(gain > ci), f"{lower if np.isfinite(gain) else diverged} {_after(e.shape[1] - 1)}")


def _table_2(errors: dict[str, dict[int, Errors]], hero: str) -> list[Claim]:
    """MAML's errors against the published ones, which are of 5 points, and those of the multi-task baselines."""
    after = {
        name: {n: mean_ci95(by_points[5][:, n]) for n in PUBLISHED[name] if n < by_points[5].shape[1]}
        for name, by_points in errors.items()
        if name in PUBLISHED and 5 in by_points
    }
    found = []
    if ours := after.get(hero):
        steps = ", ".join(map(str, ours))
        sentence = f"{hero}'s errors on 5 points, after {steps} steps, are at or below the published ones ({SOURCE})"
        found.append(Claim(sentence, all(e <= PUBLISHED[hero][n] for n, (e, _) in ours.items()), _beside(hero, ours)))
    if several := {name: e for name, e in after.items() if name.startswith("multi-task")}:
        sentence = (
            f"The multi-task baselines' errors on 5 points are the published ones, within 95 % intervals ({SOURCE})"
        )
        met = [abs(e - PUBLISHED[name][n]) <= ci for name, by_step in several.items() for n, (e, ci) in by_step.items()]
        found.append(Claim(sentence, all(met), "; ".join(_beside(name, e) for name, e in several.items())))
    return found


def _beside(name: str, after: dict[int, tuple]) -> str:
    return f"{name}: " + ", ".join(f"{e:.2f} ± {ci:.2f} against {PUBLISHED[name][n]:g}" for n, (e, ci) in after.items())


def regressor_claims(baselines: dict[str, Averaged]) -> list[Claim]:
    """What appendix C says of the regressors of the multi-task baselines."""
    means = {name: float(np.mean(found.errors)) for name, found in baselines.items()}
    sentence = (
        f"The regressors of each multi-task baseline fit their own waves, with a mean error below {FITS:g} (appendix C)"
    )
    detail = "; ".join(f"{name}: {e:.3f}, median {np.median(baselines[name].errors):.3f}" for name, e in means.items())
    return [Claim(sentence, all(e < FITS for e in means.values()), detail)] if means else []


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`fits` after Figure 2 of the paper, `steps` after Figure 3, and the variants' curves beside MAML's."""
    curves = outcome.series["curves"]
    hero, variants = next(iter(curves)), [name for name in curves if name in VARIANTS]
    main = {name: curve for name, curve in curves.items() if name == hero or name not in VARIANTS}
    drawn = {"fits": _fits(outcome.series["fits"]), "steps": _steps(main, outcome.series["oracle"])}
    if set(variants) - {hero}:
        drawn["variants"] = _variants({name: curves[name] for name in dict.fromkeys([hero, *variants])})
    return drawn


def _fits(tasks: list[dict[str, Any]]) -> Figure:
    methods = list(tasks[0]["outputs"])
    caption = f"Two sine waves that were not trained on, and what each net makes of {len(tasks[0]['support'][0])} of their points."
    figure, axes = figures.subplots(
        len(tasks), len(methods), height=4.6, caption=caption, sharex=True, sharey=True, squeeze=False
    )
    for row, task in zip(axes, tasks, strict=True):
        for panel, method in zip(row, methods, strict=True):
            _fit(panel, task, method)
    for panel, method in zip(axes[0], methods, strict=True):
        panel.set_title(method)
    for panel in axes[-1]:
        panel.set_xlabel("x")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _fit(panel: Any, task: dict[str, Any], method: str) -> None:
    panel.plot(task["x"], task["truth"], color=figures.BLACK, linestyle=":", label="the wave")
    colour = figures.METHODS[method]["color"]
    for (steps, output), dash, alpha in zip(task["outputs"][method].items(), DASHES, ALPHAS, strict=False):
        panel.plot(task["x"], output, color=colour, linestyle=dash, alpha=alpha, label=_after(int(steps)))
    panel.plot(*task["support"], "^", color=figures.PURPLE, markersize=7, label="points used", zorder=4)


def _steps(curves: dict[str, Any], oracle: list[float] | None = None) -> Figure:
    caption = (
        "Mean squared error on new waves against gradient steps, with 95 % confidence bands. A curve that leaves the panel is the "
        "mean over waves of which one or more diverge."
    )
    figure, panels = _panels(curves, caption)
    for k, panel in panels.items():
        for method, by_points in curves.items():
            _curve(panel, method, by_points[k]["mean"], by_points[k]["ci95"])
        if oracle is not None:
            _curve(panel, "oracle", *([value] * len(by_points[k]["mean"]) for value in oracle))
    known = [by_points[k]["mean"] for by_points in curves.values() for k in panels]
    _limit(panel, known if oracle is None else [*known, [oracle[0]]])
    return _with_legend(figure, panels)


def _variants(curves: dict[str, Any]) -> Figure:
    caption = (
        "Median over new waves of the squared error against gradient steps. A curve that leaves the panel is that of a method "
        "whose learned rates suit the steps that it was trained for, and diverges beyond them."
    )
    figure, panels = _panels(curves, caption)
    for k, panel in panels.items():
        for method, by_points in curves.items():
            panel.plot(by_points[k]["median"], **figures.line(method))
    _limit(panel, [by_points[k]["median"] for by_points in curves.values() for k in panels])
    return _with_legend(figure, panels)


def _panels(curves: dict[str, Any], caption: str) -> tuple[Figure, dict[str, Any]]:
    """A panel for each K."""
    from matplotlib.ticker import LogLocator, NullLocator

    points = list(next(iter(curves.values())))
    figure, axes = figures.subplots(1, len(points), height=3.6, caption=caption, sharey=True, squeeze=False)
    for panel, k in zip(axes[0], points, strict=True):
        panel.set(title=f"{k} points", xlabel="gradient steps", yscale="log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_locator(NullLocator())
    axes[0][0].set_ylabel("mean squared error")
    return figure, dict(zip(points, axes[0], strict=True))


def _limit(panel: Any, curves: list[list[float]]) -> None:
    """All panels show the errors up to twice those before adaptation."""
    errors = np.array([error for curve in curves for error in curve])
    panel.set_ylim(0.7 * errors[errors > 0].min(), 2 * max(curve[0] for curve in curves))


def _with_legend(figure: Figure, panels: dict[str, Any]) -> Figure:
    first = next(iter(panels.values()))
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _curve(panel: Any, method: str, mean: list[float], ci95: list[float]) -> None:
    look = figures.line(method)
    steps, middle, half = np.arange(len(mean)), np.array(mean), np.array(ci95)
    panel.plot(steps, middle, **look)
    panel.fill_between(steps, middle - half, middle + half, color=look["color"], alpha=0.2, linewidth=0)
