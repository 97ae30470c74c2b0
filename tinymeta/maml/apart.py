"""That a loss keeps its tasks apart: where a bias (T, h) meets points (T, T, h) or (T, 1, h), or a number, now (T,), meets
(T, points, 1), it broadcasts along another axis, and tasks share their parameters without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.batched import raw
from ..engine.tensor import examine
from ..engine.transforms import stop_gradient
from .checks import Axes, check_tasks, losses_of_each, quiet


def check_apart(loss: Callable[[Any, Any], Any], fast: Any, data: Any, tasks: Axes) -> None:
    """ValueError if the loss of the first task changes with the parameters of the others; looked at where shapes allow it."""
    if np.prod(tasks) < 2 or not _may_mix(fast, data, tasks):
        return
    fast = stop_gradient(fast)
    with quiet():
        before, again, after = (losses_of_each(tasks, loss, p, data) for p in (fast, fast, _others_moved(fast, tasks)))
    check_tasks(before, tasks)
    examine(_refuse_if_moved(len(tasks)), *map(raw, (before, again, after)), again=False)


def _may_mix(fast: Any, data: Any, tasks: Axes) -> bool:
    """Whether shapes let a parameter's task axis meet another axis: one of points, or of the data's or the parameters' own."""
    n, alike = len(tasks), {1, *tasks}
    own = [p.shape[n:] for p in trees.leaves(fast)]
    if any(shape == () or {*shape} & {*tasks} for shape in own):
        return True
    ranks = {len(shape) for shape in own}
    inner = [x.shape[n:] for x in trees.leaves(data) if len(getattr(x, "shape", ())) > n]
    return any({shape[0], *(shape[-1 - r] for r in ranks if r < len(shape))} & alike for shape in inner)


def _others_moved(fast: Any, tasks: Axes) -> Any:
    """The parameters, those of all tasks but the first far from where they were."""
    others = np.arange(np.prod(tasks)).reshape(tasks) > 0

    def moved(p: Any) -> Any:
        mask = others.reshape(tasks + (1,) * (p.ndim - len(tasks)))
        return ops.where(mask, p + (ops.abs(p) + 1) / 2, p)

    return trees.map(moved, fast)


def _refuse_if_moved(axes: int) -> Callable[[Any, Any, Any], None]:
    first = (..., *(0,) * axes)

    def check(before: Any, again: Any, after: Any) -> None:
        if not (np.isfinite(before).all() and np.isfinite(after[first]).all()):
            return  # which is told in other words
        rounding = np.cbrt(np.finfo(before.dtype).eps) * np.max(np.abs(before))
        if np.any(np.abs(again - before) > rounding):
            return  # nothing can be seen of a loss that draws numbers
        if np.any(np.abs(after[first] - before[first]) > rounding):
            raise ValueError(
                "maml: the loss of a task changes with the parameters of other tasks. All have a task axis in front, and so a bias "
                "(T, h) broadcasts along the points of x (T, points, h), a number (T,) along its last axis: write b[..., None, :], "
                "as nets.mlp does, and a[..., None, None], or give tm.vmap a loss of one task"
            )

    return check
