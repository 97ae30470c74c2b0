"""The two passes of truncated backpropagation through time over a group of coordinates, compiled by Numba.

Memory is addresses in bytes. A group's activations are one record per step, after a first one that holds the state before
them. Numbered steps and B1, B2, ... are those of ``tinymeta.kernels.lstm``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..simd import njit, sources, take
from . import cpu_backward, cpu_step
from .blocks import LANES
from .cpu_backward import (
    BLOCK,
    GROUP,
    ROW,
    cell,
    copy_rows,
    features,
    features_vjp,
    fill,
    flush,
    gates_vjp,
    lanes,
    multiply,
    outer1,
    outer4,
    output_vjp,
    transposed,
)
from .cpu_step import get, put

TILES_PER_FLUSH, STEPS_PER_SUM = 64, 20
"""The tiles after which sums in float32 go on in float64; the steps whose activations are read together for d_W."""
ONES, GRADIENT, D_OUT, X = (k * ROW for k in range(4))
HEAD = 5
"""A record of one step: the rows of the state after it, laid out as in the blocks; then HEAD rows, which are ones, the
gradient, scale d_update and x; then the gates of each layer."""


# ---- one step of a group ----


@njit
def _forward(packed, d, sizes, before, after, head, numbers):
    """Fill the record `after`, whose head is given, from the state in the record `before` and its own gradient."""
    gates, x = head + HEAD * ROW, head + X
    if d == 2:
        features(head + GRADIENT, x, *numbers)  # S1
    else:
        copy_rows(head + GRADIENT, x, 1, GROUP, GROUP)
    for H in sizes:
        cell(packed, x, d, before, H, after, gates)  # S2
        packed += 16 * H * (1 + d + H)
        x, d = after, H
        before, after, gates = before + 2 * ROW * H, after + 2 * ROW * H, gates + 4 * ROW * H


@njit
def _backward(turned, W_out, d, sizes, before, after, head, carry, above, wanted):
    """Put d_z over the gates in the record `after`, and the state's cotangent before the step over `carry`; d_x in `above`.

    `turned` is the end of the weights as `cpu_unroll` packs them for this pass.
    """
    state = head - after
    gates = head + ROW * HEAD + 2 * state
    output_vjp(W_out, head + D_OUT, sizes[-1] if len(sizes) else d, above)  # of S3
    for layer in range(len(sizes) - 1, -1, -1):
        H, below = sizes[layer], sizes[layer - 1] if layer else d
        blocks_x, blocks_h = _blocks(below), _blocks(H)
        state, gates, carry = state - 2 * ROW * H, gates - 4 * ROW * H, carry - 2 * ROW * BLOCK * blocks_h
        turned -= 16 * H * BLOCK * (blocks_x + blocks_h)
        d_c = carry + ROW * BLOCK * blocks_h
        gates_vjp(before + state + ROW * H, after + state, gates, H, above, carry, d_c)
        transposed(turned + 16 * H * BLOCK * blocks_x, gates, H, carry, blocks_h)  # B1, of 1: u = [x, h]
        if layer or wanted:
            transposed(turned, gates, H, above, blocks_x)


@njit
def _blocks(rows):
    return (rows + BLOCK - 1) // BLOCK


@njit
def _sum_weights(sums, d, sizes, records, per_record, state, steps):
    """Add d_W of each layer, its bias first, and d_W_out and d_b_out, [1 + d + H][H][4 gates] and [H + 1], each a vector."""
    stride, vector = per_record // 4, 4 * lanes()
    before, after, head = records, records + per_record, records + per_record + state
    gates, x = head + ROW * HEAD, head + X
    for H in sizes:
        per_row = 4 * H * vector
        outer4(sums, gates, head + ONES, 1, H, steps, stride)  # B2, of 2: z = [1, x, h] [b; W]
        outer4(sums + per_row, gates, x, d, H, steps, stride)
        outer4(sums + per_row * (1 + d), gates, before, H, H, steps, stride)
        sums += per_row * (1 + d + H)
        x, d = after, H
        before, after, gates = before + 2 * ROW * H, after + 2 * ROW * H, gates + 4 * ROW * H
    outer1(sums, head + D_OUT, x, d, 1, steps, stride)  # of S3
    outer1(sums + d * vector, head + D_OUT, head + ONES, 1, 1, steps, stride)


# ---- reading and writing ----


@njit
def _read(row, source, q, n):
    """Fill the row with numbers q, q + 1, ... of n; 0 after the last one."""
    if q + GROUP <= n:
        copy_rows(source + 4 * q, row, 1, GROUP, GROUP)
    else:
        fill(np.float32(0), row)
        for k in range(q, n):
            put(get(source, k), row, k - q)


@njit
def _write(row, target, q, n):
    """The inverse of _read."""
    if q + GROUP <= n:
        copy_rows(row, target + 4 * q, 1, GROUP, GROUP)
    else:
        for k in range(q, n):
            put(get(row, k - q), target, k)


@njit
def _read_cotangents(tile, carry, sizes):
    """Copy d_blocks of a group to the carry, whose layers are padded to whole blocks of rows; return the carry's end."""
    for H in sizes:
        room = ROW * BLOCK * _blocks(H)
        copy_rows(tile, carry, H, LANES, GROUP)
        copy_rows(tile + 4 * LANES * H, carry + room, H, LANES, GROUP)
        tile, carry = tile + 8 * LANES * H, carry + 2 * room
    return carry


