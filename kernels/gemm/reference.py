"""Batched matrix products in plain NumPy: the oracle of every other backend. Mathematics: ``tinymeta.kernels.gemm``."""

import numpy as np

from .. import one_dtype

Array = np.ndarray


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None) -> Array:
    """c = op(a) op(b) (1): op(a) (..., m, k), op(b) (..., k, n) -> (..., m, n), leading axes broadcast."""
    one_dtype("matmul", a=a, b=b, **({} if out is None else {"out": out}))
    a, b = _op(a, transpose_a), _op(b, transpose_b)
    _check_shape("matmul", a, b, out=out)
    return np.matmul(a, b, out=out)


def matmul_vjp(
    d_c: Array, a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array]:
    """(d_a, d_b) of (2), shaped like a and b, from d_c (..., m, n)."""
    one_dtype("matmul_vjp", a=a, b=b, d_c=d_c)
    op_a, op_b = _op(a, transpose_a), _op(b, transpose_b)
    _check_shape("matmul_vjp", op_a, op_b, d_c=d_c)
    d_op_a = np.matmul(d_c, op_b.swapaxes(-1, -2))
    d_op_b = np.matmul(op_a.swapaxes(-1, -2), d_c)
    return _sum_to(_op(d_op_a, transpose_a), a.shape), _sum_to(_op(d_op_b, transpose_b), b.shape)


def _op(matrices: Array, transpose: bool) -> Array:
    return matrices.swapaxes(-1, -2) if transpose and matrices.ndim >= 2 else matrices


def _sum_to(d: Array, shape: tuple[int, ...]) -> Array:
    """Undo the broadcast of leading axes: sum over those that were added or stretched."""
    added = d.ndim - len(shape)
    stretched = (added + axis for axis, size in enumerate(shape) if size != d.shape[added + axis])
    return d.sum(axis=(*range(added), *stretched)).reshape(shape)


def _check_shape(operation: str, a: Array, b: Array, **result: Array | None) -> None:
    """ValueError unless op(a), op(b) multiply and the named result, if given, has the product's shape."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"{operation}: op(a) is {a.shape} and op(b) is {b.shape}, expected (..., m, k) and (..., k, n)"
        )
    try:
        shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    except ValueError:
        message = f"{operation}: leading axes {a.shape[:-2]} of a and {b.shape[:-2]} of b do not broadcast"
        raise ValueError(message) from None
    for name, array in result.items():
        if array is not None and array.shape != shape:
            raise ValueError(f"{operation}: {name} has shape {array.shape}, expected {shape}, that of op(a) op(b)")
