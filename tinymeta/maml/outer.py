"""The outer objective: how good the adapted parameters are on data that adaptation did not see."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from .checks import check_data, check_finite, check_tasks
from .inner import Loss, adapt


def meta_loss(loss: Loss, params: Any, support: Any, query: Any, lr: Any, steps: int, order: int = 2) -> Any:
    """The mean over tasks of loss(θ', query), with θ' = adapt(loss, params, support, lr, steps, order): a scalar.

    It is the objective of 1703.03400, section 2.2 (divided by the number of tasks); its gradient in `params` is the
    meta-gradient, that of first-order MAML for order=1. FloatingPointError, naming the task, for a value that is not finite.
    """
    adapted = adapt(loss, params, support, lr, steps, order)
    tasks = _added_axes(params, adapted)
    check_data("query", query, tasks)
    losses = loss(adapted, query)
    check_tasks(losses, tasks)
    check_finite(losses, "the query loss", f"after {steps} inner steps")
    return ops.mean(losses)


def _added_axes(params: Any, adapted: Any) -> tuple[int, ...]:
    before, after = trees.leaves(params)[0], trees.leaves(adapted)[0]
    return np.shape(after)[: np.ndim(after) - np.ndim(before)]