@njit
def _write_cotangents(carry, tile, sizes):
    """The inverse of _read_cotangents."""
    for H in sizes:
        room = ROW * BLOCK * _blocks(H)
        copy_rows(carry, tile, H, GROUP, LANES)
        copy_rows(carry + room, tile + 4 * LANES * H, H, GROUP, LANES)
        tile, carry = tile + 8 * LANES * H, carry + 2 * room


# ---- a group over all steps ----


@njit
def _segment_forward(net, inputs, scratch, q, first, steps):
    """Fill the records of these steps from the state in the first record."""
    (packed, _, _, d, sizes, state, scale, numbers), (gradients, d_updates, _, n, _) = net, inputs
    records, per_record = scratch[:2]
    for k in range(steps):
        row = 4 * (first + k) * n
        before, after = records + k * per_record, records + (k + 1) * per_record
        head = after + state
        _read(head + GRADIENT, gradients + row, q, n)
        _read(head + D_OUT, d_updates + row, q, n)
        multiply(scale, head + D_OUT)
        _forward(packed, d, sizes, before, after, head, numbers)


@njit
def _segment_backward(net, inputs, scratch, q, first, steps):
    """Add to the weights' sums and move the carry from the end of these steps to their start; the records are filled."""
    (_, turned, W_out, d, sizes, state, _, numbers), (_, _, d_gradients, n, _) = net, inputs
    records, per_record, _, carry, above, sums = scratch[:6]
    for k in range(steps - 1, -1, -1):
        before, after = records + k * per_record, records + (k + 1) * per_record
        _backward(turned, W_out, d, sizes, before, after, after + state, carry, above, d_gradients != 0)
        if d_gradients:
            if d == 2:
                features_vjp(after + state + GRADIENT, above, above, *numbers)  # of S1
            _write(above, d_gradients + 4 * (first + k) * n, q, n)
    for k in range(0, steps, STEPS_PER_SUM):
        _sum_weights(sums, d, sizes, records + k * per_record, per_record, state, min(STEPS_PER_SUM, steps - k))


@njit
def _group(net, inputs, scratch, q, state, d_after, d_before):
    """Both passes for the coordinates from q on, from the addresses of their columns in the blocks and their cotangents."""
    sizes, rows, T = net[4], net[5] // ROW, inputs[4]
    records, per_record, checkpoints, carry, _, _, length = scratch
    segments = (T + length - 1) // length
    copy_rows(state, records, rows, LANES, GROUP)
    for segment in range(segments - 1):
        copy_rows(records, checkpoints + segment * ROW * rows, rows, GROUP, GROUP)
        _segment_forward(net, inputs, scratch, q, segment * length, length)
        copy_rows(records + length * per_record, records, rows, GROUP, GROUP)
    end = _read_cotangents(d_after, carry, sizes)
    ends = (*scratch[:3], end, *scratch[4:])
    for segment in range(segments - 1, -1, -1):
        first = segment * length
        steps = min(length, T - first)
        if segment < segments - 1:
            copy_rows(checkpoints + segment * ROW * rows, records, rows, GROUP, GROUP)
        _segment_forward(net, inputs, scratch, q, first, steps)
        _segment_backward(net, inputs, ends, q, first, steps)
    _write_cotangents(carry, d_before, sizes)


@njit
def _slot(net, inputs, scratch, states, first, last, total, weights):
    """All groups of the tiles from first to last; their d_W is added to the float64 sums at the address `total`."""
    before, d_after, d_before = states
    for start in range(first, last, TILES_PER_FLUSH):
        for q in range(start * LANES, min(last, start + TILES_PER_FLUSH) * LANES, GROUP):
            at = q // LANES * 4 * LANES * (net[5] // ROW) + 4 * (q % LANES)
            _group(net, inputs, scratch, q, before + at, d_after + at, d_before + at)
        flush(scratch[5], total, weights)


def _compile(text: int) -> Callable:
    @njit(nogil=True, cache=True)
    def unroll_slots(weights, numbers, inputs, states, scratch, totals, counter):
        """Take runs of tiles from the counter until none is left; each adds its d_W to its own row of the totals."""
        packed, turned, d, sizes = weights
        scale, p = numbers
        state, width = 2 * ROW * sizes.sum(), sizes[-1] if len(sizes) else d
        W_out, turned_end = packed.ctypes.data + 4 * (packed.size - 1 - width), turned.ctypes.data + 4 * turned.size
        numbers_x = np.float32(p), np.float32(math.exp(p)), np.float32(math.exp(-p))
        net = (packed.ctypes.data, turned_end, W_out, d, sizes, state, np.float32(scale), numbers_x)
        for k in range(scratch[6] + 1):
            fill(np.float32(1), scratch[0] + k * scratch[1] + state + ONES)
        tiles = (inputs[3] + LANES - 1) // LANES
        per_slot = (tiles + len(totals) - 1) // len(totals)
        slot = take(counter.ctypes.data, 1)
        while slot < len(totals):
            first, last = slot * per_slot, min(tiles, (slot + 1) * per_slot)
            total = totals.ctypes.data + 8 * slot * packed.size
            _slot(net, inputs, scratch, states, first, last, total, packed.size)
            slot = take(counter.ctypes.data, 1)
        return text

    return unroll_slots


unroll_slots = _compile(sources(cpu_step.__file__, cpu_backward.__file__))
