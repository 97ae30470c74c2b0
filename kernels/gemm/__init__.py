"""Batched products of small matrices.

Forward, for every index of the leading axes (which broadcast as NumPy's do):

    c = op(a) op(b)        op(a) is a, or its transpose over the last two axes
    c[..., r, s] = sum_q op(a)[..., r, q] op(b)[..., q, s]                                   (1)

with op(a) (..., m, k), op(b) (..., k, n) and c (..., m, n). Without transposes ``a`` is (..., m, k); with
``transpose_a`` it is stored as (..., k, m), and ``b`` likewise. Any strides. k = 0 gives zeros.

Backward, d_c the cotangent of c:

    d_op(a) = d_c op(b)^T        d_op(b) = op(a)^T d_c                                       (2)

then op undone, then summed over the leading axes that (1) broadcast, so each cotangent has its input's shape.

Units: none. Values: no rounding promise beyond the dtype's dot product; inf times 0 is NaN as in NumPy, and stays
within the matrices (and the rows and columns) that hold it. ``out`` receives c and is returned; it must be c's
shape and dtype, and may overlap ``a`` or ``b``.
Errors: TypeError unless all arrays are of one float dtype; ValueError unless a and b have two axes or more, the
inner sizes agree, the leading axes broadcast, and out (or d_c) has c's shape.

``cpu`` and ``cuda`` (float32 and float64) have the same functions, and ``cpu_product.product`` is one product for code compiled by
Numba to call, of sizes known when it runs: that is what the CPU kernel is for. ``tm.compile`` knows the sizes before, and
its products (``tinymeta/compiler/products.py``) are written for each of them, with no masks and no Numba to load.
From Python a call costs ten times what NumPy's does, and its sums are rounded otherwise: so ``ops.matmul`` stays with
NumPy, and with CuPy's cuBLAS, and who wants a kernel asks for it.
"""

from .reference import matmul, matmul_vjp

__all__ = ["matmul", "matmul_vjp"]
