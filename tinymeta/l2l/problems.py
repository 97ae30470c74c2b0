"""Optimizees: families of problems on which optimizers, learned or not, are trained and compared.

A Problem holds B independent problems at once, by a leading axis on every parameter: the gradient of the sum of their losses is
every problem's own gradient, and a coordinatewise optimizer sees B times as many coordinates.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..compiler import compile
from ..engine import trees
from ..engine.tensor import describe
from ..engine.transforms import value_and_grad
from ..nets import Layer, mlp


class Problem(NamedTuple):
    """θ_0 with a leading axis B, and loss(θ, t) -> (B,): the losses f of the B problems on their mini-batches of step t.

    `gradient`(θ, t) -> (losses, the gradient of their sum) is for problems that have a faster way to it than to differentiate loss.
    """

    theta: Any
    loss: Callable[[Any, int], Any]
    gradient: Callable[[Any, int], tuple[Any, Any]] | None = None


def compiled_problem(theta: Any, losses: Callable[..., Any], data: Callable[[int], tuple]) -> Problem:
    """losses(θ, *data(t)) -> (B,) from θ_0 = `theta`. All problems with these losses and of one size share a compiled gradient."""

    gradient = _compiled(losses)
    return Problem(theta, lambda theta, t: losses(theta, *data(t)), lambda theta, t: gradient(theta, *data(t)))


@cache
def _compiled(losses: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    return compile(with_gradient(losses))


def with_gradient(losses: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """(θ, ...) -> (the losses (B,), the gradient of their sum in θ): each problem's own gradient."""

    def total(theta: Any, *data: Any) -> tuple[Any, Any]:
        found = losses(theta, *data)
        return ops.sum(found), found

    def both(theta: Any, *data: Any) -> tuple[Any, Any]:
        (_, found), grads = value_and_grad(total, has_aux=True)(theta, *data)
        return found, grads

    return both


def quadratic_problem(w: Any, y: Any, theta: Any) -> Problem:
    """f(θ) = ‖W θ - y‖² (section 3.1): W (B, d, d), y (B, d), start θ (B, d)."""

    def loss(theta: Any, t: int) -> Any:
        residual = ops.reshape(ops.matmul(w, ops.expand_dims(theta, -1)), y.shape) - y
        return ops.sum(ops.square(residual), axis=-1)

    return Problem(theta, loss)


def mlp_problem(
    x: Any,
    y: Any,
    batches: Any,
    rng: np.random.Generator,
    hidden: Sequence[int] = (20,),
    activation: Callable = ops.sigmoid,
    sigma: float = 0.01,
) -> Problem:
    """Mean cross-entropy of an MLP on mini-batches (section 3.2); the problems differ in θ_0 ~ N(0, sigma²) and batches.

    x (N, inputs) float, y (N,) integer labels, batches (B, steps, batch_size) indices into them.
    """
    if getattr(x.dtype, "kind", "") != "f":
        raise TypeError(f"mlp_problem: x is {describe(x)}, expected floats, of whose dtype θ is; use .astype")
    problems, classes, sigma = batches.shape[0], int(y.max()) + 1, float(sigma)
    sizes = (x.shape[1], *hidden, classes)
    theta = tuple(
        Layer(*(sigma * rng.normal(size=(problems, *shape)).astype(x.dtype) for shape in ((a, b), (b,))))
        for a, b in itertools.pairwise(sizes)
    )

    def loss(theta: Any, t: int) -> Any:
        chosen = batches[:, t % batches.shape[1]]
        logits = mlp(theta, x[chosen], activation)
        return ops.mean(ops.softmax_cross_entropy(logits, y[chosen]), axis=-1)

    return Problem(theta, loss)


def rescaled(problem: Problem, rng: np.random.Generator, spread: float) -> Problem:
    """The same problem with every coordinate in a unit of its own: f(c ∘ θ) from θ_0 / c, log c ~ U[-spread, spread].

    Losses along the way of θ / c are those of θ, and gradients are c ∘ ∇f: an optimizer trained on such problems cannot
    rely on the scale of either ("random scaling" of Lv et al. 2017, 1703.03633, section 4.1).
    """
    if not 0 <= spread < np.inf:
        raise ValueError(f"rescaled: spread is {spread}, expected a finite number, 0 or more")
    factors = trees.map(lambda x: np.exp(rng.uniform(-spread, spread, x.shape)).astype(x.dtype), problem.theta)

    def loss(theta: Any, t: int) -> Any:
        return problem.loss(trees.map(lambda c, x: c * x, factors, theta), t)

    return Problem(trees.map(np.divide, problem.theta, factors), loss)
