"""Products of matrices: matmul and what reduces to it (dot, tensordot, ...), outer, norm, solve and cholesky."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.structural import axes_of
from ..engine.tensor import Prim, as_array, bind, describe, value
from . import elementwise as ew
from .diagonals import below
from .reduce import Axis, sum
from .shape import expand_dims, moveaxis, ravel, reshape, swapaxes, transpose

_matmul = Prim(
    "matmul",
    np.matmul,
    (lambda g, y, a, b: matmul(g, swapaxes(b, -1, -2)), lambda g, y, a, b: matmul(swapaxes(a, -1, -2), g)),
    kind="linear",
    broadcasts=True,
)
_solve = Prim(
    "solve",
    np.linalg.solve,
    (lambda g, x, a, b: -matmul(_adjoint_solve(a, g), swapaxes(x, -1, -2)), lambda g, x, a, b: _adjoint_solve(a, g)),
    broadcasts=True,
)
_cholesky = Prim("cholesky", np.linalg.cholesky, (lambda g, l, a: _cholesky_vjp(g, l),))


def matmul(a: Any, b: Any) -> Any:
    """Matrix product over the last two axes; leading axes broadcast, and a 1-D operand is a row or column as in NumPy."""
    a, b = as_array(a), as_array(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError(
            f"matmul({describe(a)}, {describe(b)}): a scalar operand, expected matrices; use * for scaling"
        )
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ValueError(f"matmul({describe(a)}, {describe(b)}): the inner lengths {a.shape[-1]} and {inner} differ")
    if a.ndim == 1:
        return _squeeze(matmul(expand_dims(a, 0), b), -1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        return _squeeze(matmul(a, expand_dims(b, 1)), -1)
    if a.ndim > 2 and b.ndim == 2:  # one large product instead of many small ones
        rows = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return reshape(bind(_matmul, rows, b), (*a.shape[:-1], b.shape[-1]))
    return bind(_matmul, a, b)


def dot(a: Any, b: Any) -> Any:
    """NumPy's dot: a product with a scalar, else a sum over the last axis of a and the second-to-last (or only) axis of b."""
    a, b = as_array(a), as_array(b)
    if a.ndim == 0 or b.ndim == 0:
        return ew.multiply(a, b)
    return tensordot(a, b, ([a.ndim - 1], [max(b.ndim - 2, 0)]))


def vdot(a: Any, b: Any) -> Any:
    """The sum of products of the flattened a and b."""
    return matmul(ravel(a), ravel(b))


def inner(a: Any, b: Any) -> Any:
    """NumPy's inner: a product with a scalar, else the sums of products over the last axes of a and b."""
    a, b = as_array(a), as_array(b)
    return ew.multiply(a, b) if a.ndim == 0 or b.ndim == 0 else tensordot(a, b, (-1, -1))


def vecdot(a: Any, b: Any, axis: int = -1) -> Any:
    """The sums of products over one axis; the other axes of a and b broadcast."""
    rows, columns = (moveaxis(x, axes_of("vecdot", axis, x.ndim), -1) for x in map(as_array, (a, b)))
    return _squeeze(_squeeze(matmul(expand_dims(rows, -2), expand_dims(columns, -1)), -1), -1)


def outer(a: Any, b: Any) -> Any:
    """a_i b_j of the flattened a and b."""
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


def tensordot(a: Any, b: Any, axes: int | tuple[Any, Any] = 2) -> Any:
    """Sum of products over `axes`: the last n of a with the first n of b, or a pair of axis lists."""
    a, b = as_array(a), as_array(b)
    na, nb = a.ndim, b.ndim
    if not isinstance(axes, (tuple, list)) and axes > min(na, nb):
        raise ValueError(f"tensordot({describe(a)}, {describe(b)}): axes={axes}, expected no more than both have")
    pair = axes if isinstance(axes, (tuple, list)) else (range(na - axes, na), range(axes))
    ia, ib = (list(axes_of("tensordot", ax, n)) for ax, n in zip(pair, (na, nb), strict=True))
    if [a.shape[i] for i in ia] != [b.shape[i] for i in ib]:
        raise ValueError(f"tensordot({describe(a)}, {describe(b)}): axes {ia} and {ib} differ in length")
    free_a, free_b = ([i for i in range(n) if i not in used] for n, used in ((na, ia), (nb, ib)))
    summed = math.prod(a.shape[i] for i in ia)
    left = reshape(transpose(a, free_a + ia), (math.prod(a.shape[i] for i in free_a), summed))
    right = reshape(transpose(b, ib + free_b), (summed, math.prod(b.shape[i] for i in free_b)))
    return reshape(matmul(left, right), [a.shape[i] for i in free_a] + [b.shape[i] for i in free_b])


def norm(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Euclidean (Frobenius) norm over `axis`; its gradient at 0 is 0."""
    return ew.sqrt(sum(ew.square(x), axis, keepdims=keepdims))


def solve(a: Any, b: Any) -> Any:
    """x with a x = b: a (..., n, n), b (..., n, k) or (n,). LinAlgError if a is singular."""
    a, b = as_array(a), as_array(b)
    if b.ndim == 1:
        return _squeeze(bind(_solve, a, expand_dims(b, 1)), -1)
    return bind(_solve, a, b)


def cholesky(a: Any) -> Any:
    """Lower triangular l with l lᵀ = a, for a symmetric positive definite (..., n, n); only the symmetric part of the
    gradient is defined, and that is what is returned. LinAlgError if a is not positive definite."""
    return bind(_cholesky, a)


def eye_like(x: Any, n: int) -> Any:
    """The identity matrix (n, n) in the dtype and on the device of x."""
    i = np.arange(n, like=value(x))
    return (i[:, None] == i).astype(x.dtype)


def _adjoint_solve(a: Any, g: Any) -> Any:
    return solve(swapaxes(a, -1, -2), g)


def _cholesky_vjp(g: Any, l: Any) -> Any:
    """l⁻ᵀ Φ(lᵀ g) l⁻¹, symmetrised; Φ keeps the lower triangle and halves the diagonal (Murray 2016, eq. 10)."""
    n = l.shape[-1]
    phi = below("cholesky", l, 0).astype(l.dtype) - 0.5 * eye_like(l, n)
    inner = matmul(swapaxes(l, -1, -2), g) * phi
    s = swapaxes(_adjoint_solve(l, swapaxes(_adjoint_solve(l, inner), -1, -2)), -1, -2)
    return 0.5 * (s + swapaxes(s, -1, -2))


def _squeeze(x: Any, axis: int) -> Any:
    shape = list(x.shape)
    del shape[axis]
    return reshape(x, shape)


__all__: Sequence[str] = ["cholesky", "dot", "inner", "matmul", "norm", "outer", "solve", "tensordot", "vdot", "vecdot"]
