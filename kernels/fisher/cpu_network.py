"""The compiled pass over samples of a whole network: forward, scores of the output, and back, leaving only squares.

A block of 36 samples goes through all layers at a time, so that its activations stay in the cache. Backward, a tile has
either 9 samples with one score each, or one sample with up to 9 columns. In the second case the units whose cotangents
are all 0, behind a ReLU about half, are left out of the sum to the next layer: so half of that product is not computed.
Where the weights behind such a unit are inf or NaN, this leaves 0 where the reference has NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..simd import njit, sources, take
from . import cpu_output, cpu_products, cpu_tile
from .cpu_output import column, draw, label_score, softmax
from .cpu_products import (
    BACKWARD,
    BIAS,
    BLOCK,
    FORWARD,
    HIDDEN,
    PADDED,
    PANEL,
    SIZE,
    SQUARE,
    STRIDE,
    address,
    square_panels,
    starts,
)
from .cpu_tile import IDENTITY, ROWS, STRIP, activate, cotangents, dense_tile, sparse_tile

GROUP = 12
"""Samples that go backward at a time with their columns."""
FEW = 3
"""So many columns, or fewer, go backward one after another, each for 9 samples at a time."""
LABELS, DRAWN, COLUMNS = 0, 1, 2
"""What is scored: given labels, labels drawn by uniforms, all columns."""


class Shared(NamedTuple):
    """What the threads have in common."""

    plan: Any
    weights: Any  # packed
    squares: Any  # of all samples, see cpu_products
    samples: int
    act: int


class Own(NamedTuple):
    """A thread's room to work in."""

    hidden: Any  # the inputs of each layer
    D: Any  # cotangents of a layer and of the next, in turn
    sizes: Any  # sum over columns of |cotangents|
    live: Any  # per sample a count, and the units whose size is not 0
    tile: Any
    softmax: Any  # per sample p, 1 - p and the tails of p


def scratch(plan: np.ndarray, R: int, threads: int, room: Callable[[str, int], np.ndarray]) -> list[Own]:
    """For each thread what it needs for tiles of R columns, cut from room(name, floats)."""
    layers, widest = len(plan) - 1, int(plan[:, PADDED].max())
    shapes = {
        "hidden": (int(plan[layers, HIDDEN] + BLOCK * plan[layers, STRIDE]),),
        "D": (2, max(BLOCK, GROUP * R) * widest),
        "sizes": (GROUP * widest,),
        "tile": (ROWS * STRIP,),
        "softmax": (3, BLOCK, int(plan[layers, SIZE])),
    }
    ends = starts([math.prod(shape) for shape in shapes.values()])
    floats = room("scratch", threads * ends[-1]).reshape(threads, ends[-1])
    return [
        Own(
            **{
                name: part.reshape(shape)
                for part, (name, shape) in zip(np.split(row, ends[1:-1]), shapes.items(), strict=True)
            },
            live=np.empty((GROUP, widest + 1), np.int64),
        )
        for row in floats
    ]


# ---- one layer ----


@njit
def _forward(rows, tiles, k, act, out, shared, tile):
    """out = act(rows @ W + b) on so many tiles of 9 rows."""
    plan = shared.plan
    I, wide, stride, next_stride = plan[k, SIZE], plan[k + 1, PADDED], rows.shape[1], out.shape[1]
    for s in range(0, wide, STRIP):
        width = min(STRIP, wide - s)
        strip, bias = address(shared.weights, plan[k, FORWARD] + I * s), address(shared.weights, plan[k, BIAS] + s)
        for t in range(tiles):
            dense_tile(address(rows, t * ROWS * stride), stride, strip, I, width, tile)
            for r in range(ROWS):
                to = address(out, (t * ROWS + r) * next_stride + s)
                activate(tile + 4 * r * width, width, bias, act, to)


@njit
def _backward_rows(D, k, h, out, first, count, add, shared, own):
    """out = (D @ W^T) * slope, with one row per sample; its squares go into strips."""
    plan, tile = shared.plan, address(own.tile, 0)
    O, wide, stride = plan[k + 1, SIZE], plan[k, PADDED], D.shape[1]
    for s in range(0, wide, STRIP):
        width = min(STRIP, wide - s)
        strip = address(shared.weights, plan[k, BACKWARD] + O * s)
        squares = address(shared.squares, plan[k - 1, SQUARE] + shared.samples * s + first * width)
        for t in range(0, count, ROWS):
            dense_tile(address(D, t * stride), stride, strip, O, width, tile)
            for n in range(t, min(t + ROWS, count)):
                cotangents(
                    tile + 4 * (n - t) * width, 1, width, address(h, n * h.shape[1] + s), shared.act,
                    squares + 4 * n * width, add, address(out, n * wide + s), 0, address(own.sizes, 0),
                )  # fmt: skip


@njit
def _backward_columns(D, R, k, h, out, first, count, add, shared, own):
    """The same with R rows per sample, from its live units alone; those of `out` are found if there is a layer below."""
    plan, tile = shared.plan, address(own.tile, 0)
    O, wide, stride, deeper = plan[k + 1, SIZE], plan[k, PADDED], D.shape[1], k > 1
    for s in range(0, wide, STRIP):
        width = min(STRIP, wide - s)
        strip = address(shared.weights, plan[k, BACKWARD] + O * s)
        squares = address(shared.squares, plan[k - 1, SQUARE] + shared.samples * s + first * width)
        for n in range(count):
            live = own.live.ctypes.data + 8 * n * own.live.shape[1]
            sparse_tile(address(D, n * R * stride), stride, R, live + 8, strip, own.live[n, 0], width, tile)
            to = address(out, n * R * wide + s) if deeper else 0
            cotangents(
                tile, R, width, address(h, n * h.shape[1] + s), shared.act, squares + 4 * n * width, add, to, wide,
                address(own.sizes, n * wide + s),
            )  # fmt: skip
    if deeper:
        for n in range(count):
            _find_live(own.sizes[n * wide : (n + 1) * wide], own.live[n])


