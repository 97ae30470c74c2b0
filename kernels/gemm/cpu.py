"""Batched products on the CPU, compiled by Numba: one matrix at a time in registers, many in parallel. float32, float64.

Sums run in another order than NumPy's, so that results differ by rounding. What it is for: matrices up to about 256 a
side, above all small ones and strided ones, which reach NumPy one call to BLAS, or one plain loop, each. For one large
product call NumPy: this one does not cut its operands to the caches, and runs one matrix in one thread.
The first call compiles for this processor and keeps the result on disk; needs numba, ``pip install 'tinymeta[fast]'``.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from ..simd import available, njit, together
from .batch import Loops, backward, flops, loops, matrix_steps, operands, result_shape
from .cpu_product import address, product
from .reference import Array

FLOPS_PER_THREAD = 4_000_000
"""Fewer are not worth the waking of a thread."""


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None) -> Array:
    """c = op(a) op(b) (1). TypeError unless float32 or float64."""
    op_a, op_b = (_readable(x) for x in operands("matmul", a, b, transpose_a, transpose_b, out=out))
    gemm = address(op_a.dtype)
    if out is not None and not out.flags.writeable:
        raise ValueError("matmul: out is read-only, expected an array to write to; use .copy()")
    direct = out is not None and _takes(out) and not any(np.may_share_memory(out, x) for x in (a, b))
    c = out if out is not None and direct else np.empty(result_shape(op_a, op_b), op_a.dtype)
    if _side_by_side(c):
        _multiply(gemm, op_a, op_b, c)
    else:
        _multiply(gemm, *(x.swapaxes(-1, -2) for x in (op_b, op_a, c)))  # c^T = b^T a^T
    if out is None or direct:
        return c
    out[...] = c
    return out


def matmul_vjp(
    d_c: Array, a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array]:
    """(d_a, d_b) of (2), shaped like a and b, from d_c (..., m, n)."""
    return backward(matmul, d_c, a, b, transpose_a, transpose_b)


def _readable(x: Array) -> Array:
    return x if _regular(x) else np.array(x, x.dtype.newbyteorder("="))


def _regular(x: Array) -> bool:
    """Whether its entries are numbers of this machine, whole numbers of them apart."""
    return x.dtype.isnative and x.flags.aligned and all(step % x.itemsize == 0 for step in x.strides)


def _takes(c: Array) -> bool:
    """Whether a product can be written straight into it."""
    return _regular(c) and (_side_by_side(c) or _side_by_side(c.swapaxes(-1, -2)))


def _side_by_side(c: Array) -> bool:
    return c.size == 0 or c.shape[-1] == 1 or c.strides[-1] == c.itemsize


def _multiply(gemm: int, a: Array, b: Array, c: Array) -> None:
    (m, k), n, size = a.shape[-2:], b.shape[-1], c.itemsize
    steps = *matrix_steps(a), *matrix_steps(b), matrix_steps(c)[0]
    addresses = [x.__array_interface__["data"][0] for x in (a, b, c)]
    for part in loops(a, b, c):
        first = tuple(start + size * offset for start, offset in zip(addresses, part.first, strict=True))
        work = flops((part.outer, part.inner), m, k, n)
        _run(gemm, part, (m, k, n), first, steps, size, min(available(), work // FLOPS_PER_THREAD))


def _run(gemm: int, part: Loops, sizes: tuple, first: tuple, steps: tuple, size: int, threads: int) -> None:
    """Equal runs of the products, handed out as threads ask."""
    total, numbers = part.outer * part.inner, count()
    runs = min(total, 4 * threads) if threads > 1 else 1

    def work(thread: int) -> None:
        while (run := next(numbers)) < runs:
            begin, end = (total * k // runs for k in (run, run + 1))
            _products(gemm, begin, end, part.inner, sizes, first, part.outer_steps, part.inner_steps, steps, size)

    together(work, min(threads, runs) if threads > 1 else 1)


@njit(nogil=True, cache=True)
def _products(gemm, begin, end, inner, sizes, first, outer_steps, inner_steps, steps, size):
    """Products begin to end - 1 of the loops."""
    (m, k, n), (a, b, c), (a_row, a_col, b_row, b_col, c_row) = sizes, first, steps
    for index in range(begin, end):
        i, j = index // inner, index % inner
        a_i = a + size * (i * outer_steps[0] + j * inner_steps[0])
        b_i = b + size * (i * outer_steps[1] + j * inner_steps[1])
        c_i = c + size * (i * outer_steps[2] + j * inner_steps[2])
        product(gemm, m, k, n, a_i, a_row, a_col, b_i, b_row, b_col, c_i, c_row, False)
