"""Trust region policy optimization (Schulman et al. 2015, arXiv 1502.05477, appendix C), on trees and any two functions of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine import trees
from ..engine.transforms import grad, linearize, value_and_grad
from ..maml.conjugate import conjugate_gradient, inner

CG_STEPS, DAMPING = 10, 1e-5  # the authors' constants
SHRINK, TRIES = 0.8, 15


class Step(NamedTuple):
    """The parameters after a step, and what became of it: `accepted` is False where they are those before."""

    params: Any
    loss_before: float
    loss: float
    kl: float
    accepted: bool


def trpo_step(
    loss: Callable, kl: Callable, params: Any, max_kl: float, damping: float = DAMPING, spread: float | None = None
) -> Step:
    """Lower loss(params) while kl(params) ≤ max_kl: along -H⁻¹ g, H the Hessian of kl, as far as a line search allows.

    H is met in products with vectors only, each one forward sweep over the graph of grad(kl), which is exact however deep kl
    adapts inside. With a `spread` they are central differences of grad(kl) over ± spread v / ‖θ‖ instead, 1 in MAML's code
    (conjugate_gradient_optimizer.py): they also see what curves within that distance. The step of length √(2 max_kl / xᵀ H x) is
    tried, then 0.8 of it and so on, until loss falls and kl holds; after 15 lengths that do not, nothing changes.
    FloatingPointError if the loss or its gradient is not finite, ValueError unless max_kl and spread are finite numbers above 0,
    and damping is one from 0 on.
    """
    for name, given in (("max_kl", max_kl), ("spread", 1 if spread is None else spread)):
        if not 0 < given < np.inf:
            raise ValueError(f"trpo_step: {name} is {given}, expected a finite number above 0")
    if not 0 <= damping < np.inf:
        raise ValueError(f"trpo_step: damping is {damping}, expected a finite number, 0 or more")
    before, gradient = value_and_grad(loss)(params)
    if not np.isfinite(before) or not all(np.isfinite(g).all() for g in trees.leaves(gradient)):
        raise FloatingPointError(
            f"trpo_step: the loss is {before} and its gradient may not be finite; lower the inner step"
        )
    push, damping = _products(kl, params, spread), float(damping)
    product = lambda v: trees.map(lambda hv, x: hv + damping * x, push(v), v)
    direction = conjugate_gradient(product, gradient, CG_STEPS, params)
    curvature = float(inner(direction, product(direction), params))
    if not curvature > 0:
        return _stay(params, float(before))
    length = float(np.sqrt(2 * max_kl / curvature))
    return _line_search(loss, kl, params, trees.map(lambda x: length * x, direction), max_kl, float(before))


def _products(kl: Callable, params: Any, spread: float | None) -> Callable[[Any], Any]:
    """v -> H v, H the Hessian of kl."""
    if spread is None:
        return linearize(grad(kl), params)[1]
    slope, reach = grad(kl), float(spread) / (float(np.sqrt(inner(params, params, params))) + 1e-8)

    def product(v: Any) -> Any:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                ahead, behind = (slope(trees.map(lambda p, x, r=r: p + r * x, params, v)) for r in (reach, -reach))
        except FloatingPointError:  # adaptation diverged within the reach: the curvature is unknown, no step is taken
            return trees.map(lambda p: p * np.nan, params)
        return trees.map(lambda a, b: (a - b) / (2 * reach), ahead, behind)

    return product


def _line_search(loss: Callable, kl: Callable, params: Any, full: Any, max_kl: float, before: float) -> Step:
    for attempt in range(TRIES):
        trial = trees.map(lambda p, x, share=SHRINK**attempt: p - share * x, params, full)
        with np.errstate(over="ignore", invalid="ignore"):  # a trial that goes too far is not accepted
            found, moved = _value(loss, trial), _value(kl, trial)
        if found < before and moved <= max_kl:
            return Step(trial, before, found, moved, True)
    return _stay(params, before)


def _stay(params: Any, before: float) -> Step:
    return Step(params, before, before, 0.0, False)


def _value(f: Callable, params: Any) -> float:
    try:
        return float(f(params))
    except FloatingPointError:  # adaptation diverged
        return np.nan
