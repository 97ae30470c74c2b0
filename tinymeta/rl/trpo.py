"""Trust region policy optimization (Schulman et al. 2015, arXiv 1502.05477, appendix C), on trees and any two functions of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine import trees
from ..engine.transforms import grad, linearize, value_and_grad

CG_STEPS, RESIDUAL, DAMPING = 10, 1e-10, 1e-5  # the authors' constants
SHRINK, TRIES = 0.8, 15


class Step(NamedTuple):
    """The parameters after a step, and what became of it: `accepted` is False where they are those before."""

    params: Any
    loss_before: float
    loss: float
    kl: float
    accepted: bool


def trpo_step(loss: Callable, kl: Callable, params: Any, max_kl: float, damping: float = DAMPING) -> Step:
    """Lower loss(params) while kl(params) ≤ max_kl: along -H⁻¹ g, H the Hessian of kl, as far as a line search allows.

    H is met in products with vectors only, each one forward sweep over the graph of grad(kl), which is exact however deep kl
    adapts inside. The step of length √(2 max_kl / xᵀ H x) is shortened by 0.8 up to 15 times until loss falls and kl holds;
    else nothing changes. FloatingPointError if the loss or its gradient is not finite.
    """
    before, gradient = value_and_grad(loss)(params)
    before, flat = float(before), _flat(gradient)
    if not np.isfinite(before) or not np.isfinite(flat).all():
        raise FloatingPointError(
            f"trpo_step: the loss is {before} and its gradient may not be finite; lower the inner step"
        )
    _, push = linearize(grad(kl), params)
    product = lambda v: _flat(push(_like(params, v))) + damping * v
    direction = conjugate_gradient(product, flat)
    curvature = float(direction @ product(direction))
    if not curvature > 0:
        return Step(params, before, before, 0.0, False)
    full = np.sqrt(2 * max_kl / curvature) * direction
    return _line_search(loss, kl, params, full, max_kl, before)


def conjugate_gradient(product: Callable, b: Any, steps: int = CG_STEPS, residual: float = RESIDUAL) -> Any:
    """x with product(x) ≈ b, product a symmetric positive definite map, after at most `steps` steps from 0."""
    x, r = np.zeros_like(b), b.copy()
    p, rr = r, float(b @ b)
    for _ in range(steps):
        if rr < residual:
            break
        z = product(p)
        alpha = rr / float(p @ z)
        x, r = x + alpha * p, r - alpha * z
        rr, old = float(r @ r), rr
        p = r + (rr / old) * p
    return x


def _line_search(loss: Callable, kl: Callable, params: Any, full: Any, max_kl: float, before: float) -> Step:
    start = _flat(params)
    for attempt in range(TRIES):
        trial = _like(params, start - SHRINK**attempt * full)
        with np.errstate(over="ignore", invalid="ignore"):  # a trial that goes too far is not accepted
            found, moved = _value(loss, trial), _value(kl, trial)
        if found < before and moved <= max_kl:
            return Step(trial, before, found, moved, True)
    return Step(params, before, before, 0.0, False)


def _value(f: Callable, params: Any) -> float:
    try:
        return float(f(params))
    except FloatingPointError:  # adaptation diverged
        return np.nan


def _flat(tree: Any) -> Any:
    return np.concatenate([np.ravel(x) for x in trees.leaves(tree)])


def _like(tree: Any, flat: Any) -> Any:
    ends = np.cumsum([x.size for x in trees.leaves(tree)])[:-1]
    pieces = zip(np.split(flat, ends), trees.leaves(tree), strict=True)
    return trees.unflatten(tree, [piece.reshape(x.shape).astype(x.dtype, copy=False) for piece, x in pieces])
