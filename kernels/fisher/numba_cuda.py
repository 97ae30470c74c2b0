"""Fisher diagonals on a GPU by Numba, to be read: tiled products of squares. float32 or float64 NumPy arrays.

A block of TILE by TILE threads computes one tile of F, a thread one entry. TILE samples, or positions, at a time go
through shared memory; squares are taken on the way into it (``_linear``), or of a sample's finished sum (``_positions``).
Runs on a GPU, or anywhere in Numba's simulator (NUMBA_ENABLE_CUDASIM=1). The fast twin is fisher.cu.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba import from_dtype

from .. import agree
from . import reference
from .reference import Array, bias

cuda: Any = _cuda  # its annotations describe the simulator's halves, not what compiled code sees
TILE = 16


@functools.cache
def _linear(dtype: np.dtype) -> Any:
    """The kernel for a dtype."""
    real: Any = from_dtype(dtype)
    zero, one, tile = dtype.type(0), dtype.type(1), (TILE, TILE)

    @cuda.jit
    def linear(A, S, F):
        """F (I + 1, O) = (A A)^T (sum_v S S), its last row the bias: that of a constant input 1."""
        a_tile = cuda.shared.array(tile, real)
        s_tile = cuda.shared.array(tile, real)  # on a line of its own: the simulator tells arrays apart by the line
        V, N, O = S.shape
        y, x = cuda.threadIdx.y, cuda.threadIdx.x
        i, o = cuda.blockIdx.y * TILE + y, cuda.blockIdx.x * TILE + x
        total = zero
        for first in range(0, N, TILE):
            a = one if i == A.shape[1] else zero
            if first + x < N and i < A.shape[1]:
                a = A[first + x, i]
            squares = zero
            if first + y < N and o < O:
                for v in range(V):
                    squares += S[v, first + y, o] * S[v, first + y, o]
            a_tile[y, x], s_tile[y, x] = a * a, squares
            cuda.syncthreads()
            for n in range(TILE):
                total += a_tile[y, n] * s_tile[n, x]
            cuda.syncthreads()
        if i < F.shape[0] and o < O:
            F[i, o] = total

    return linear


@functools.cache
def _positions(dtype: np.dtype) -> Any:
    """The kernel for a dtype."""
    real: Any = from_dtype(dtype)
    zero, tile = dtype.type(0), (TILE, TILE)

    @cuda.jit
    def positions(X, Y, F):
        """F (P, Q) = sum_n (sum_l X_npl Y_nql)^2"""
        x_tile = cuda.shared.array(tile, real)
        y_tile = cuda.shared.array(tile, real)
        N, P, L = X.shape
        Q = Y.shape[1]
        i, j = cuda.threadIdx.y, cuda.threadIdx.x
        p, q = cuda.blockIdx.y * TILE + i, cuda.blockIdx.x * TILE + j
        total = zero
        for n in range(N):
            g = zero
            for first in range(0, L, TILE):
                x_tile[i, j] = X[n, p, first + j] if p < P and first + j < L else zero
                y_tile[i, j] = Y[n, q, first + i] if q < Q and first + i < L else zero
                cuda.syncthreads()
                for l in range(TILE):
                    g += x_tile[i, l] * y_tile[l, j]
                cuda.syncthreads()
            total += g * g
        if p < P and q < Q:
            F[p, q] = total

    return positions


def linear(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (5)."""
    agree("linear", A=(A, "N I"), D=(D, "N O"))
    return _run_linear(A, D[None])


def linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (6)."""
    agree("linear_exact", A=(A, "N I"), S=(S, "V N O"))
    return _run_linear(A, S)


def linear_time(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (7)."""
    agree("linear_time", A=(A, "N T I"), D=(D, "N T O"))
    D = D.swapaxes(1, 2)
    return _launch(_positions, A.swapaxes(1, 2), D, A.shape[2], D.shape[1]), bias(D)


def conv(U: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (O, K), F_b (O,)) of (8)."""
    agree("conv", U=(U, "N K L"), D=(D, "N O L"))
    return _launch(_positions, D, U, D.shape[1], U.shape[1]), bias(D)


def _run_linear(A: Array, S: Array) -> tuple[Array, Array]:
    if 0 in A.shape or 0 in S.shape:  # no work for a GPU
        return reference.linear_exact(A, S)
    F = _launch(_linear, A, S, A.shape[1] + 1, S.shape[2])
    return F[:-1], F[-1]


def _launch(kernel: Any, X: Array, Y: Array, rows: int, columns: int) -> Array:
    if X.dtype not in (np.float32, np.float64):
        raise TypeError(f"fisher.numba_cuda: the arrays are {X.dtype}, expected float32 or float64; use .astype")
    if 0 in X.shape or 0 in Y.shape:  # nothing to sum
        return np.zeros((rows, columns), X.dtype)
    F = cuda.device_array((rows, columns), X.dtype)
    grid = -(-columns // TILE), -(-rows // TILE)
    kernel(X.dtype)[grid, (TILE, TILE)](_on_gpu(X), _on_gpu(Y), F)
    return F.copy_to_host()


def _on_gpu(array: Array) -> Any:
    return cuda.to_device(np.array(array, order="C"))
