"""The LSTM optimizer in NumPy on the blocked layout, a few tiles at a time, so that every intermediate stays in the cache.

The steps are numbered as in ``tinymeta.kernels.lstm``; arrays are (tiles, rows, 64), of any float dtype.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .. import agree
from .blocks import LANES, as_weights, check, check_cotangents, check_written, flat_weights, gathered, padded, scatter
from .reference import Array, Weights, log_and_sign, log_and_sign_vjp

CACHE = 1 << 20  # bytes that a step may work on at a time
MEMORY = 1 << 24  # bytes of activations that a backward may hold, unless it is told


class Cell(NamedTuple):
    """The activations of one layer in a few tiles, each (tiles, H, 64) but u = [x, h] (tiles, d + H, 64)."""

    u: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    c_new: Array
    t: Array


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks)"""
    agree("step", gradient=(gradient, "n"))
    update, after = np.empty(gradient.shape, gradient.dtype), np.empty_like(blocks)
    advance(weights, blocks, after, [gradient], [update], scale, p, add=False)
    return update, after


def advance(
    weights: Weights,
    before: Array,
    after: Array,
    gradients: Sequence[Array],
    targets: Sequence[Array],
    scale: float,
    p: float | None,
    add: bool,
) -> None:
    """One step in place: `after`, which may be `before`, becomes the next state; each target becomes the update of its
    gradient, or is moved by it if `add`."""
    flat = gathered(gradients)
    check("step", weights, before, flat[None], p)
    check_written(before, after, gradients, targets)
    tiles = _tiles(flat, before)
    for group in _groups(len(before), _bytes_per_tile(weights, before)):
        tiles[group], cells = _step(weights, before[group], tiles[group], scale, p)
        after[group] = _state(cells, before[group])
    scatter(tiles.reshape(-1), targets, add)


def unroll_forward(
    weights: Weights, blocks: Array, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(updates (T, n), blocks after T steps) on constant gradients (T, n)."""
    check("unroll_forward", weights, blocks, gradients, p)
    updates, after = np.empty(gradients.shape, gradients.dtype), blocks.copy()
    for gradient, update in zip(gradients, updates, strict=True):
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

    Activations are those of as many tiles as fit in `memory` bytes, at least one: each group of tiles is unrolled anew.
    """
    check("unroll_backward", weights, blocks, gradients, p)
    check_cotangents(gradients, d_updates, blocks, d_blocks)
    g, d_u = _tiles(gradients, blocks), _tiles(d_updates, blocks)
    d_before, d_gradients = np.empty_like(blocks), np.zeros_like(g)
    d_weights = [np.zeros_like(x) for x in flat_weights(weights)]
    per_tile = max(1, len(gradients)) * _bytes_per_tile(weights, blocks)
    for group in _groups(len(blocks), per_tile, MEMORY if memory is None else memory):
        found, d_before[group], d_gradients[:, group] = _backward(
            weights, blocks[group], g[:, group], d_u[:, group], d_blocks[group], scale, p
        )
        for total, part in zip(d_weights, found, strict=True):
            total += part
    n = gradients.shape[1]
    wanted = d_gradients.reshape(len(gradients), len(blocks) * LANES)[:, :n] if wrt_gradients else None
    return as_weights(d_weights), d_before, wanted


# ---- a group of tiles ----


def _step(
    weights: Weights, blocks: Array, gradient: Array, scale: float, p: float | None
) -> tuple[Array, tuple[Cell, ...]]:
    """(update (tiles, 64), the layers' cells) from the gradient (tiles, 64)."""
    x = _features(gradient, p)  # S1
    cells, row = [], 0
    for W, b in weights.layers:
        H = b.size // 4
        h, c = blocks[:, row : row + H], blocks[:, row + H : row + 2 * H]
        cell, x = _cell(x, h, c, W, b)  # S2
        cells.append(cell)
        row += 2 * H
    return float(scale) * (weights.W_out @ x + weights.b_out), tuple(cells)  # S3


def _cell(x: Array, h: Array, c: Array, W: Array, b: Array) -> tuple[Cell, Array]:
    """The cell and its h', (tiles, H, 64)."""
    u = np.concatenate([x, h], axis=1)  # 1
    z = W.T @ u  # 2
    z += b[:, None]
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=1)
    i, f, g, o = _sigmoid(z_i), _sigmoid(z_f), np.tanh(z_g), _sigmoid(z_o)  # 3
    c_new = f * c + i * g  # 4
    t = np.tanh(c_new)  # 5
    return Cell(u, i, f, g, o, c, c_new, t), o * t  # 6: h' = o t


def _sigmoid(z: Array) -> Array:
    return np.tanh(z * z.dtype.type(0.5)) * z.dtype.type(0.5) + z.dtype.type(0.5)


