"""Unrolls on the CPU: forward, and truncated backpropagation through time, its call and the memory that it takes.

A thread unrolls a group of coordinates forward, keeping its activations, and then backward, before it takes the next
group: so the memory does not grow with n. Where the activations of all T steps would take more than the caller allows,
they are those of a segment of steps: the state at the start of each segment is kept instead, and every segment but the last
is run forward twice.

The gradient of the weights is the same for any timing and, unless `memory` is given, of which each thread has its share and with it
the length of its segments, for any number of threads: tiles are divided in at most SLOTS runs,
whatever the threads; each run is summed in one order, in float32 for TILES_PER_FLUSH tiles and in float64 beyond, and the
runs' sums in one order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..simd import available, together
from .blocks import as_weights, check, check_cotangents, flat_weights, gathered, hidden_sizes
from .cpu import advance
from .cpu_backward import BLOCK, GROUP
from .cpu_passes import HEAD, unroll_slots
from .cpu_step import pack
from .reference import Array, Weights, _checked

MEMORY = 1 << 23
"""Bytes of activations that each thread may hold, unless the caller says how many all may."""
SLOTS, TILES_PER_SLOT = 64, 4
"""The most runs of tiles, and the fewest tiles of one."""


def unroll_forward(
    weights: Weights, blocks: Array, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(updates (T, n), blocks after T steps) on constant gradients (T, n): the step T times, on one state."""
    check("unroll_forward", weights, blocks, gradients, p)
    updates, after = np.empty(gradients.shape, gradients.dtype), blocks.copy()
    for gradient, update in zip(np.ascontiguousarray(gradients), updates, strict=True):
        advance(weights, after, after, [gradient], [update], scale, p, add=False)
    return updates, after


def unroll_backward(
    weights: Weights,
    blocks: Array,
    gradients: Array,
    d_updates: Array,
    d_blocks: Array,
    scale: float = 1.0,
    p: float | None = 10,
    wrt_gradients: bool = False,
    memory: int | None = None,
) -> tuple[Weights, Array, Array | None]:
    """(d_weights, d_blocks at the start, d_gradients (T, n) or None) from d_updates (T, n) and d_blocks at the end.

    Activations of all threads together take at most `memory` bytes, or those of one step and a state for each if that is
    more; None allows MEMORY for each thread. A segment's forward pass is run twice unless one segment is all.
    """
    check("unroll_backward", weights, blocks, gradients, p)
    check_cotangents(gradients, d_updates, blocks, d_blocks)
    if p is not None:
        _checked(p, blocks.dtype)
    if blocks.dtype != np.float32:
        raise TypeError(
            f"unroll_backward: the arrays are {blocks.dtype}, but the compiled unroll takes float32; "
            "use .astype(numpy.float32), or tinymeta.kernels.lstm.tiled for any float dtype"
        )
    before, read, d_read, d_after = (np.ascontiguousarray(x) for x in (blocks, gradients, d_updates, d_blocks))
    d_before, d_gradients = np.empty_like(before), np.empty_like(read) if wrt_gradients else None
    sizes, d = np.array(hidden_sizes(weights), np.int64), 1 if p is None else 2
    packed, _ = pack(gathered(flat_weights(weights)), d, sizes)
    slots = max(1, min(SLOTS, -(-len(before) // TILES_PER_SLOT)))
    totals, counter = np.zeros((slots, packed.size)), np.zeros(1, np.int64)
    threads = min(available(), slots)
    room = _room(sizes.tolist(), packed.size, len(read), MEMORY if memory is None else memory // threads)
    scratch = [np.zeros(room.end + 64, np.uint8) for _ in range(threads)]
    net, numbers = (packed, _turned(weights), d, sizes), (float(scale), float(p or 0))
    states = _address(before), _address(d_after), _address(d_before)
    inputs = (_address(read), _address(d_read), 0 if d_gradients is None else _address(d_gradients), *read.shape[::-1])

    def work(thread: int) -> None:
        start = -(-_address(scratch[thread]) // 64) * 64  # where its first whole vector begins
        unroll_slots(net, numbers, inputs, states, room.at(start), totals, counter)

    together(work, threads)
    return _unpacked(totals.sum(axis=0).astype(np.float32), weights), d_before, d_gradients


class Room(NamedTuple):
    """Bytes from the start of a thread's scratch to each part of it, and the steps of a segment."""

    per_record: int
    checkpoints: int
    carry: int
    above: int
    sums: int
    end: int
    length: int

    def at(self, start: int) -> tuple[int, ...]:
        """The addresses, as ``cpu_passes`` takes them."""
        parts = (start + part for part in (self.checkpoints, self.carry, self.above, self.sums))
        return (start, self.per_record, *parts, self.length)


def _room(sizes: list[int], weights: int, T: int, memory: int) -> Room:
    row, state = 4 * GROUP, 2 * sum(sizes)
    record = 3 * state + HEAD
    length = segment_length(T, record, state, memory // row)
    segments = -(-T // length)
    carry = sum(2 * BLOCK * -(-H // BLOCK) for H in sizes)
    above = BLOCK * -(-max([2, *sizes]) // BLOCK)
    rows = [(length + 1) * record, (segments - 1) * state, carry, above]
    checkpoints, carry_at, above_at, sums = np.cumsum([row * r for r in rows]).tolist()
    return Room(row * record, checkpoints, carry_at, above_at, sums, sums + 64 * weights, length)


def segment_length(T: int, record: int, state: int, allowed: int) -> int:
    """Steps of a segment: the most whose records, with the states at the starts of the other segments, fit in the rows
    allowed; of none that fit, the length that takes fewest."""
    lengths = [-(-T // segments) for segments in range(1, T + 1)] or [1]
    taken = [(length + 1) * record + (-(-T // length) - 1) * state for length in lengths]
    fitting = [length for length, rows in zip(lengths, taken, strict=True) if rows <= allowed]
    return fitting[0] if fitting else lengths[int(np.argmin(taken))]


def _turned(weights: Weights) -> Array:
    """W of each layer for d_u = W d_z: [block of rows of x, then of h][j, gate][BLOCK], rows padded by 0 to whole blocks."""
    parts = [np.zeros(0, weights.W_out.dtype)]
    for W, b in weights.layers:
        H = b.size // 4
        by_unit = W.reshape(len(W), 4, H).transpose(0, 2, 1).reshape(len(W), 4 * H)
        for rows in (by_unit[:-H], by_unit[-H:]):
            blocks = -(-len(rows) // BLOCK)
            padded = np.zeros((blocks * BLOCK, 4 * H), W.dtype)
            padded[: len(rows)] = rows
            parts.append(padded.reshape(blocks, BLOCK, 4 * H).transpose(0, 2, 1).reshape(-1))
    return np.concatenate(parts)


def _unpacked(sums: Array, weights: Weights) -> Weights:
    """The weights' gradient from [1 + d + H][H][4] of each layer, its bias first, and [H + 1] of the output."""
    arrays, start = [], 0
    for W, b in weights.layers:
        H, count = b.size // 4, W.size + b.size
        rows = sums[start : start + count].reshape(len(W) + 1, H, 4).transpose(0, 2, 1).reshape(len(W) + 1, 4 * H)
        arrays += [rows[1:].copy(), rows[0].copy()]
        start += count
    return as_weights([*arrays, sums[start:-1].copy(), sums[-1:].reshape(())])


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]
