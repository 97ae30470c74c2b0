"""Implicit MAML (Rajeswaran, Finn, Kakade, Levine 2019, arXiv 1909.04630): the meta-gradient without the path that led to φ."""

from __future__ import annotations

import functools
import math
from numbers import Real
from typing import Any

from .. import ops
from ..engine import trees
from ..engine.transforms import grad, linearize, value_and_grad
from .checks import check_setting, check_whole
from .conjugate import conjugate_gradient, own_axes
from .inner import Loss, adapt, adaptation_path
from .methods import Method
from .outer import over_tasks, query_loss


def implicit(lr: float, steps: int, strength: float, cg_steps: int = 5) -> Method:
    """Implicit MAML with λ = `strength`: the inner loop descends L(φ, support) + λ/2 ‖φ - θ‖² (eq. 3).

    Its minimum φ has dφ/dθ = (I + H/λ)⁻¹ with H the Hessian of L(·, support) at φ (lemma 1). The meta-gradient is that times
    ∇L(φ, query), found by `cg_steps` steps of conjugate gradient on Hessian-vector products, for all tasks at once (algorithm 2).
    It is exact where φ is the minimum and I + H/λ is positive definite: take λ large enough for the second.
    """
    if not isinstance(strength, Real) or not 0 < strength < math.inf:
        raise ValueError(f"implicit: strength = {strength!r}, expected λ > 0, a finite number: it ties φ to θ")
    check_setting(steps, 1)
    check_whole("cg_steps", cg_steps, 1)
    strength = float(strength)
    near = functools.partial(_tied, strength=strength)

    def meta_gradient(loss: Loss, params: Any, support: Any, query: Any) -> tuple[Any, Any]:
        phi = adapt(near(loss, params), params, support, lr, steps, order=1)
        value, gradient = value_and_grad(lambda w: query_loss(loss, params, w, query, steps))(phi)
        _, hessian = linearize(grad(lambda w: ops.sum(loss(w, support))), phi)
        solved = conjugate_gradient(
            lambda v: trees.map(lambda x, hx: x + hx / strength, v, hessian(v)), gradient, cg_steps, params
        )
        return value, trees.map(functools.partial(over_tasks, ops.sum), solved, params)

    def path(loss: Loss, params: Any, support: Any, steps: int) -> list[Any]:
        return adaptation_path(near(loss, params), params, support, lr, steps, order=1)

    return Method(lambda params: params, meta_gradient, path)


def _tied(loss: Loss, params: Any, strength: float) -> Loss:
    def tied(w: Any, data: Any) -> Any:
        squares = [
            ops.sum(ops.square(a - b), axis=own_axes(b))
            for a, b in zip(trees.leaves(w), trees.leaves(params), strict=True)
        ]
        return loss(w, data) + 0.5 * strength * functools.reduce(ops.add, squares)

    return tied
