"""Figures of the L2L experiments: loss curves as in Fig. 4 and 5 of 1606.04474, and what meta-training did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from tinymeta.lab.figures import BLACK, line, subplots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "Loss on held-out {problems} against optimization steps, each baseline at its best learning rate; bands are 95 % CIs."
TITLE = 58  # characters in a line, which the width of a panel has room for


def loss_curves(settings: Sequence[Mapping[str, Any]], trained_for: int, problems: str) -> Figure:
    """One panel per setting (of `l2l_comparison.series`); a dotted line where the steps pass those of meta-training."""
    figure, axes = subplots(
        len(settings), 1, height=0.6 + 2.7 * len(settings), caption=CAPTION.format(problems=problems), squeeze=False
    )
    for panel, setting in zip(axes[:, 0], settings, strict=True):
        _panel(panel, setting, trained_for)
    axes[-1][0].set_xlabel("step")
    methods = {
        label: look for panel in axes[:, 0] for look, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(methods.values(), methods.keys(), loc="outside lower center", ncols=5 if len(methods) <= 5 else 3)
    return figure


def _panel(panel: Any, setting: Mapping[str, Any], trained_for: int) -> None:
    for method, curve in setting["curves"].items():
        look, mean, ci95 = line(method), np.array(curve["mean"]), np.array(curve["ci95"])
        panel.plot(mean, **look)
        panel.fill_between(np.arange(len(mean)), mean - ci95, mean + ci95, color=look["color"], alpha=0.15, linewidth=0)
    if setting["steps"] > trained_for:
        panel.axvline(trained_for, color=BLACK, linestyle=":", linewidth=1)
    start = max(curve["mean"][0] for curve in setting["curves"].values())
    panel.set(yscale="log", ylabel="loss", ylim=(None, 1.6 * start), title=fill(setting["title"], TITLE))


def meta_training(history: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> Figure:
    """The validation loss while the optimizer is trained, beside those of the tuned baselines after as many steps."""
    steps = history["steps"]
    caption = f"Validation loss after {steps} steps while the optimizer itself is being trained; the best is kept."
    figure, axes = subplots(caption=caption)
    axes.plot(history["epochs"], history["losses"], **line("LSTM"))
    for setting in settings:
        if setting["steps"] == steps:
            for name, lr in setting["rates"].items():
                axes.axhline(setting["grid"][name][str(lr)], **{**line(name), "linewidth": 1.2})
    axes.set(yscale="log", xlabel="meta-training epoch", ylabel="validation loss", title="The optimizer learns")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
