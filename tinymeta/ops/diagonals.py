"""Diagonals and triangles of matrices. A diagonal is every (columns + 1)-th element of the flattened matrix: a slice."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.structural import axes_of
from ..engine.tensor import as_array, describe, value
from .elementwise import where
from .indexing import put
from .reduce import sum
from .shape import moveaxis, reshape


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The elements (i, i + offset) of the matrices in the axes axis1, axis2, along a last axis."""
    x = as_array(x)
    x = moveaxis(x, axes_of("diagonal", (axis1, axis2), x.ndim), (-2, -1))
    *lead, rows, columns = x.shape
    return reshape(x, (*lead, rows * columns))[..., _places(rows, columns, offset)]


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The sum of the diagonal."""
    return sum(diagonal(x, offset, axis1, axis2), -1)


def diag(v: Any, k: int = 0) -> Any:
    """The k-th diagonal of a matrix, or the matrix of zeros with v as its k-th diagonal."""
    v = as_array(v)
    if v.ndim not in (1, 2):
        raise ValueError(f"diag: {describe(v)}, expected one axis or two")
    if v.ndim == 2:
        return diagonal(v, k)
    n = v.size + abs(k)
    return reshape(put(v, _places(n, n, k), (n * n,)), (n, n))


def tril(m: Any, k: int = 0) -> Any:
    """m with zeros above the k-th diagonal of its last two axes; a single axis is repeated as rows."""
    m = as_array(m)
    return where(below("tril", m, k), m, m.dtype.type(0))


def triu(m: Any, k: int = 0) -> Any:
    """m with zeros below the k-th diagonal of its last two axes; a single axis is repeated as rows."""
    m = as_array(m)
    return where(below("triu", m, k - 1), m.dtype.type(0), m)


def below(op: str, m: Any, k: int) -> Any:
    """Which places of m's last two axes lie on the k-th diagonal or below it."""
    if m.ndim == 0:
        raise ValueError(f"{op}: {describe(m)}, expected at least one axis")
    rows, columns = (np.arange(n, like=value(m)) for n in (m.shape[-min(m.ndim, 2)], m.shape[-1]))
    return rows[:, None] + k >= columns


def _places(rows: int, columns: int, k: int) -> slice:
    """The k-th diagonal in the flattened matrix."""
    start = k if k >= 0 else -k * columns
    length = max(0, min(rows + min(k, 0), columns - max(k, 0)))
    return slice(start, start + length * (columns + 1), columns + 1)


__all__ = ["diag", "diagonal", "trace", "tril", "triu"]
