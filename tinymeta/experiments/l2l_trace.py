"""`tinymeta run l2l-... --trace`: what the learned optimizer does to single coordinates, after appendix B of 1606.04474.

The gradients are those of the learned optimizer's own trajectory on a test problem; ADAM and SGD at their best learning
rates are asked what they would propose to the same coordinates after the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinymeta import l2l, optim
from tinymeta.l2l.trace import activations, follow, proposals
from tinymeta.lab import Outcome, Trace, UserError, stream
from tinymeta.lab.figures import BLACK, line, subplots
from tinymeta.lab.files import file_errors

from .l2l_comparison import LEARNED, Setting
from .l2l_training import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIVALS = ("ADAM", "SGD")
QUANTILES = (1.0, 0.99, 0.9, 0.5)  # of the size of their gradients: which coordinates are shown
MOMENTS = (0.02, 0.1, 0.3, 0.9)  # of the trajectory: where updates are drawn as functions of the gradient
GRID = 81  # gradients, from -REACH to REACH times the largest that the coordinate sees
REACH = 1.25


def trace_of(trained_on: Callable[[Any, Path], Setting]) -> Trace:
    """The trace of an experiment with one LSTM; `trained_on(config, folder)` is its first setting, that of meta-training."""

    def record(config: Training, folder: Path, outcome: Outcome) -> dict[str, NDArray]:
        setting, optimizer = trained_on(config, folder), _trained(folder / "optimizer.npz")
        rates = outcome.series["settings"][0]["rates"]
        rivals = {name: l2l.BASELINES[name](rates[name]) for name in RIVALS}
        problem = setting.make_problem(stream(config.seed, "test"), 1, "test")
        return record_trace(optimizer, rivals, problem, setting.steps)

    return Trace(record, draw)


def _trained(path: Path) -> l2l.LSTMOptimizer:
    try:
        with file_errors("read", path):
            return l2l.LSTMOptimizer.load(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def record_trace(
    optimizer: l2l.LSTMOptimizer, rivals: Mapping[str, optim.Optimizer], problem: l2l.Problem, steps: int
) -> dict[str, NDArray]:
    """Arrays by name, for K coordinates and T steps: `coordinates` (K,), `gradients` and the updates of each method (T, K), the
    gates and states `layer1_i` ... of each layer (T, K, H), and at S `moments` what each method proposes (S, K, V) for gradients
    `values` (K, V)."""
    seen, proposed = follow(optimizer, problem, steps)
    coordinates = choose(seen)
    gradients = np.ascontiguousarray(seen[:, coordinates])
    values = np.abs(gradients).max(axis=0)[:, None] * np.linspace(-REACH, REACH, GRID, dtype=gradients.dtype)
    moments = np.array(sorted({int(part * steps) for part in MOMENTS}))
    methods = {LEARNED: optimizer, **rivals}
    found = {"coordinates": coordinates, "gradients": gradients, "values": values, "moments": moments}
    found |= {f"updates_{name}": updates_of(rival, gradients) for name, rival in rivals.items()}
    found[f"updates_{LEARNED}"] = proposed[:, coordinates]
    for name, method in methods.items():
        found[f"proposals_{name}"] = np.stack([proposals(method, gradients[:t], values) for t in moments])
    for number, cells in enumerate(activations(optimizer, gradients)[1], 1):
        found |= {f"layer{number}_{name}": array for name, array in cells._asdict().items()}
    return found


def choose(gradients: NDArray) -> NDArray[np.int64]:
    """The coordinates at the quantiles of the root mean square of their gradients (T, n); each once."""
    size = np.sqrt(np.mean(np.square(gradients, dtype=np.float64), axis=0))
    order = np.argsort(size, kind="stable")
    places = [round(quantile * (len(order) - 1)) for quantile in QUANTILES]
    return order[sorted(set(places), reverse=True)]


def updates_of(optimizer: Any, gradients: NDArray) -> NDArray:
    """The updates (T, K) that an optimizer proposes to coordinates with these gradients, whatever becomes of its advice."""
    state, updates = optimizer.init(gradients[0]), []
    for gradient in gradients:
        update, state = optimizer.update(gradient, state, gradient)
        updates.append(update)
    return np.stack(updates)


# ---- figures ----


def draw(arrays: Mapping[str, NDArray]) -> dict[str, Figure]:
    """`trace-updates` after Fig. 10 of the paper, `trace-response` after Fig. 11 to 13, and `trace-gates`."""
    return {"trace-updates": _updates(arrays), "trace-response": _response(arrays), "trace-gates": _gates(arrays)}


def _methods(arrays: Mapping[str, NDArray]) -> list[str]:
    return [name for name in (*RIVALS, LEARNED) if f"updates_{name}" in arrays]


def _updates(arrays: Mapping[str, NDArray]) -> Figure:
    count = len(arrays["coordinates"])
    caption = (
        "Updates proposed to single coordinates along the learned optimizer's trajectory, from the coordinate with the largest "
        "gradients to the median one."
    )
    figure, axes = subplots(count, 1, height=0.6 + 1.7 * count, caption=caption, sharex=True, squeeze=False)
    for k, panel in enumerate(axes[:, 0]):
        for name in _methods(arrays):
            panel.plot(arrays[f"updates_{name}"][:, k], **{**line(name), "linewidth": 1.4})
        panel.set(title=f"coordinate {arrays['coordinates'][k]}", ylabel="update")
    axes[-1][0].set_xlabel("step")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _response(arrays: Mapping[str, NDArray]) -> Figure:
    moments, count = arrays["moments"], len(arrays["coordinates"])
    caption = (
        "The update that each method would propose, had the gradient of this step been another one; the histories before it are "
        "the same. Dotted: the gradient that was seen. Rows are coordinates."
    )
    figure, axes = subplots(
        count, len(moments), height=0.8 + 1.5 * count, caption=caption, squeeze=False, sharex="row", sharey="row"
    )
    for k, row in enumerate(axes):
        for s, panel in enumerate(row):
            for name in _methods(arrays):
                look = {**line(name), "linewidth": 1.4}
                panel.plot(arrays["values"][k], arrays[f"proposals_{name}"][s, k], **look)
            panel.axvline(arrays["gradients"][moments[s], k], color=BLACK, linestyle=":", linewidth=0.8)
            panel.tick_params(labelsize=7)
            panel.locator_params(axis="x", nbins=3)
    for panel, moment in zip(axes[0], moments, strict=True):
        panel.set_title(f"step {moment}")
    for panel in axes[-1]:
        panel.set_xlabel("gradient", fontsize=8)
    for panel in axes[:, 0]:
        panel.set_ylabel("update", fontsize=8)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _gates(arrays: Mapping[str, NDArray]) -> Figure:
    """Of the first coordinate."""
    layers = sorted({name.split("_")[0] for name in arrays if name.startswith("layer")})
    caption = f"Gates and cell state of the LSTM for coordinate {arrays['coordinates'][0]}: units by steps."
    shown = {"i": "input gate", "f": "forget gate", "o": "output gate", "c": "cell state"}
    figure, axes = subplots(
        max(1, len(layers)), len(shown), height=0.6 + 1.5 * max(1, len(layers)), caption=caption, squeeze=False
    )
    for row, layer in zip(axes, layers, strict=False):
        for panel, (gate, title) in zip(row, shown.items(), strict=True):
            values = arrays[f"{layer}_{gate}"][:, 0].T
            limit = float(np.abs(values).max()) if gate == "c" else 1.0
            look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if gate == "c" else {"vmin": 0, "vmax": 1}
            image = panel.imshow(values, aspect="auto", interpolation="nearest", **look)
            figure.colorbar(image, ax=panel, location="bottom")
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"{title}, {layer.replace('layer', 'layer ')}", fontsize=8)
    return figure
