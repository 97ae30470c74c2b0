"""Reductions: sum, mean, max, min, var, std, prod, cumsum, logsumexp; `axis` is None, an int or a tuple."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from ..engine.scope import constant
from ..engine.structural import as_tuple, axes_of, broadcast_to
from ..engine.tensor import Prim, as_array, bind, value
from . import elementwise as ew
from .shape import concatenate, flip, moveaxis, reshape

Axis = int | tuple[int, ...] | None


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """The shape that keepdims would give."""
    axes = range(len(shape)) if axis is None else as_tuple(axis)
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else n for i, n in enumerate(shape))


def _back(g: Any, x: Any, axis: Axis) -> Any:
    return broadcast_to(reshape(g, _kept(x.shape, axis)), x.shape)


def _count(x: Any, axis: Axis) -> int:
    """How many elements go into each result."""
    kept = _kept(x.shape, axis)
    return math.prod(n for n, k in zip(x.shape, kept, strict=True) if k != n) if x.size else 0


def _shared(g: Any, count: int) -> Any:
    """g / count; in float16 a large count would be inf."""
    return g / count if g.dtype.itemsize > 2 else g * (1 / builtins.max(count, 1))


def _ties(g: Any, y: Any, x: Any, axis: Axis) -> Any:
    """g shared equally among the elements that attain the extreme: those that are NaN, if it is."""
    x, kept = value(x), _kept(x.shape, axis)
    hit = ew.equal(x, np.reshape(value(y), kept)) | ew.isnan(x)
    share = reshape(g, kept) / sum(hit.astype(g.dtype), axis, keepdims=True)
    return ew.where(hit, share, 0)


_sum = Prim("sum", np.sum, (lambda g, y, x, axis, keepdims: _back(g, x, axis),), kind="linear")
_mean = Prim(
    "mean", np.mean, (lambda g, y, x, axis, keepdims: _back(_shared(g, _count(x, axis)), x, axis),), kind="linear"
)
_max = Prim("max", np.max, (lambda g, y, x, axis, keepdims: _ties(g, y, x, axis),))
_min = Prim("min", np.min, (lambda g, y, x, axis, keepdims: _ties(g, y, x, axis),))
_cumsum = Prim("cumsum", np.cumsum, (lambda g, y, x, axis: flip(cumsum(flip(g, axis), axis), axis),), kind="linear")


def sum(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Sum over `axis`."""
    return bind(_sum, x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Arithmetic mean over `axis`."""
    return bind(_mean, x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Maximum over `axis`; equal maxima share the gradient equally, and so do NaNs."""
    return bind(_max, x, axis=axis, keepdims=keepdims)


def min(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Minimum over `axis`; equal minima share the gradient equally, and so do NaNs."""
    return bind(_min, x, axis=axis, keepdims=keepdims)


def var(x: Any, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Any:
    """Variance over `axis`: the sum of squared deviations divided by (count - ddof), by 0 if that is negative."""
    x = as_array(x)
    deviation = x - mean(x, axis, keepdims=True)
    total = sum(ew.square(deviation), axis, keepdims=keepdims)
    return total / builtins.max(_count(x, axis) - ddof, 0)


def std(x: Any, axis: Axis = None, *, ddof: int = 0, keepdims: bool = False) -> Any:
    """Standard deviation over `axis`; its gradient is 0 where the deviation is 0."""
    return ew.sqrt(var(x, axis, ddof=ddof, keepdims=keepdims))


def prod(x: Any, axis: Axis = None, *, keepdims: bool = False) -> Any:
    """Product over `axis`; its derivative is that of a product by halves: right at zeros, at every order."""
    x = as_array(x)
    if type(x) is np.ndarray:
        return np.prod(x, axis, keepdims=keepdims)
    x, shape = x.astype(np.prod(np.ones(0, x.dtype)).dtype), x.shape  # small integers are multiplied as large ones
    axes = tuple(range(len(shape))) if axis is None else axes_of("prod", axis, len(shape) or 1)[: len(shape)]
    rest = [n for i, n in enumerate(shape) if i not in axes]
    rows = reshape(moveaxis(x, axes, range(len(axes))), (math.prod(shape[a] for a in axes), *rest))
    while rows.shape[0] > 1:
        half = rows.shape[0] // 2
        rows = concatenate([rows[:half] * rows[half : 2 * half], rows[2 * half :]])
    result = rows[0].copy() if rows.shape[0] else np.ones_like(value(rows), shape=rows.shape[1:])
    return reshape(result, _kept(shape, axis)) if keepdims else result


def cumsum(x: Any, axis: int | None = None) -> Any:
    """Cumulative sum along `axis` (of the flattened array for None)."""
    if axis is None or np.ndim(x) == 0:  # for NumPy a number has an axis 0 here
        x, axis = reshape(x, (-1,)), 0 if axis is None else normalize_axis_index(axis, 1, "cumsum")
    return bind(_cumsum, x, axis=axis)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log Σ exp(x) over `axis`, without overflow."""
    top = largest(x, axis)
    total = ew.log(sum(ew.exp(x - top), axis, keepdims=keepdims))
    return total + (top if keepdims else np.reshape(top, total.shape))


def largest(x: Any, axis: Axis) -> Any:
    """What to subtract from x, as a constant, before exp: its maximum over `axis`, kept, or 0 if that is not finite."""
    top = np.max(constant(x), axis=axis, keepdims=True)
    return np.where(np.isfinite(top), top, 0)
