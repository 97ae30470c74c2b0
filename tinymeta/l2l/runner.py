"""One runner for learned and hand-designed optimizers: the same problems, the same mini-batches, the same evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import optim
from ..engine import trees
from ..engine.tensor import describe
from .problems import Problem, with_gradient

BASELINES: dict[str, Callable[[float], optim.Optimizer]] = {
    "SGD": optim.sgd,
    "NAG": optim.nag,
    "RMSprop": optim.rmsprop,
    "ADAM": optim.adam,
}
RATES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)


def optimize(optimizer: Any, problem: Problem, steps: int) -> np.ndarray:
    """Losses (steps + 1, B) before each step and after the last, f(θ_t) on the mini-batch of step t.

    They are infinite from where the optimizer refuses a gradient by FloatingPointError, as LSTMOptimizer does if it is not finite.
    """
    theta, state = problem.theta, optimizer.init(problem.theta)
    curve = []
    for t in range(steps):
        losses, grads = losses_and_grads(problem, theta, t)
        curve.append(losses)
        try:
            updates, state = optimizer.update(grads, state, theta)
        except FloatingPointError:
            return np.stack([*curve, *[np.full_like(losses, np.inf)] * (steps - t)])
        theta = trees.map(np.add, theta, updates)
    curve.append(problem.loss(theta, steps))
    return np.stack(curve)


def losses_and_grads(problem: Problem, theta: Any, t: int) -> tuple[Any, Any]:
    """The losses (B,) and the gradient of their sum: each problem's own gradient; ValueError for losses of another shape."""
    losses, grads = (problem.gradient or with_gradient(problem.loss))(theta, t)
    for path, x in trees.items(theta):
        if len(np.shape(losses)) != 1 or np.shape(losses) != np.shape(x)[:1]:
            raise ValueError(
                f"the problem's loss is {describe(losses)}, its parameter{path} {describe(x)}: expected losses of shape [B], where "
                "every parameter has a first axis B over problems, 1 for a single one"
            )
    return losses, grads


def best_rate(results: Mapping[float, float]) -> float:
    """The learning rate with the lowest final loss, the paper's rule (section 3); ValueError if none has a finite one."""
    finite = {lr: loss for lr, loss in results.items() if np.isfinite(loss)}
    if not finite:
        raise ValueError(f"no learning rate among {sorted(results)} gives a finite loss; add smaller ones")
    return min(finite, key=lambda lr: finite[lr])


def final_loss(optimizer: Any, problem: Problem, steps: int, last: int = 1) -> float:
    """Mean over the problems, and over the `last` last of the losses after 0 to `steps` steps, each on a mini-batch of its own;
    infinite if it overflows, as it does when the learning rate is too large. ValueError unless 1 <= last <= steps + 1."""
    if not 1 <= last <= steps + 1:
        raise ValueError(f"final_loss: last is {last}, expected 1 to {steps + 1}, the losses after 0 to {steps} steps")
    with np.errstate(over="ignore", invalid="ignore"):
        loss = float(np.mean(optimize(optimizer, problem, steps)[-last:]))
    return loss if np.isfinite(loss) else np.inf
