"""That a loss keeps its tasks apart: where a bias (T, h) meets points (T, T, h) or (T, 1, h), or a number, now (T,), meets
(T, points, 1), it broadcasts along another axis, and tasks share their parameters without an error; as they share their data where
targets (T, T) meet predictions (T, T, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.batched import raw
from ..engine.tensor import examine, is_float
from ..engine.transforms import stop_gradient
from .checks import Axes, check_tasks, losses_of_each, quiet

PARAMETERS = (
    "All have a task axis in front, and so a bias (T, h) broadcasts along the points of x (T, points, h), a number (T,) along its "
    "last axis: write b[..., None, :], as nets.mlp does, and a[..., None, None], or give tm.vmap a loss of one task"
)
DATA = (
    "Targets (T, points) broadcast beside predictions (T, points, 1), and weights (T,) beside losses (T, points): write "
    "y[..., None], or give tm.vmap a loss of one task"
)


def check_apart(loss: Callable[[Any, Any], Any], fast: Any, data: Any, tasks: Axes) -> None:
    """ValueError if the loss of the first task changes with the parameters or the data of the others; looked at where shapes
    allow it."""
    if np.prod(tasks) < 2 or not _may_mix(fast, data, tasks):
        return
    fast = stop_gradient(fast)
    runs = [(fast, data), (fast, data), (_others_moved(fast, tasks), data), (fast, _others_moved(data, tasks))]
    with quiet():
        found = [losses_of_each(tasks, loss, *run) for run in runs]
    check_tasks(found[0], tasks)
    examine(_refuse_if_moved(len(tasks)), *map(raw, found), again=False)


def _may_mix(fast: Any, data: Any, tasks: Axes) -> bool:
    """Whether shapes let a task axis meet another axis: one of points, or of the data's or the parameters' own."""
    n, alike = len(tasks), {1, *tasks}
    own = [p.shape[n:] for p in trees.leaves(fast)]
    given = [x.shape[n:] for x in trees.leaves(data) if is_float(x)]
    if () in given or any(shape == () or {*shape} & {*tasks} for shape in own):
        return True
    ranks = {len(shape) for shape in (*own, *given)}
    inner = [x.shape[n:] for x in trees.leaves(data) if len(getattr(x, "shape", ())) > n]
    return any({shape[0], *(shape[-1 - r] for r in ranks if r < len(shape))} & alike for shape in inner)


def _others_moved(tree: Any, tasks: Axes) -> Any:
    """The tree, its floats of all tasks but the first far from where they were."""
    others = np.arange(np.prod(tasks)).reshape(tasks) > 0

    def moved(x: Any) -> Any:
        if not is_float(x):
            return x
        mask = others.reshape(tasks + (1,) * (x.ndim - len(tasks)))
        return ops.where(mask, x + (ops.abs(x) + 1) / 2, x)

    return trees.map(moved, tree)


def _refuse_if_moved(axes: int) -> Callable[..., None]:
    first = (..., *(0,) * axes)

    def check(before: Any, again: Any, other_parameters: Any, other_data: Any) -> None:
        rounding = np.cbrt(np.finfo(before.dtype).eps) * np.max(np.abs(before))
        if not np.isfinite(before).all() or np.any(np.abs(again - before) > rounding):
            return  # which is told in other words; nothing can be seen of a loss that draws numbers
        for after, what, how in ((other_parameters, "parameters", PARAMETERS), (other_data, "data", DATA)):
            if np.isfinite(after[first]).all() and np.any(np.abs(after[first] - before[first]) > rounding):
                raise ValueError(f"maml: the loss of a task changes with the {what} of other tasks. {how}")

    return check
