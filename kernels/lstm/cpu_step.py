"""The compiled part of the CPU step: (1), (2) and (3) on one tile of 64 coordinates at a time, by explicit vectors.

Arrays come as addresses in bytes, so that one compiled function serves all sizes. A row is 64 floats. The scratch of
a thread holds the row of the gradient, then of the update; the rows of x; then those of each layer's h', which are
the next layer's x. Weights are packed by unit j, the bias first: [j][1 + d + H][i, f, g, o]. So the 4 gates of a unit
are summed side by side in registers over all of u = [x, h], and never meet memory. Those of i, f, o are packed times
SIGMOID, since s(z) = 1 / (1 + 2^(SIGMOID z)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..simd import (
    SIGMOID,
    Simd,
    Value,
    Variable,
    log,
    njit,
    sigmoid_denominator,
    sources,
    take,
    tanh_ratio,
    types,
    vector_code,
)
from .blocks import LANES

ROW = 4 * LANES
"""Bytes of a row."""
WIDTH = {16: 4, 8: 2, 4: 2}
"""Vectors summed side by side, by their lanes: 4 gates of so many sums and the row's vectors fill the registers."""
Address, Count, Float = types.int64, types.int64, types.float32


# ---- S1, equation (1) ----


@vector_code(types.void, Address, Address, Float, Float, Float)
def features(simd: Simd, gradient: Value, x: Value, *numbers: Value) -> None:
    """x = (log|g| / p, sign g), or (-1, e^p g) where |g| < e^-p: two rows, from the gradient's; numbers p, e^p, e^-p."""
    two_features(simd, gradient, x, numbers, LANES)


