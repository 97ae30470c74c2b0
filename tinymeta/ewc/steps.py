"""Optimizers on loss + penalty in optax's protocol; formulas (3) to (5) of kernels.penalty, one kernel for the whole step.

Compiled, by Numba or for CUDA, that is one pass over the parameters; proximal_adam forms its moments and its metric before it.

    optimizer = ewc.proximal_sgd(0.1, penalty)
    state = optimizer.init(params)
    params, state = optimizer.step(params, grads, state)            # grads of the loss alone; or, as in tm.optim,
    updates, state = optimizer.update(grads, state, params)         # to be added

An explicit step of SGD diverges where η λ F passes 2, with a warning from 1 on; the proximal ones are stable at every λ. For the
next task make an optimizer with its penalty and go on with the same state, or a new one. All can be differentiated, to any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import trees
from ..ops.kernel import kernel
from ..optim import Rate, State
from .backends import table
from .penalty import Penalty, mapped, warn_if_unstable


class PenalisedOptimizer(NamedTuple):
    """init(params) -> state, update(grads, state, params) -> (updates, state), and step(params, grads, state) ->
    (params, state), which is update without the rounding of a difference that is added again."""

    init: Callable[[Any], State]
    update: Callable[..., tuple[Any, State]]
    step: Callable[[Any, Any, State], tuple[Any, State]]


def penalised_sgd(lr: Rate, penalty: Penalty) -> PenalisedOptimizer:
    """θ ← θ - η (g + λ F (θ - θ*)): gradient descent on loss + penalty. A RuntimeWarning where max η λ F passes 1, if lr is a
    number: it takes a look at F, once for all steps."""
    if not callable(lr):
        warn_if_unstable(penalty, lr, stacklevel=3)

    def step(params: Any, grads: Any, state: State) -> tuple[Any, State]:
        anchor, fisher = penalty.quadratic(params)
        options = {"lam": float(penalty.lam), "lr": _rate(lr, state)}
        after = trees.map(lambda *leaves: sgd_step(*leaves, **options), params, grads, anchor, fisher)
        return after, State(state.step + 1)

    return _optimizer(lambda params: State(0), step)


def penalised_adam(
    lr: Rate, penalty: Penalty, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> PenalisedOptimizer:
    """Adam (1412.6980, algorithm 1) on loss + penalty. Its moments see the penalty, so a large λ F shortens the steps."""

    def step(params: Any, grads: Any, state: State) -> tuple[Any, State]:
        t, (anchor, fisher) = state.step + 1, penalty.quadratic(params)
        options = {"lam": float(penalty.lam), "lr": _rate(lr, state), "t": t, "beta1": b1, "beta2": b2, "eps": eps}
        found = mapped(
            3, lambda *leaves: adam_step(*leaves, **options), params, grads, anchor, fisher, state.m, state.v
        )
        return found[0], State(t, found[1], found[2])

    return _optimizer(_moments, step)


def proximal_sgd(lr: Rate, penalty: Penalty) -> PenalisedOptimizer:
    """θ ← (θ - η g + η λ F θ*) / (1 + η λ F): explicit in the loss, implicit in the penalty."""

    def step(params: Any, grads: Any, state: State) -> tuple[Any, State]:
        anchor, fisher = penalty.quadratic(params)
        options = {"lam": float(penalty.lam), "lr": _rate(lr, state)}
        after = trees.map(lambda *leaves: proximal_step(*leaves, **options), params, grads, anchor, fisher)
        return after, State(state.step + 1)

    return _optimizer(lambda params: State(0), step)


def proximal_adam(
    lr: Rate, penalty: Penalty, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> PenalisedOptimizer:
    """The proximal step in Adam's metric: its rates η / (√v̂ + eps) per weight, moments of the loss's gradients alone.

    The same metric on both parts leaves the stationary points those of loss + penalty.
    """
    b1, b2, eps = float(b1), float(b2), float(eps)  # scalars of NumPy's would decide on the dtype

    def step(params: Any, grads: Any, state: State) -> tuple[Any, State]:
        t, (anchor, fisher) = state.step + 1, penalty.quadratic(params)
        m = trees.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, grads)
        v = trees.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state.v, grads)
        options = {"lam": float(penalty.lam), "lr": _rate(lr, state)}

        def leaf(w: Any, m: Any, v: Any, a: Any, F: Any) -> Any:
            scale = 1 / (ops.sqrt(v / (1 - b2**t)) + eps)
            return proximal_step(w, m / (1 - b1**t) * scale, a, F * scale, **options)

        return trees.map(leaf, params, m, v, anchor, fisher), State(t, m, v)

    return _optimizer(_moments, step)


def _optimizer(init: Callable, step: Callable) -> PenalisedOptimizer:
    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        if params is None:
            raise ValueError("a penalised optimizer needs the parameters: update(grads, state, params)")
        after, state = step(params, grads, state)
        return trees.map(lambda new, old: new - old, after, params), state

    return PenalisedOptimizer(init, update, step)


def _moments(params: Any) -> State:
    return State(0, trees.map(np.zeros_like, params), trees.map(np.zeros_like, params))


def _rate(lr: Rate, state: State) -> float:
    return float(lr(state.step) if callable(lr) else lr)


# ---- the kernels as ops: what a derivative goes through is composed of public ops ----


def _sgd_composed(theta: Any, grad: Any, anchor: Any, fisher: Any, *, lam: float, lr: float) -> Any:
    return theta - lr * (grad + lam * fisher * (theta - anchor))


def _adam_composed(
    theta: Any, grad: Any, anchor: Any, fisher: Any, m: Any, v: Any,
    *, lam: float, lr: float, t: int, beta1: float, beta2: float, eps: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    total = grad + lam * fisher * (theta - anchor)
    m = beta1 * m + (1 - beta1) * total
    v = beta2 * v + (1 - beta2) * (total * total)
    return theta - lr * (m / (1 - beta1**t)) / (ops.sqrt(v / (1 - beta2**t)) + eps), m, v


def _proximal_composed(theta: Any, grad: Any, anchor: Any, fisher: Any, *, lam: float, lr: float) -> Any:
    pull = lr * lam * fisher
    return (theta - lr * grad + pull * anchor) / (1 + pull)


def _adam_kernel(step: Callable) -> Callable:
    def call(theta: Any, grad: Any, anchor: Any, fisher: Any, m: Any, v: Any, **options: Any) -> tuple:
        return step(theta, grad, anchor, fisher, m=m, v=v, **options)

    return call


_ADAM = {backend: _adam_kernel(step) for backend, step in table("penalty", "adam_step").items()}

sgd_step = kernel("ewc_sgd_step", _sgd_composed, table("penalty", "sgd_step"))
adam_step = kernel("ewc_adam_step", _adam_composed, _ADAM)
proximal_step = kernel("ewc_proximal_step", _proximal_composed, table("penalty", "proximal_step"))
