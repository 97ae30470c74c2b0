"""`tinymeta run maml-sine --trace`: what every gradient step makes of a few new waves, for the report to step through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinymeta import maml, nets, trees
from tinymeta.experiments.maml_methods import METHODS
from tinymeta.experiments.maml_sine_tasks import Held, mse, on_grid
from tinymeta.lab import Outcome, Trace, UserError, figures
from tinymeta.lab.files import atomic_write, file_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AMPLITUDES = (1.0, 2.5, 4.0)  # of the test tasks that are traced
FILE = "nets.npz"


def save_trained(folder: Path, trained: Mapping[str, Any]) -> None:
    """What each method has meta-learned, leaf by leaf, in the run folder."""
    leaves = {f"{name}/{i}": leaf for name, meta in trained.items() for i, leaf in enumerate(trees.leaves(meta))}
    arrays: Any = leaves
    with atomic_write(folder / FILE) as file:
        np.savez(file, **arrays)


def record(config: Any, folder: Path, outcome: Outcome) -> dict[str, NDArray]:
    """Arrays by name, for S tasks, K support points, P points of the curves and N steps: `x` (P,), `truth` (S, P), `support_x` and
    `support_y` (S, K), and of each method `outputs_NAME` (S, N + 1, P) and `support_loss_NAME`, `query_loss_NAME` (S, N + 1)."""
    held, k, steps = Held.draw(config, "test", config.test_tasks), config.test_points[0], config.test_steps
    tasks = [int(np.argmin(abs(held.tasks.amplitude - amplitude))) for amplitude in AMPLITUDES]
    x, y = on_grid(held.tasks, config.test_query_points)
    support = tuple(points[:, :k].copy() for points in held.support)
    found = {"x": x[0, :, 0], "truth": y[tasks, :, 0]}
    found |= {"support_x": support[0][tasks, :, 0], "support_y": support[1][tasks, :, 0]}
    for name, method in _methods(config, outcome, k).items():
        path = held.path(method, _trained(folder, name, method, config), k, steps)
        with np.errstate(over="ignore", invalid="ignore"):
            of_tasks = lambda values: np.stack([v[tasks] for v in values], 1)
            found[f"outputs_{name}"] = of_tasks([nets.mlp(fast, x)[..., 0] for fast in path])
            found[f"support_loss_{name}"] = of_tasks([mse(fast, support) for fast in path])
            found[f"query_loss_{name}"] = of_tasks([mse(fast, (x, y)) for fast in path])
    return found


def _methods(config: Any, outcome: Outcome, points: int) -> dict[str, maml.Method]:
    """MAML with its own step size, and the pretrained net with the tuned one."""
    hero, tuned = METHODS[config.hero], outcome.series["tuning"]["pretrained"][str(points)]["chosen"]
    return {hero.name: hero.build(config, None), "pretrained": maml.maml(tuned, 1)}


def _trained(folder: Path, name: str, method: maml.Method, config: Any) -> Any:
    like = method.init(nets.init_mlp(np.random.default_rng(0), (1, *config.hidden, 1)))
    path = folder / FILE
    with file_errors("read", path), open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                return trees.unflatten(like, [archive[f"{name}/{i}"] for i in range(len(trees.leaves(like)))])
        except Exception as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}); start a new run") from error


def draw(arrays: Mapping[str, NDArray]) -> dict[str, Figure | figures.Film]:
    """`trace-adaptation`: the film of the fits, one frame for each step."""
    names = [name.removeprefix("outputs_") for name in arrays if name.startswith("outputs_")]
    steps = arrays[f"outputs_{names[0]}"].shape[1]
    points = arrays["support_x"].shape[1]
    caption = (
        f"What each gradient step on {points} points makes of new waves. Dotted: the wave; triangles: the points. The number in "
        "each panel is the mean squared error over the whole range."
    )
    labels = ["before adaptation", *(f"after {n} step{'s' if n > 1 else ''}" for n in range(1, steps))]
    return {
        "trace-adaptation": figures.Film(caption, {label: _frame(arrays, names, n) for n, label in enumerate(labels)})
    }


def _frame(arrays: Mapping[str, NDArray], names: list[str], step: int) -> Figure:
    tasks = len(arrays["truth"])
    reach = 1.25 * float(np.abs(arrays["truth"]).max())
    figure, axes = figures.subplots(
        tasks, len(names), height=0.6 + 1.6 * tasks, squeeze=False, sharex=True, sharey=True
    )
    for t, row in enumerate(axes):
        for panel, name in zip(row, names, strict=True):
            panel.plot(arrays["x"], arrays["truth"][t], color=figures.BLACK, linestyle=":")
            panel.plot(
                arrays["x"], arrays[f"outputs_{name}"][t, step], color=figures.METHODS[name]["color"], linewidth=2
            )
            panel.plot(
                arrays["support_x"][t], arrays["support_y"][t], "^", color=figures.PURPLE, markersize=6, zorder=4
            )
            loss = f"{arrays[f'query_loss_{name}'][t, step]:.2f}"
            panel.text(0.98, 0.05, loss, transform=panel.transAxes, ha="right", fontsize=9)
            panel.set_ylim(-reach, reach)
    for panel, name in zip(axes[0], names, strict=True):
        panel.set_title(name)
    for panel in axes[-1]:
        panel.set_xlabel("x")
    return figure


TRACE = Trace(record, draw)
