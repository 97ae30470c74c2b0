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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import trees
from ..ops.kernel import kernel
from ..optim import Rate, State, adam_constants, in_dtype, rate_at, squares
from .arguments import check_like
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
    if isinstance(lr, (int, float, np.number)):
        warn_if_unstable(penalty, lr, stacklevel=3)

    def step(state: State, *terms: Any) -> tuple[Any, State]:
        leaf = _with_numbers(sgd_step, lam=float(penalty.lam), lr=rate_at(lr, state))
        return trees.map(leaf, *terms), State(state.step + 1)

    return _optimizer(penalty, lambda params: State(0), step)


def penalised_adam(
    lr: Rate, penalty: Penalty, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> PenalisedOptimizer:
    """Adam (1412.6980, algorithm 1) on loss + penalty. Its moments see the penalty, so a large λ F shortens the steps."""
    beta1, beta2, eps = map(float, adam_constants("penalised_adam", b1, b2, eps))
    numbers = {"lam": float(penalty.lam), "beta1": beta1, "beta2": beta2, "eps": eps}

    def step(state: State, *terms: Any) -> tuple[Any, State]:
        t = state.step + 1
        leaf = _with_numbers(adam_step, lr=rate_at(lr, state), t=t, **numbers)
        after, m, v = mapped(3, leaf, *terms, state.m, state.v)
        return after, State(t, m, v)

    return _optimizer(penalty, _moments("penalised_adam", eps), step)


def proximal_sgd(lr: Rate, penalty: Penalty) -> PenalisedOptimizer:
    """θ ← (θ - η g + η λ F θ*) / (1 + η λ F): explicit in the loss, implicit in the penalty."""

    def step(state: State, *terms: Any) -> tuple[Any, State]:
        leaf = _with_numbers(proximal_step, lam=float(penalty.lam), lr=rate_at(lr, state))
        return trees.map(leaf, *terms), State(state.step + 1)

    return _optimizer(penalty, lambda params: State(0), step)


def proximal_adam(
    lr: Rate, penalty: Penalty, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> PenalisedOptimizer:
    """The proximal step in Adam's metric: its rates η / (√v̂ + eps) per weight, moments of the loss's gradients alone.

    The same metric on both parts leaves the stationary points those of loss + penalty.
    """
    b1, b2, eps = map(float, adam_constants("proximal_adam", b1, b2, eps))  # NumPy's own would decide on the dtype

    def step(state: State, params: Any, grads: Any, anchor: Any, fisher: Any) -> tuple[Any, State]:
        t = state.step + 1
        m = trees.map(lambda m, g: b1 * m + (1 - b1) * g, state.m, grads)
        v = trees.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state.v, grads)
        move = _with_numbers(proximal_step, lam=float(penalty.lam), lr=rate_at(lr, state))

        def leaf(w: Any, m: Any, v: Any, a: Any, F: Any) -> Any:
            scale = 1 / (ops.sqrt(v / in_dtype(1 - b2**t, v)) + eps)
            return move(w, m / in_dtype(1 - b1**t, m) * scale, a, F * scale)

        return trees.map(leaf, params, m, v, anchor, fisher), State(t, m, v)

    return _optimizer(penalty, _moments("proximal_adam", eps), step)


def _optimizer(penalty: Penalty, init: Callable, change: Callable) -> PenalisedOptimizer:
    """Of change(state, params, grads, anchor, fisher) -> (params, state), trees that fit one another."""

    def step(params: Any, grads: Any, state: State) -> tuple[Any, State]:
        anchor, fisher = penalty.quadratic(params)
        check_like(params, grads, "grads")
        for name in ("m", "v"):
            if getattr(state, name) is not None:
                check_like(params, getattr(state, name), f"state.{name}")
        return change(state, params, grads, anchor, fisher)

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        if params is None:
            raise ValueError("a penalised optimizer needs the parameters: update(grads, state, params)")
        after, state = step(params, grads, state)
        return trees.map(lambda new, old: new - old, after, params), state

    return PenalisedOptimizer(init, update, step)


def _moments(name: str, eps: float) -> Callable[[Any], State]:
    return lambda params: State(0, trees.map(np.zeros_like, params), squares(name, eps, params))


def _with_numbers(op: Any, **numbers: Any) -> Callable:
    """The op of a step's leaves; where a number is captured or differentiated, which no kernel takes, what it is composed of."""
    if all(isinstance(x, (int, float, np.generic, np.ndarray)) for x in numbers.values()):
        return functools.partial(op, **{name: np.asarray(x).item() for name, x in numbers.items()})
    return functools.partial(op.reference, **numbers)


# ---- the kernels as ops: what a derivative goes through is composed of public ops ----


def _sgd_composed(theta: Any, grad: Any, anchor: Any, fisher: Any, *, lam: float, lr: float) -> Any:
    return theta - in_dtype(lr, theta) * (grad + lam * fisher * (theta - anchor))


def _adam_composed(
    theta: Any, grad: Any, anchor: Any, fisher: Any, m: Any, v: Any,
    *, lam: float, lr: float, t: int, beta1: float, beta2: float, eps: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    total = grad + lam * fisher * (theta - anchor)
    m = beta1 * m + (1 - beta1) * total
    v = beta2 * v + (1 - beta2) * (total * total)
    rate, bias1, bias2 = (in_dtype(x, theta) for x in (lr, 1 - beta1**t, 1 - beta2**t))
    return theta - rate * (m / bias1) / (ops.sqrt(v / bias2) + eps), m, v


def _proximal_composed(theta: Any, grad: Any, anchor: Any, fisher: Any, *, lam: float, lr: float) -> Any:
    lr = in_dtype(lr, theta)
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
