"""The inner loop: gradient descent on the support set of each task, which an outer derivative may pass through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.transforms import grad, stop_gradient
from ..optim import in_dtype
from .apart import check_apart
from .checks import (
    check_adapted,
    check_data,
    check_finite,
    check_parameters,
    check_setting,
    check_some,
    check_tasks,
    checked_rates,
    losses_of_each,
    losses_on,
    quiet,
    task_axes,
)
from .paired import check_paired

Loss = Callable[[Any, Any], Any]  # loss(params, data) -> () for one task, (T,) for many
Rate = Any  # a float, a tree like the parameters with a rate for each leaf or element, or a function step -> either


def adapt(loss: Loss, params: Any, support: Any, lr: Rate, steps: int, order: int = 2) -> Any:
    """θ' after `steps` times θ' = θ - lr ∇θ loss(θ, support) (section 2.2): leaves like those of `params` for one task.

    Many tasks (see tinymeta.maml) all start from `params`, and the result's leaves have a leading task axis (T, ...). `lr` is
    a float, a tree like `params` with a rate for each leaf, element or task, or a function that gives one of these for step
    0, 1, ...
    order=2 lets derivatives pass through the inner gradient; order=1 takes that gradient as a constant, so that ∂θ'/∂θ = I.
    FloatingPointError, naming step and task, for a support loss or a result that is not finite.
    """
    *_, adapted = descend(loss, params, lambda step: support, lr, steps, order)
    check_adapted(adapted, params, steps)
    return adapted


def adaptation_path(loss: Loss, params: Any, support: Any, lr: Rate, steps: int, order: int = 2) -> list[Any]:
    """The parameters before and after each step of `adapt`, steps + 1 trees; a task that diverges goes on as inf and NaN.

    Those before share memory with `params`.
    """
    return list(descend(loss, params, lambda step: support, lr, steps, order, _accept))


def descend(
    loss: Loss,
    params: Any,
    data_of: Callable[[int], Any],
    lr: Rate,
    steps: int,
    order: int = 2,
    check: Callable[[Any, str, str], None] = check_finite,
) -> Iterator[Any]:
    """The parameters before and after each step, one by one; step s descends the loss of the support set data_of(s)."""
    check_setting(steps, order)
    check_parameters(params)
    tasks = task_axes(losses_on("support", loss, stop_gradient(params), data_of(0)))
    check_some(tasks)
    fast = trees.map(lambda p: ops.broadcast_to(p, tasks + np.shape(p)), params) if tasks else params
    check_data("support", data_of(0), tasks)
    check_apart(loss, fast, data_of(0), tasks)
    yield fast
    for step in range(steps):
        if data_of(step) is not data_of(0):
            check_data(f"the data of inner step {step + 1}", data_of(step), tasks)

        def total(weights: Any, step: int = step) -> Any:
            losses = losses_of_each(tasks, loss, weights, data_of(step))
            check_tasks(losses, tasks)
            check(losses, "the support loss", f"at inner step {step + 1} of {steps}")
            if step == 0:
                check_paired("support", losses, weights, data_of(0))
            return ops.sum(losses)

        with quiet():
            fast = gradient_step(fast, _gradient(total, fast, order), lr(step) if callable(lr) else lr)
        yield fast


def _gradient(total: Callable, fast: Any, order: int) -> Any:
    """The gradient of a sum over tasks is that of every task: no task's loss depends on another's weights."""
    if order == 2:
        return grad(total)(fast)
    return stop_gradient(grad(total)(stop_gradient(fast)))


def gradient_step(fast: Any, gradient: Any, lr: Any) -> Any:
    """θ' = θ - α ∇θ L(θ) (section 2.2)."""
    return trees.map(lambda p, g, rate: p - in_dtype(rate, g) * g, fast, gradient, checked_rates(lr, fast))


def _accept(losses: Any, name: str, when: str) -> None:
    """Any value is in order."""
