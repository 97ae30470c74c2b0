"""Batched products on a GPU by Numba, to be read: the classic tiled product. float32 or float64 NumPy arrays.

A block of TILE by TILE threads computes one tile of one c, a thread one entry. TILE columns of a and rows of b at a time
go through shared memory, so that an entry is read from global memory once for each tile and not once for each thread.
Runs on a GPU, or anywhere in Numba's simulator (NUMBA_ENABLE_CUDASIM=1). The fast twin is gemm.cu.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba import from_dtype

from .batch import backward, operands, result_shape
from .reference import Array

cuda: Any = _cuda  # its annotations describe the simulator's halves, not what compiled code sees
TILE = 16
BLOCKS = 256  # of matrices at once


@functools.cache
def _multiply(dtype: np.dtype) -> Any:
    """The kernel for a dtype."""
    real: Any = from_dtype(dtype)
    zero, tile = dtype.type(0), (TILE, TILE)  # a Python number for zero would turn float32 into float64

    @cuda.jit
    def multiply(a, b, c):
        """c = a b, for contiguous a (T, m, k), b (T, k, n), c (T, m, n)."""
        a_tile = cuda.shared.array(tile, real)
        b_tile = cuda.shared.array(tile, real)  # on a line of its own: the simulator tells arrays apart by the line
        m, k, n = c.shape[1], a.shape[2], c.shape[2]
        i, j = cuda.threadIdx.y, cuda.threadIdx.x
        r, s = cuda.blockIdx.y * TILE + i, cuda.blockIdx.x * TILE + j
        for t in range(cuda.blockIdx.z, c.shape[0], cuda.gridDim.z):
            total = zero
            for q in range(0, k, TILE):
                a_tile[i, j] = a[t, r, q + j] if r < m and q + j < k else zero
                b_tile[i, j] = b[t, q + i, s] if q + i < k and s < n else zero
                cuda.syncthreads()
                for e in range(TILE):
                    total += a_tile[i, e] * b_tile[e, j]
                cuda.syncthreads()
            if r < m and s < n:
                c[t, r, s] = total

    return multiply


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None) -> Array:
    """c = op(a) op(b) (1); leading axes are broadcast by copies. TypeError unless float32 or float64."""
    op_a, op_b = operands("matmul", a, b, transpose_a, transpose_b, out=out)
    if op_a.dtype not in (np.float32, np.float64):
        raise TypeError(f"matmul: a is {op_a.dtype}, expected float32 or float64; use .astype")
    shape = result_shape(op_a, op_b)
    c = np.empty(shape, op_a.dtype) if out is None else out
    if c.size:
        *lead, m, n = shape
        room = cuda.device_array((c.size // (m * n), m, n), c.dtype)
        grid = -(-n // TILE), -(-m // TILE), min(len(room), BLOCKS)
        _multiply(c.dtype)[grid, (TILE, TILE)](_stacked(op_a, lead), _stacked(op_b, lead), room)
        c[...] = room.copy_to_host().reshape(shape)
    return c


def matmul_vjp(
    d_c: Array, a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array]:
    """(d_a, d_b) of (2), shaped like a and b, from d_c (..., m, n)."""
    return backward(matmul, d_c, a, b, transpose_a, transpose_b)


def _stacked(x: Array, lead: list[int]) -> Array:
    """On the GPU, a contiguous (T, rows, columns)."""
    stack = np.empty((*lead, *x.shape[-2:]), x.dtype)
    stack[...] = x
    return cuda.to_device(stack.reshape(math.prod(lead), *x.shape[-2:]))