@njit
def _find_live(sizes, live):
    """Count what is not 0, or is NaN, and write its indices behind the count."""
    count = 0
    for j in range(len(sizes)):
        live[count + 1] = j
        count += sizes[j] != 0
    live[0] = count


# ---- a block of samples through all layers ----


@njit
def _inputs(k, shared, own):
    """The block's inputs of layer k, or its logits: (36, stride)."""
    at, stride = shared.plan[k, HIDDEN], shared.plan[k, STRIDE]
    return own.hidden[at : at + BLOCK * stride].reshape(BLOCK, stride)


@njit
def _cotangents(k, rows, shared, own):
    """Room for those of the inputs of layer k, or of the logits: (rows, padded size)."""
    wide = shared.plan[k, PADDED]
    return own.D[k % 2, : rows * wide].reshape(rows, wide)


@njit
def _forward_block(x, first, count, shared, own):
    plan, layers = shared.plan, len(shared.plan) - 1
    rows = _inputs(0, shared, own)
    for n in range(count):
        for i in range(plan[0, SIZE]):
            rows[n, i] = x[first + n, i]
    for k in range(layers):
        for n in range(count):
            rows[n, plan[k, SIZE]] = 1
            rows[n, plan[k, SIZE] + 1 :] = 0
        square_panels(rows, plan[k, SIZE], first, count, shared.squares, plan[k, PANEL], shared.samples)
        out = _inputs(k + 1, shared, own)
        act = shared.act if k < layers - 1 else IDENTITY
        _forward(rows, (count + ROWS - 1) // ROWS, k, act, out, shared, address(own.tile, 0))
        rows = out
    p, others, tails = own.softmax
    for n in range(count):
        softmax(rows[n], p[n], others[n], tails[n])


@njit
def _backward_block(labels, v, first, count, shared, own):
    """From one score per sample: that of its label, or, if there are no labels, column v, to be added."""
    layers = len(shared.plan) - 1
    p, others, tails = own.softmax
    D = _cotangents(layers, BLOCK, shared, own)
    for n in range(count):
        if len(labels):
            label_score(p[n], others[n], labels[first + n], D[n])
        else:
            column(p[n], others[n], tails[n], v, D[n])
    _output_squares(D, 1, first, count, v > 0, shared)
    for k in range(layers - 1, 0, -1):
        out = _cotangents(k, BLOCK, shared, own)
        _backward_rows(D, k, _inputs(k, shared, own), out, first, count, v > 0, shared, own)
        D = out


@njit
def _backward_group(start, count, v, R, V, first, shared, own):
    """From columns v, ..., v + R - 1 of V, zeros beyond, of samples start, ... of the block."""
    layers = len(shared.plan) - 1
    p, others, tails = own.softmax
    D = _cotangents(layers, GROUP * R, shared, own)
    for n in range(count):
        for r in range(R):
            if v + r < V:
                column(p[start + n], others[start + n], tails[start + n], v + r, D[n * R + r])
            else:
                D[n * R + r] = 0
        own.live[n, 0] = p.shape[1]
        for c in range(p.shape[1]):
            own.live[n, c + 1] = c
    _output_squares(D, R, first + start, count, v > 0, shared)
    for k in range(layers - 1, 0, -1):
        out = _cotangents(k, GROUP * R, shared, own)
        _backward_columns(D, R, k, _inputs(k, shared, own)[start:], out, first + start, count, v > 0, shared, own)
        D = out


@njit
def _output_squares(D, R, first, count, add, shared):
    """The squares of the scores, summed over a sample's R rows, into strips."""
    k, wide = len(shared.plan) - 2, D.shape[1]
    for s in range(0, wide, STRIP):
        width = min(STRIP, wide - s)
        at = shared.plan[k, SQUARE] + shared.samples * s + first * width
        for n in range(count):
            squares = shared.squares[at + n * width : at + (n + 1) * width]
            if not add:
                squares[:] = 0
            for r in range(R):
                for j in range(width):
                    squares[j] += D[n * R + r, s + j] * D[n * R + r, s + j]


def _compile(text: int) -> Callable:
    """over_samples. Numba keeps it on disk until this file or ``text``, which it stores with it, changes."""

    @njit(nogil=True, cache=True)
    def over_samples(x, labels, uniforms, kind, V, R, shared, own, counter):
        """Leave in shared.squares what the products need of x (N, I); pieces are blocks of samples.

        labels (N,), into which the drawn ones are written, or empty; V columns go backward R at a time.
        """
        samples = len(x)
        first = take(counter.ctypes.data, BLOCK)
        while first < samples:
            count = min(BLOCK, samples - first)
            _forward_block(x, first, count, shared, own)
            if kind == DRAWN:
                for n in range(count):
                    labels[first + n] = draw(own.softmax[0, n], uniforms[first + n])
            if kind != COLUMNS or R <= FEW:
                for v in range(V):
                    _backward_block(labels, v, first, count, shared, own)
            else:
                for start in range(0, count, GROUP):
                    for v in range(0, V, R):
                        _backward_group(start, min(GROUP, count - start), v, R, V, first, shared, own)
            first = take(counter.ctypes.data, BLOCK)
        return text

    return over_samples


over_samples = _compile(sources(cpu_tile.__file__, cpu_output.__file__, cpu_products.__file__))
