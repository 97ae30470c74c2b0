"""MLPs of other depths and widths than the one that the optimizer was trained on: Fig. 6 of 1606.04474, which gives no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta import l2l
from tinymeta.l2l.adapter import open_optimizer
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, UserError, mean_ci95
from tinymeta.lab.figures import BLACK, line, subplots

from .l2l_comparison import LEARNED, Comparison, Setting, apart, best_baseline, compare, save_optimizer, series
from .l2l_mnist import Mnist
from .l2l_training import meta_train
from .settings import expect_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "1606.04474 Fig. 6: curves, no numbers"


@dataclass(frozen=True)
class Config(Mnist):
    """`optimizer` says where the learned optimizer comes from: "train" trains it in this run, on the MLP of `hidden` units,
    anything else is the name of a shipped one or the path of an optimizer.npz, as l2l-mnist leaves one behind."""

    optimizer: str = "train"
    layers: tuple[int, ...] = (1, 2, 3)
    units: tuple[int, ...] = (5, 10, 20, 40, 80)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("layers", "units"):
            if min(getattr(self, name), default=0) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least one number, 1 or more")
        expect_once(self, ("layers", "units"))


def train(config: Config, run: Run) -> Outcome:
    """Tune and compare on every architecture."""
    optimizer, history = _optimizer(config, run)
    cells = [(layers, units) for layers in config.layers for units in config.units]
    found = [compare(config, run, optimizer, _setting(config, *cell)) for cell in cells]
    finals = [comparison.final(config.final_steps) for comparison in found]
    outcome = Outcome(
        [row for comparison in found for row in _rows(comparison, config.final_steps)],
        [_claim([apart(final[LEARNED], final[best_baseline(final)]) for final in finals], cells)],
        {
            "layers": config.layers,
            "units": config.units,
            "trained_on": config.hidden,
            "history": history,
            "cells": [
                {**series(comparison), "final": {name: mean_ci95(losses) for name, losses in final.items()}}
                for comparison, final in zip(found, finals, strict=True)
            ],
        },
    )
    if config.optimizer == "train":
        save_optimizer(optimizer, run, outcome)
    return outcome


def _optimizer(config: Config, run: Run) -> tuple[l2l.LSTMOptimizer, dict[str, list]]:
    if config.optimizer == "train":
        return meta_train(config, run, config.problems(config.steps))
    try:
        return open_optimizer(config.optimizer), {}
    except (OSError, ValueError) as error:
        raise UserError(f"optimizer is {config.optimizer!r}, which cannot be used: {error}") from error


def _setting(config: Config, layers: int, units: int) -> Setting:
    name = f"{layers} layer{'s' if layers > 1 else ''} of {units}"
    return Setting(name, config.steps, config.problems(config.steps, (units,) * layers), source=SOURCE)


def _rows(comparison: Comparison, last: int) -> list[Row]:
    setting, final = comparison.setting, comparison.final(last)
    best = best_baseline(final)
    where = f"{setting.name}, loss at step {setting.steps}"
    (ours, ci), (theirs, their_ci) = mean_ci95(final[LEARNED]), mean_ci95(final[best])
    return [
        Row(f"{LEARNED}, {where}", ours, None, ci, source=SOURCE),
        Row(f"best baseline ({best}), {where}", theirs, None, their_ci, source=SOURCE),
    ]


def _claim(below: list[bool], cells: list[tuple[int, int]]) -> Claim:
    others = [f"{layers} x {units}" for held, (layers, units) in zip(below, cells, strict=True) if not held]
    detail = f"in {sum(below)} of {len(below)}" + (f"; not with {', '.join(others)} (layers x units)" if others else "")
    sentence = "The learned optimizer ends below every tuned baseline, 95 % intervals apart, on every architecture"
    return Claim(sentence, all(below), detail)


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`sweep` after Fig. 6 of the paper, and `sweep-ratio`, the same as a table."""
    return {"sweep": _curves(outcome.series), "sweep-ratio": _table(outcome.series)}


def _curves(series: dict[str, Any]) -> Figure:
    layers, units = series["layers"], series["units"]
    caption = (
        "Final loss on MLPs of other widths and depths, each baseline at its best learning rate for that MLP. Dotted: the MLP "
        "that the optimizer was trained on."
    )
    figure, axes = subplots(1, len(layers), height=3.4, caption=caption, sharey=True, squeeze=False)
    for number, (panel, depth) in enumerate(zip(axes[0], layers, strict=True)):
        row = series["cells"][number * len(units) : (number + 1) * len(units)]
        for method in row[0]["final"]:
            mean, ci95 = (np.array([cell["final"][method][k] for cell in row]) for k in (0, 1))
            panel.errorbar(units, mean, ci95, marker="o", markersize=3, **line(method))
        if [depth] == [len(series["trained_on"])]:
            panel.axvline(series["trained_on"][0], color=BLACK, linestyle=":", linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel="hidden units", title=f"{depth} layer{'s' if depth > 1 else ''}")
        panel.set_xticks(units, [str(n) for n in units], minor=False)
        panel.minorticks_off()
    axes[0][0].set_ylabel("final loss")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def _table(series: dict[str, Any]) -> Figure:
    layers, units = series["layers"], series["units"]
    final = [{name: mean for name, (mean, _) in cell["final"].items()} for cell in series["cells"]]
    ratios = np.array([cell[LEARNED] / min(v for k, v in cell.items() if k != LEARNED) for cell in final])
    grid = ratios.reshape(len(layers), len(units))
    caption = "Final loss of the learned optimizer divided by the best tuned baseline's; below 1 it is better."
    figure, axes = subplots(height=0.9 + 0.6 * len(layers), caption=caption)
    shown = np.log2(np.where(np.isfinite(grid), grid, 4.0))
    axes.imshow(shown, cmap="RdBu_r", vmin=-2, vmax=2, aspect="auto")
    for (row, column), ratio in np.ndenumerate(grid):
        axes.text(column, row, f"{ratio:.2f}", ha="center", va="center", color=BLACK)
    axes.set(xlabel="hidden units", ylabel="layers")
    axes.set_xticks(range(len(units)), [str(n) for n in units])
    axes.set_yticks(range(len(layers)), [str(n) for n in layers])
    axes.grid(False)
    return figure


EXPERIMENT = Experiment(
    name="l2l-mnist-sweep",
    title="A learned optimizer on networks of other sizes",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.2, Fig. 6",
    summary="The optimizer that was trained on one small network trains others, wider, narrower and deeper, on the same digits. "
    "Each of the four baselines is tuned for each network by itself.",
    how_to_read="Lower is better. A point is the loss after the last step on one architecture; in the table, numbers below 1 mean "
    "that the learned optimizer ends below the best of the four baselines.",
    config=Config,
    presets={
        "quick": {
            "images": "subset", "pool": 4, "meta_epochs": 48, "meta_batch": 4, "meta_lr": 0.005, "coordinates": 0,
            "validate_every": 3, "validation_steps": 0, "layers": (1, 2), "units": (10, 20, 40),
        },
        "paper": {},
        "shipped": {"optimizer": "mnist-mlp"},
    },
    train=train,
    draw=draw,
    minutes={"quick": 2, "paper": 60, "shipped": 15},
)  # fmt: skip
