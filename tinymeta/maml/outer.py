"""The outer objective: how good the adapted parameters are on data that adaptation did not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from .checks import check_data, check_finite, check_query_tasks, check_weights, losses_on
from .inner import Loss, Rate, descend
from .paired import check_paired


def meta_loss(
    loss: Loss, params: Any, support: Any, query: Any, lr: Rate, steps: int, order: int = 2, weights: Any = None
) -> Any:
    """The mean over tasks of loss(θ', query), with θ' = adapt(loss, params, support, lr, steps, order): a scalar.

    It is the objective of 1703.03400, section 2.2 (divided by the number of tasks); its gradient in `params` is the
    meta-gradient, that of first-order MAML for order=1. With `weights`, an array (steps,), it is the multi-step loss of MAML++
    (1810.09502, section 4): the query loss after every step, times its weight, summed. FloatingPointError, naming the task, for
    a value that is not finite.
    """
    path = list(descend(loss, params, lambda step: support, lr, steps, order))
    if weights is None:
        return query_loss(loss, params, path[-1], query, steps)
    check_weights(weights, steps)
    after = [query_loss(loss, params, fast, query, step) for step, fast in enumerate(path[1:], 1)]
    return ops.sum(ops.stack(after) * ops.astype(weights, after[0].dtype))


def query_loss(loss: Loss, params: Any, adapted: Any, query: Any, steps: int) -> Any:
    """The mean over tasks of the loss that parameters adapted from `params` have on the query set."""
    tasks = _added_axes(params, adapted)
    check_data("query", query, tasks)
    losses = losses_on("query", loss, adapted, query)
    check_query_tasks(losses, tasks)
    check_finite(losses, "the query loss", f"after {steps} inner steps")
    check_paired("query", losses, adapted, query)
    return ops.mean(losses)


def over_tasks(reduce: Callable[..., Any], x: Any, like: Any) -> Any:
    """ops.sum or ops.mean of x over its leading axes that `like` has not."""
    return reduce(x, axis=tuple(range(np.ndim(x) - np.ndim(like))))


def _added_axes(params: Any, adapted: Any) -> tuple[int, ...]:
    before, after = trees.leaves(params)[0], trees.leaves(adapted)[0]
    return np.shape(after)[: np.ndim(after) - np.ndim(before)]
