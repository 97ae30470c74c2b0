"""Conjugate gradients (Hestenes & Stiefel 1952) on trees: linear systems that are met in matrix-vector products only."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..optim import in_dtype


def conjugate_gradient(matvec: Callable[[Any], Any], b: Any, steps: int, like: Any) -> Any:
    """x with matvec(x) ≈ b for a symmetric positive definite matrix, after `steps` steps from x = 0; all are trees like b.

    Axes of b's leaves before those of `like` number independent systems, which are solved side by side.
    """
    x, r, p = trees.map(lambda leaf: 0 * leaf, b), b, b
    rr = inner(r, r, like)
    for _ in range(steps):
        ap = matvec(p)
        alpha = _ratio(rr, inner(p, ap, like))
        x, r = _moved(x, alpha, p, like), _moved(r, -alpha, ap, like)
        rr, before = inner(r, r, like), rr
        p = _moved(r, _ratio(rr, before), p, like)
    return x


def inner(a: Any, b: Any, like: Any) -> Any:
    """The inner product of two trees, one for each system."""
    parts = trees.map(lambda u, v, w: ops.sum(u * v, axis=own_axes(w)), a, b, like)
    return functools.reduce(ops.add, trees.leaves(parts))


def _moved(x: Any, scale: Any, direction: Any, like: Any) -> Any:
    """x + scale * direction, one scale for each system."""
    return trees.map(
        lambda a, d, w: a + in_dtype(ops.reshape(scale, (*np.shape(scale), *[1] * np.ndim(w))), d) * d,
        x,
        direction,
        like,
    )


def _ratio(a: Any, b: Any) -> Any:
    """a / b, and 0 where a system is solved to the last bit."""
    solved = ops.equal(b, 0)
    return ops.where(solved, 0, a / ops.where(solved, 1, b))


def own_axes(like: Any) -> tuple[int, ...]:
    """The last axes of an array, as many as `like` has."""
    return tuple(range(-np.ndim(like), 0))
