"""Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999): move towards the parameters that plain training of a task leads to."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..engine import trees
from .checks import check_rate, check_setting
from .inner import Loss, adaptation_path, descend
from .methods import Method
from .outer import over_tasks, query_loss


def reptile(lr: float, steps: int) -> Method:
    """Algorithm 2 of 1803.02999, as a gradient: the mean over tasks of (θ - θ̃) / lr, with θ̃ after `steps` steps of SGD.

    The steps take support and query set in turn as their minibatches, for Reptile knows no held-out part; the value is the loss
    of θ̃ on the query set. (θ - θ̃) / lr is the sum of the gradients on the way: no second derivative anywhere. Of a rate so small
    that θ̃ is θ to some digits, the gradient has only the others: in float32 take 1e-4 or more.
    """
    lr = check_rate("reptile", lr)
    if lr <= 0:
        raise ValueError(f"reptile: lr = {lr!r}, expected a number above 0: its gradient is divided by it")
    check_setting(steps, 1)
    if steps < 1:
        raise ValueError(f"reptile: steps = {steps}, expected 1 or more: its gradient is what the steps changed")

    def meta_gradient(loss: Loss, params: Any, support: Any, query: Any) -> tuple[Any, Any]:
        *_, trained = descend(loss, params, lambda step: query if step % 2 else support, lr, steps, order=1)
        value = query_loss(loss, params, trained, query, steps)
        return value, trees.map(lambda p, t: over_tasks(ops.mean, p - t, p) / lr, params, trained)

    def path(loss: Loss, params: Any, support: Any, steps: int) -> list[Any]:
        return adaptation_path(loss, params, support, lr, steps, order=1)

    return Method(lambda params: params, meta_gradient, path)
