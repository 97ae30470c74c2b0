"""The few ops that the sweeps themselves need: summing back what was broadcast, its adjoint, and a change of dtype."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from .tensor import Prim, Tensor, bind, describe, value


def summed_axes(shape: tuple[int, ...], to: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which `to` was broadcast to `shape`."""
    lead = len(shape) - len(to)
    return (*range(lead), *(lead + i for i, n in enumerate(to) if n == 1 and shape[lead + i] != 1))


def _sum_to(x: Any, shape: tuple[int, ...]) -> Any:
    lead = x.ndim - len(shape)
    if lead < 0 or any(n not in (1, m) for n, m in zip(shape, x.shape[lead:], strict=True)):
        raise ValueError(f"shape {list(x.shape)} is not a broadcast of {list(shape)}")
    axes = summed_axes(x.shape, shape)
    return np.reshape(np.sum(x, axis=axes, keepdims=True), shape) if axes else x


_sum_to_prim = Prim("sum_to", _sum_to, (lambda g, out, x, shape: broadcast_to(g, x.shape),), kind="linear")
_broadcast = Prim(
    "broadcast_to",
    lambda x, shape: np.broadcast_to(x, shape),
    (lambda g, out, x, shape: sum_to(g, x.shape),),
    kind="linear",
)
_astype = Prim(
    "astype", lambda x, dtype: x.astype(dtype), (lambda g, out, x, dtype: astype(g, x.dtype),), kind="linear"
)
_cast = Prim("astype", lambda x, dtype: x.astype(dtype))


def as_tuple(x: Any) -> tuple[int, ...]:
    """One integer or several, Python's or NumPy's, as a tuple of ints; TypeError for floats."""
    return (int(x),) if isinstance(x, (int, np.integer)) else tuple([index(i) for i in x])


def axes_of(op: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """One axis or several of `ndim`, counted from the front; ValueError for one that is not there, or there twice."""
    if type(axis) is int:
        return (normalize_axis_index(axis, ndim, op),)
    axes = tuple([normalize_axis_index(a, ndim, op) for a in as_tuple(axis)])
    if len(set(axes)) < len(axes):
        raise ValueError(f"{op}: axes {list(axes)} name one twice, expected different axes")
    return axes


def sum_to(x: Any, shape: tuple[int, ...]) -> Any:
    """Sum x over the axes along which `shape` was broadcast; the adjoint of broadcast_to."""
    return x if x.shape == shape else bind(_sum_to_prim, x, shape=shape)


def broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    """x repeated to `shape` by NumPy's broadcasting rules."""
    shape = as_tuple(shape)
    return x if getattr(x, "shape", None) == shape else bind(_broadcast, x, shape=shape)


def astype(x: Any, dtype: Any) -> Any:
    """x in another float dtype; the cotangent comes back in x's own. A conversion to integers or booleans ends the gradient."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c" and type(x) is Tensor:
        raise TypeError(f"astype: {describe(x)} to {dtype} has no derivative rule, expected a dtype of real numbers")
    if dtype.kind != "f":
        return bind(_cast, value(x), dtype=dtype)
    return x if x.dtype == dtype else bind(_astype, x, dtype=dtype)
