"""The compiled product of squares, F_W = (A A)^T (sum_v S S), and what it needs in the order in which it reads it.

Squares of a chunk of samples lie in one flat array: those of a layer's inputs in panels (samples, 9), with a row of ones
below the inputs, whose product is the bias; those of its cotangents, summed over columns, in strips (samples, 48). A plan
says where. A pass takes pieces of its work from a counter that the threads share, until none is left. What two pieces
write never overlaps, and every sum has a fixed order: results do not depend on the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np

from ..simd import njit, sources, take
from . import cpu_tile
from .cpu_tile import PAD, ROWS, STRIP, collect, padded, panel_tile, row_stride, square_runs

BLOCK, PANELS = 36, 4
"""Samples of a piece of a pass over them, panels of a piece of a product."""
SIZE, PADDED, STRIDE, PANEL, SQUARE, RESULT, HIDDEN, FORWARD, BACKWARD, BIAS = range(10)
"""Columns of a plan, per layer: its inputs, or the classes in a last row; these padded to whole vectors, and to a row
that panels are made of; where its panels, its strips, F_W with F_b below it, and a block's rows begin; and W, W^T, b."""


def plan_for(sizes: Sequence[int], samples: int) -> np.ndarray:
    """The plan (layers + 1, 10) for a chunk of so many samples; its last row has, for whatever begins, where all ends."""
    plan = np.zeros((len(sizes), 10), np.int64)
    plan[:, SIZE] = sizes
    plan[:, PADDED], plan[:, STRIDE] = [padded(s) for s in sizes], [row_stride(s) for s in sizes]
    layers = list(pairwise(sizes))
    panels = [(I // ROWS + 1) * ROWS * samples for I, _ in layers]
    plan[:, PANEL] = starts(panels)
    plan[:, SQUARE] = sum(panels) + starts([padded(O) * samples for _, O in layers])
    plan[:, RESULT] = starts([(I + 1) * O for I, O in layers])
    plan[:, HIDDEN] = starts([BLOCK * row_stride(I) for I, _ in layers])
    forward = starts([I * padded(O) for I, O in layers])
    backward = forward[-1] + starts([O * padded(I) for I, O in layers])
    plan[:, FORWARD], plan[:, BACKWARD] = forward, backward
    plan[:, BIAS] = backward[-1] + starts([padded(O) for _, O in layers])
    return plan


def starts(sizes: Sequence[int]) -> np.ndarray:
    """Where each begins, and the last one ends, if they lie one after another."""
    return np.array([0, *accumulate(sizes)], np.int64)


@njit
def address(array, k):
    """Of float k of a contiguous array."""
    return array.ctypes.data + 4 * k


@njit
def square_panels(rows, I, first, count, squares, at, samples):
    """rows (>= count, stride), which have a one after I inputs and then zeros, squared into samples first, ... of the
    panels at squares[at]."""
    stride = rows.shape[1]
    for p in range(I // ROWS + 1):
        to = at + (p * samples + first) * ROWS
        square_runs(address(rows, p * ROWS), stride, count - 1, address(squares, to))
        for r in range(ROWS):  # the last without what follows it, which is another thread's
            x = rows[count - 1, p * ROWS + r]
            squares[to + (count - 1) * ROWS + r] = x * x


@njit
def _square_strips(S, first, count, squares, at):
    """sum_v S_v^2 of samples first, ... of S (V, samples, O) into the strips at squares[at]."""
    V, samples, O = S.shape
    wide = (O + PAD - 1) // PAD * PAD
    for s in range(0, wide, STRIP):
        width, some = min(STRIP, wide - s), min(STRIP, O - s)
        for n in range(first, first + count):
            row = squares[at + samples * s + n * width : at + samples * s + (n + 1) * width]
            row[:] = 0
            for v in range(V):
                D = S[v, n, s : s + some]
                for j in range(some):
                    row[j] += D[j] * D[j]


@njit
def _pack_strip(part, transposed, strip):
    """A strip (rows, width) of the columns of `part`, or of part^T, with zeros to its right."""
    some = part.shape[0] if transposed else part.shape[1]
    strip[:, some:] = 0
    for i in range(len(strip)):
        for j in range(some):
            strip[i, j] = part[j, i] if transposed else part[i, j]


@njit
def _product(plan, k, s, p, samples, squares, tile, add, scale, results, lost):
    """Panel p of layer k times its strip that begins at column s, into the results; `tile` is scratch."""
    I, O = plan[k, SIZE], plan[k + 1, SIZE]
    width = min(STRIP, plan[k + 1, PADDED] - s)
    strip = address(squares, plan[k, SQUARE] + samples * s)
    panel = address(squares, plan[k, PANEL] + p * ROWS * samples)
    panel_tile(panel, strip, samples, width, address(tile, 0))
    for i in range(p * ROWS, min(p * ROWS + ROWS, I + 1)):
        at = plan[k, RESULT] + i * O + s
        compensation = address(lost, at) if len(lost) else 0
        row, sums = address(results, at), address(tile, (i - p * ROWS) * width)
        collect(sums, row, compensation, min(width, O - s), add, scale)


def _compile(text: int) -> tuple[Callable, ...]:
    """(pack, square, products). Numba keeps them on disk until this file or ``text``, which it stores with them,
    changes."""

    @njit(nogil=True, cache=True)
    def pack(W, transposed, weights, at, counter):
        """W, or W^T, in strips at weights[at]; pieces are strips."""
        rows, columns = W.shape[::-1] if transposed else W.shape
        wide = (columns + PAD - 1) // PAD * PAD
        s = take(counter.ctypes.data, 1) * STRIP
        while s < wide:
            width, some = min(STRIP, wide - s), min(STRIP, columns - s)
            strip = weights[at + rows * s : at + rows * (s + width)].reshape(rows, width)
            _pack_strip(W[s : s + some] if transposed else W[:, s : s + some], transposed, strip)
            s = take(counter.ctypes.data, 1) * STRIP
        return text

    @njit(nogil=True, cache=True)
    def square(A, S, plan, squares, counter):
        """The squares of one layer's inputs A (N, I) and cotangents S (V, N, O); pieces are blocks of samples."""
        samples, I = A.shape
        rows = np.zeros((BLOCK, plan[0, STRIDE]), np.float32)
        rows[:, I] = 1
        first = take(counter.ctypes.data, BLOCK)
        while first < samples:
            count = min(BLOCK, samples - first)
            for n in range(count):
                for i in range(I):
                    rows[n, i] = A[first + n, i]
            square_panels(rows, I, first, count, squares, plan[0, PANEL], samples)
            _square_strips(S, first, count, squares, plan[0, SQUARE])
            first = take(counter.ctypes.data, BLOCK)
        return text

    @njit(nogil=True, cache=True)
    def products(plan, samples, squares, add, scale, results, lost, counter):
        """results, of all layers, become (results if add else 0 + panels^T @ strips) * scale; pieces are a few panels.

        lost, as long as results or empty, has the rounding errors of the sum so far.
        """
        tile = np.empty(ROWS * STRIP, np.float32)
        piece, k, before = take(counter.ctypes.data, 1), 0, 0
        while k < len(plan) - 1:
            panels = plan[k, SIZE] // ROWS + 1
            pieces = (panels + PANELS - 1) // PANELS
            if piece >= before + pieces:
                k, before = k + 1, before + pieces
                continue
            first = (piece - before) * PANELS
            for s in range(0, plan[k + 1, PADDED], STRIP):
                for p in range(first, min(first + PANELS, panels)):
                    _product(plan, k, s, p, samples, squares, tile, add, scale, results, lost)
            piece = take(counter.ctypes.data, 1)
        return text

    return pack, square, products


pack, square, products = _compile(sources(cpu_tile.__file__))