def two_features(simd: Simd, gradient: Value, x: Value, numbers: Sequence[Value], row: int) -> None:
    gradient, x = simd.at(gradient), simd.at(x)
    p, e_p, e_minus_p = (simd.splat(number) for number in numbers)
    with simd.loop(row // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        g = simd.load(gradient, lane)
        size = simd.absolute(g)
        large = simd.greater_equal(size, e_minus_p)
        logarithm, sign = simd.div(log(simd, size), p), simd.copysign(simd.const(1), g)
        simd.store(simd.where(large, logarithm, simd.const(-1)), x, lane)
        simd.store(simd.where(large, sign, simd.mul(e_p, g)), x, simd.plus(lane, row))


# ---- S2, equation (2) ----


@vector_code(types.void, Address, Address, Count, Address, Address, Count, Address, Address, Address)
def cell(simd: Simd, weights: Value, x: Value, d: Value, h: Value, c: Value, H: Value, *others: Value) -> None:
    """h' and c' (H rows each, the next two addresses) from x (d rows), h and c. c' may be written over c, h' not over h.

    The last address is where the next tile has its h and c: on their way from memory while this tile is computed.
    """
    weights, x, h, c, h_new, c_new, next_h = (simd.at(address) for address in (weights, x, h, c, *others))
    width = WIDTH[simd.lanes]
    per_unit = simd.times(simd.plus(simd.plus(d, H), 1), 4)
    with simd.loop(H) as j, simd.loop(LANES // (width * simd.lanes)) as group:
        lane, w = simd.times(group, width * simd.lanes), simd.times(j, per_unit)
        z = [[simd.variable(b) for _ in range(width)] for b in four(simd, weights, w)]
        accumulate(simd, z, weights, simd.plus(w, 4), x, lane, d)  # 1, 2: z = [x, h] W + b
        accumulate(simd, z, weights, simd.plus(simd.plus(w, 4), simd.times(d, 4)), h, lane, H)
        for v in range(width):
            at = simd.plus(simd.plus(simd.times(j, LANES), lane), v * simd.lanes)
            c_next, h_next = _gates(simd, [sums[v].get() for sums in z], simd.load(c, at))
            simd.store(c_next, c_new, at)
            simd.store(h_next, h_new, at)
            for row in (at, simd.plus(at, simd.times(H, LANES))):
                simd.prefetch(next_h, row)


def four(simd: Simd, weights: Value, w: Value) -> list[Value]:
    return [simd.broadcast(weights, simd.plus(w, gate)) for gate in range(4)]


def accumulate(
    simd: Simd,
    z: list[list[Variable]],
    weights: Value,
    w: Value,
    rows: Value,
    lane: Value,
    count: Value,
    row: int = LANES,
) -> None:
    """z[gate] += sum over k < count of weights[w + 4 k + gate] rows[k], rows of so many floats"""
    with simd.loop(count) as k:
        first = simd.plus(simd.times(k, row), lane)
        u = [simd.load(rows, simd.plus(first, v * simd.lanes)) for v in range(len(z[0]))]
        for sums, weight in zip(z, four(simd, weights, simd.plus(w, simd.times(k, 4))), strict=True):
            for total, u_v in zip(sums, u, strict=True):
                total.set(simd.fma(weight, u_v, total.get()))


def _gates(simd: Simd, z: list[Value], c: Value) -> tuple[Value, Value]:
    """(c', h') by two divisions: with i = 1 / I, f = 1 / F, o = 1 / O, g = N / D, t = M / E."""
    z_i, z_f, z_g, z_o = z
    I, F, O = (sigmoid_denominator(simd, z) for z in (z_i, z_f, z_o))  # 3
    N, D = tanh_ratio(simd, z_g)
    ID = simd.mul(I, D)
    c_new = simd.div(simd.fma(c, ID, simd.mul(N, F)), simd.mul(F, ID))  # 4: c' = f c + i g
    M, E = tanh_ratio(simd, c_new)  # 5: t = tanh(c')
    return c_new, simd.div(M, simd.mul(O, E))  # 6: h' = o t


# ---- S3, equation (3) ----


@vector_code(types.void, Address, Address, Count, Float, Address)
def output(simd: Simd, weights: Value, h: Value, H: Value, scale: Value, update: Value) -> None:
    """The update's row from the last layer's h' (H rows); weights are W_out and then b_out."""
    weights, h, scale, update = simd.at(weights), simd.at(h), simd.splat(scale), simd.at(update)
    with simd.loop(LANES // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        total = simd.variable(simd.broadcast(weights, H))
        with simd.loop(H) as k:
            row = simd.load(h, simd.plus(simd.times(k, LANES), lane))
            total.set(simd.fma(simd.broadcast(weights, k), row, total.get()))
        simd.store(simd.mul(scale, total.get()), update, lane)


# ---- memory ----


@vector_code(types.void, Address, Address, Count)
def copy_rows(simd: Simd, source: Value, target: Value, rows: Value) -> None:
    source, target = simd.at(source), simd.at(target)
    with simd.loop(simd.times(rows, LANES // simd.lanes)) as v:
        simd.store(simd.load(source, simd.times(v, simd.lanes)), target, simd.times(v, simd.lanes))


@vector_code(Float, Address, Count)
def get(simd: Simd, address: Value, k: Value) -> Value:
    """Float k of those at an address."""
    return simd.builder.load(simd.builder.gep(simd.at(address), [k]))


@vector_code(types.void, Float, Address, Count)
def put(simd: Simd, x: Value, address: Value, k: Value) -> None:
    """x becomes float k of those at an address."""
    simd.builder.store(x, simd.builder.gep(simd.at(address), [k]))


# ---- the whole step ----


@njit
def _gather(leaves, starts, leaf, q, row):
    """Fill the row with the coordinates from q on, the first of them in this leaf; 0 after the last one."""
    for lane in range(LANES):
        put(np.float32(0), row, lane)
    end = min(q + LANES, starts[-1])
    first = q
    while first < end:
        stop = min(end, starts[leaf + 1])
        for k in range(first, stop):
            put(get(leaves[leaf], k - starts[leaf]), row, k - q)
        first, leaf = stop, leaf + 1


@njit
def _scatter(row, leaves, starts, leaf, q, add):
    """The inverse of _gather; or, if add, the row is added to the coordinates."""
    end = min(q + LANES, starts[-1])
    first = q
    while first < end:
        stop = min(end, starts[leaf + 1])
        for k in range(first, stop):
            at, x = k - starts[leaf], get(row, k - q)
            put(get(leaves[leaf], at) + x if add else x, leaves[leaf], at)
        first, leaf = stop, leaf + 1


@njit
def _step_tile(weights, d, sizes, before, after, per_tile, numbers, scratch):
    scale, p, e_p, e_minus_p = numbers
    x = scratch
    if d == 2:
        x += ROW
        features(scratch, x, p, e_p, e_minus_p)  # S1
    for H in sizes:
        h_new = x + ROW * d
        cell(weights, x, d, before, before + ROW * H, H, h_new, after + ROW * H, before + per_tile)  # S2
        copy_rows(h_new, after, H)
        weights += 16 * H * (1 + d + H)
        before, after = before + 2 * ROW * H, after + 2 * ROW * H
        x, d = h_new, H
    output(weights, x, d, scale, scratch)  # S3


def _compile(text: int) -> tuple[Callable, Callable]:
    """(pack, advance_tiles). Numba keeps them on disk until this file or ``text``, which it stores with them, changes."""

    @njit(nogil=True, cache=True)
    def pack(flat, d, sizes):
        """The packed weights, from W and b of each layer, W_out and b_out one after another."""
        packed, start = np.empty_like(flat), 0
        for H in sizes:
            rows, scales = 1 + d + H, (np.float32(SIGMOID), np.float32(SIGMOID), np.float32(1), np.float32(SIGMOID))
            W, b = start, start + (d + H) * 4 * H
            for j in range(H):
                at = start + j * rows * 4
                for gate in range(4):
                    packed[at + gate] = scales[gate] * flat[b + gate * H + j]
                    for k in range(1, rows):
                        packed[at + 4 * k + gate] = scales[gate] * flat[W + (k - 1) * 4 * H + gate * H + j]
            start, d = b + 4 * H, H
        packed[start:] = flat[start:]
        return packed, text

    @njit(nogil=True, cache=True)
    def advance_tiles(
        packed, d, sizes, before, after, gradients, targets, starts, scale, p, add, scratch, counter, run
    ):
        """Take runs of tiles from the counter until none is left, and advance them."""
        bytes_per_tile, tiles, leaf = 2 * ROW * sizes.sum(), (starts[-1] + LANES - 1) // LANES, 0
        numbers = np.float32(scale), np.float32(p), np.float32(math.exp(p)), np.float32(math.exp(-p))
        first = take(counter.ctypes.data, run)
        while first < tiles:
            for tile in range(first, min(first + run, tiles)):
                q, at = tile * LANES, tile * bytes_per_tile
                while starts[leaf + 1] <= q:
                    leaf += 1
                _gather(gradients, starts, leaf, q, scratch)
                _step_tile(packed.ctypes.data, d, sizes, before + at, after + at, bytes_per_tile, numbers, scratch)
                _scatter(scratch, targets, starts, leaf, q, add)
            first = take(counter.ctypes.data, run)
        return text

    return pack, advance_tiles


pack, advance_tiles = _compile(sources())
