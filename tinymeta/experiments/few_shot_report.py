"""What the few-shot experiments show: published accuracies beside ours, curves of meta-validation, accuracy by inner step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta.experiments.few_shot import (
    Draw,
    FewShot,
    Net,
    Trained,
    judged_steps,
    meta_train,
    path_of,
    test_accuracies,
)
from tinymeta.experiments.maml_methods import METHODS, trained_steps
from tinymeta.lab import Claim, Outcome, Row, Run, figures, mean_ci95

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Published(NamedTuple):
    """An accuracy in %, half the width of its 95 % interval, where it stands, and after how many inner steps it was measured."""

    accuracy: float
    ci95: float
    source: str
    steps: int


class Tested(NamedTuple):
    """A method's training, and its accuracies (tasks, steps + 1) in %: a task's query images together, and each on its own."""

    trained: Trained
    together: NDArray
    alone: NDArray
    reported: list[int]  # after so many inner steps
    judged: int


def run_methods(config: FewShot, run: Run, net: Net, draw: Draw, published: dict[str, Published]) -> Outcome:
    """Train and test each method; `published` has a result for some of their names, which is compared after its own steps.

    A method that diverges is a claim that did not hold, and takes no other with it; FloatingPointError if all do.
    """
    tested: dict[str, Tested] = {}
    diverged: dict[str, FloatingPointError] = {}
    for key in config.methods:
        name = METHODS[key].name
        try:
            tested[name] = _tested(config, run, key, net, draw, published.get(name))
        except FloatingPointError as error:
            diverged[name] = error
    if not tested:
        raise next(iter(diverged.values()))
    rows = [row for name, one in tested.items() for row in _rows(name, one, published.get(name))]
    failed = [Claim(f"{name} trains without diverging", False, str(error)) for name, error in diverged.items()]
    return Outcome(rows, [*_claims(tested, published), *failed], _series(tested))


def _tested(config: FewShot, run: Run, key: str, net: Net, draw: Draw, published: Published | None) -> Tested:
    trained = meta_train(config, run, key, net, draw)
    steps = sorted({1, trained_steps(key, config), config.test_steps, *([published.steps] if published else [])})
    together, alone = test_accuracies(config, path_of(config, key, net, steps[-1]), net, trained.meta, draw)
    return Tested(trained, together, alone, steps, judged_steps(config, key))


def _series(tested: dict[str, Tested]) -> dict[str, Any]:
    validation = {
        name: {"iterations": one.trained.iterations, "accuracies": one.trained.accuracies}
        for name, one in tested.items()
    }
    test = {
        name: {"transductive": mean_ci95(one.together), "inductive": mean_ci95(one.alone)}
        for name, one in tested.items()
    }
    return {"validation": validation, "test": test}


def _rows(name: str, tested: Tested, published: Published | None) -> list[Row]:
    """Before adaptation and after the steps reported, the published accuracy beside its own; and when validation was at its
    best."""
    trained, together, alone, steps, _ = tested

    def row(what: str, accuracies: NDArray, of: Published | None = None) -> Row:
        mean, ci95 = mean_ci95(accuracies)
        source = f"{of.source}: ± {of.ci95:g}" if of else ""
        return Row(f"{name}, {what}", mean, of.accuracy if of else None, ci95, "%", source)

    after = {n: f"after {n} step{'s' if n > 1 else ''}" for n in steps}
    beside = {published.steps: published} if published else {}
    best = int(np.argmax(trained.accuracies))
    return [
        row("before adaptation", together[:, 0]),
        *(row(f"transductive, {after[n]}", together[:, n], beside.get(n)) for n in steps),
        *(row(f"inductive, {after[n]}, {len(alone)} tasks", alone[:, n]) for n in steps),
        Row(f"{name}, best validation accuracy", trained.accuracies[best], unit="%"),
        Row(f"{name}, iterations up to it", trained.iterations[best]),
        Row(f"{name}, iterations in all", trained.iterations[-1]),
    ]


def _claims(tested: dict[str, Tested], published: dict[str, Published]) -> list[Claim]:
    """Of the accuracies after as many steps as the published ones, and of those by which methods are judged."""
    found = []
    for name, (theirs, their_ci, source, steps) in published.items():
        if name in tested:
            ours, ci95 = mean_ci95(tested[name].together[:, steps])
            sentence = (
                f"{name}'s accuracy is at or above the published one, or its interval meets that one's ({source})"
            )
            detail = f"{ours:.1f} ± {ci95:.1f} against {theirs:g} ± {their_ci:g}"
            found.append(Claim(sentence, bool(ours + ci95 >= theirs - their_ci), detail))
    if {"MAML", "first-order MAML"} <= tested.keys():
        second, first = (tested[name].together[:, tested[name].judged] for name in ("MAML", "first-order MAML"))
        gain, ci95 = mean_ci95(second - first)
        sentence = "Second order is better than first order on the same tasks, its 95 % interval above 0"
        found.append(Claim(sentence, bool(gain > ci95), f"{gain:+.2f} ± {ci95:.2f} %"))
    return found


def draw_figures(outcome: Outcome) -> dict[str, Figure]:
    """`validation`: accuracy by iterations; `steps`: test accuracy by inner steps, transductive and inductive."""
    return {"validation": _validation(outcome.series["validation"]), "steps": _steps(outcome.series["test"])}


def _validation(curves: dict[str, Any]) -> Figure:
    figure, axes = figures.subplots(caption="Accuracy on validation tasks during meta-training.")
    for name, curve in curves.items():
        axes.plot(curve["iterations"], curve["accuracies"], **figures.line(name))
    axes.set(xlabel="iterations", ylabel="validation accuracy, %")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _steps(results: dict[str, Any]) -> Figure:
    caption = (
        "Accuracy on new classes by inner steps, with 95 % intervals: all query images of a task as one batch (transductive), or "
        "each on its own with the support set (inductive)."
    )
    figure, axes = figures.subplots(1, 2, caption=caption, sharey=True)
    most = max(len(result["transductive"][0]) for result in results.values()) - 1
    for panel, kind in zip(axes, ("transductive", "inductive"), strict=True):
        for name, result in results.items():
            mean, ci95 = result[kind]
            panel.errorbar(range(len(mean)), mean, ci95, capsize=3, **figures.line(name))
        panel.set(title=kind, xlabel="inner steps", xticks=range(0, most + 1, -(-most // 8)))
    axes[0].set_ylabel("accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