def _state(cells: Sequence[Cell], like: Array) -> Array:
    """The blocks after a step; `like` where there are no layers."""
    rows = [part for cell in cells for part in (cell.o * cell.t, cell.c_new)]
    return np.concatenate(rows, axis=1) if rows else like


def _backward(
    weights: Weights, blocks: Array, gradients: Array, d_updates: Array, d_blocks: Array, scale: float, p: float | None
) -> tuple[list[Array], Array, Array]:
    """(d_weights as a list, d_blocks at the start, d_gradients (T, tiles, 64))"""
    steps = []
    for gradient in gradients:
        _, cells = _step(weights, blocks, gradient, scale, p)
        blocks = _state(cells, blocks)
        steps.append(cells)
    d_weights = [np.zeros_like(x) for x in flat_weights(weights)]
    d_gradients = np.empty_like(gradients)
    for t in reversed(range(len(gradients))):
        d_out = float(scale) * d_updates[t]  # of S3: update = scale (W_out h + b_out)
        d_x, d_blocks = _step_backward(weights, gradients[t], steps[t], d_out, d_blocks, p, d_weights)
        d_gradients[t] = _features_vjp(d_x, gradients[t], p)
    return d_weights, d_blocks, d_gradients


def _step_backward(
    weights: Weights,
    gradient: Array,
    cells: Sequence[Cell],
    d_out: Array,
    d_blocks: Array,
    p: float | None,
    d_weights: list[Array],
) -> tuple[Array, Array]:
    """(d_x of the features, d_blocks before the step); adds to d_weights."""
    last = cells[-1].o * cells[-1].t if cells else _features(gradient, p)
    d_weights[-2] += np.einsum("qhl,ql->h", last, d_out)
    d_weights[-1] += d_out.sum()
    d_x, d_state, row = weights.W_out[:, None] * d_out[:, None, :], [d_blocks[:, :0]], d_blocks.shape[1]
    for k in reversed(range(len(cells))):
        W, b = weights.layers[k]
        H = b.size // 4
        d_h_new = d_blocks[:, row - 2 * H : row - H] + d_x  # h' is used above and at t + 1
        d_z, d_c = _cell_backward(cells[k], d_h_new, d_blocks[:, row - H : row])
        d_weights[2 * k] += (cells[k].u @ d_z.transpose(0, 2, 1)).sum(axis=0)  # B2, of 2: z = W^T u + b
        d_weights[2 * k + 1] += d_z.sum(axis=(0, 2))
        d_u = W @ d_z
        d_x, d_h = d_u[:, :-H], d_u[:, -H:]  # B1, of 1: u = [x, h]
        d_state[:0] = [d_h, d_c]
        row -= 2 * H
    return d_x, np.concatenate(d_state, axis=1)


def _cell_backward(cell: Cell, d_h_new: Array, d_c_new: Array) -> tuple[Array, Array]:
    """(d_z (tiles, 4H, 64), d_c)"""
    _, i, f, g, o, c, _, t = cell
    d_o, d_t = d_h_new * t, d_h_new * o  # B6, of 6: h' = o t
    d_c_new = d_c_new + d_t * (1 - t * t)  # B5, of 5: t = tanh(c')
    d_i, d_f, d_g = d_c_new * g, d_c_new * c, d_c_new * i  # B4, of 4: c' = f c + i g
    slopes = d_i * i * (1 - i), d_f * f * (1 - f), d_g * (1 - g * g), d_o * o * (1 - o)  # B3, of 3
    return np.concatenate(slopes, axis=1), d_c_new * f


def _tiles(x: Array, blocks: Array) -> Array:
    """(..., n) -> (..., tiles, 64), a copy with the padding"""
    return padded(x, blocks).reshape(*x.shape[:-1], len(blocks), LANES)


def _features(gradient: Array, p: float | None) -> Array:
    """(tiles, 64) -> (tiles, d, 64)"""
    if p is None:
        return gradient[:, None]
    rows = log_and_sign(gradient.reshape(-1), p)
    return rows.reshape(*gradient.shape, 2).transpose(0, 2, 1)


def _features_vjp(d_x: Array, gradient: Array, p: float | None) -> Array:
    if p is None:
        return d_x[:, 0]
    rows = d_x.transpose(0, 2, 1).reshape(-1, 2)
    return log_and_sign_vjp(rows, gradient.reshape(-1), p).reshape(gradient.shape)


def _bytes_per_tile(weights: Weights, blocks: Array) -> int:
    """Of the activations of one step: u, z and its slopes, c, c' and t, about nine arrays of H rows and u in each layer."""
    rows = sum(W.shape[0] + 9 * (b.size // 4) for W, b in weights.layers) + 4
    return rows * LANES * blocks.itemsize


def _groups(tiles: int, bytes_per_tile: int, memory: int = CACHE) -> Iterator[slice]:
    size = max(1, memory // bytes_per_tile)
    return (slice(start, start + size) for start in range(0, tiles, size))
