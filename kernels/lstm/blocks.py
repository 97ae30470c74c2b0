"""The layout in which fast backends keep the LSTM's state: tiles of 64 coordinates, coordinates side by side.

blocks (tiles, R, 64), R = sum over layers of 2 H. The rows of a tile are h_1 (H_1 of them), c_1 (H_1), h_2, c_2, ...;
coordinate q is lane q % 64 of tile q // 64. A row of a tile is four 64-byte vectors, and a tile of the paper's
optimizer 20 KiB, so that a core's cache holds it for the whole step. The lanes after the last coordinate are padding:
they are computed like the others, on a gradient of 0, and never read.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import agree
from .reference import Array, State, Weights

LANES = 64


def hidden_sizes(weights: Weights) -> tuple[int, ...]:
    """H of each layer."""
    return tuple(b.size // 4 for _, b in weights.layers)


def check_written(before: Any, after: Any, gradients: Sequence[Any], targets: Sequence[Any]) -> None:
    """ValueError or TypeError unless what a step writes is shaped as what it reads."""
    agree("step", before=(before, "k R L"), after=(after, "k R L"))
    for gradient, target in zip(gradients, targets, strict=True):
        agree("step", before=(before, "k R L"), target=(target, " ".join(map(str, gradient.shape))))


def zero_blocks(weights: Weights, n: int) -> Array:
    """The state before the first step, h = c = 0 for n coordinates, of the weights' dtype: (tiles, R, 64)."""
    return np.zeros_like(weights.W_out, shape=(math.ceil(n / LANES), 2 * sum(hidden_sizes(weights)), LANES))


def to_blocks(state: State, n: int, dtype: np.dtype) -> Array:
    """The blocks (tiles, R, 64) that hold a state of (h, c) pairs, each (n, H); padding is 0."""
    tiles = math.ceil(n / LANES)
    if not state:
        return np.zeros((tiles, 0, LANES), dtype)
    for k, (h, c) in enumerate(state):
        agree(f"to_blocks, layer {k}", h=(h, "n H"), c=(c, "n H"))
    rows = np.concatenate([part for layer in state for part in layer], axis=1)
    padding = np.zeros_like(rows, shape=(tiles * LANES - n, rows.shape[1]))
    flat = np.concatenate([rows, padding])
    return np.copy(np.transpose(np.reshape(flat, (tiles, LANES, rows.shape[1])), (0, 2, 1)), order="C")


def from_blocks(blocks: Array, sizes: tuple[int, ...], n: int) -> State:
    """The (h, c) pairs, each (n, H), that blocks of layers of these sizes hold."""
    rows = np.reshape(np.transpose(blocks, (0, 2, 1)), (blocks.shape[0] * LANES, blocks.shape[1]))[:n]
    ends = np.cumsum([size for H in sizes for size in (H, H)]).tolist()
    parts = np.split(rows, ends[:-1], axis=1) if sizes else []
    return tuple(zip(parts[::2], parts[1::2], strict=True))


def take(blocks: Array, chosen: Array) -> Array:
    """The blocks of the coordinates with these indices alone, int (K,): (ceil(K / 64), R, 64); padding is 0."""
    rows = blocks[chosen // LANES, :, chosen % LANES]
    tiles = math.ceil(len(chosen) / LANES)
    padding = np.zeros_like(rows, shape=(tiles * LANES - len(chosen), rows.shape[1]))
    whole = np.reshape(np.concatenate([rows, padding]), (tiles, LANES, rows.shape[1]))
    return np.copy(np.transpose(whole, (0, 2, 1)), order="C")


# ---- what every blocked backend needs ----


def check(operation: str, weights: Weights, blocks: Array, gradients: Array, p: float | None) -> None:
    """ValueError or TypeError unless gradients (T, n), blocks and weights fit together."""
    d = 1 if p is None else 2
    for k, (W, b) in enumerate(weights.layers):
        agree(f"{operation}, layer {k}", gradients=(gradients, "T n"), b=(b, f"{4 * (b.size // 4)}"), W=(W, "K G"))
        if W.shape != (d + b.size // 4, b.size):
            expected = (d + b.size // 4, b.size)
            raise ValueError(
                f"{operation}, layer {k}: W has shape {W.shape}, expected (d+H, 4H) = {expected}, where b is {b.shape}"
            )
        d = b.size // 4
    agree(operation, gradients=(gradients, "T n"), W_out=(weights.W_out, str(d)), b_out=(weights.b_out, ""))
    tiles, rows = -(-gradients.shape[1] // LANES), 2 * sum(hidden_sizes(weights))
    agree(operation, gradients=(gradients, "T n"), blocks=(blocks, f"{tiles} {rows} {LANES}"))


def check_cotangents(gradients: Array, d_updates: Array, blocks: Array, d_blocks: Array) -> None:
    """ValueError or TypeError unless each cotangent is shaped as its value."""
    agree("unroll_backward", gradients=(gradients, "T n"), d_updates=(d_updates, "T n"))
    agree("unroll_backward", blocks=(blocks, "k R L"), d_blocks=(d_blocks, "k R L"))


def padded(x: Array, blocks: Array) -> Array:
    """(..., n) -> (..., lanes), zero where there is no coordinate; a copy."""
    missing = blocks.shape[0] * LANES - x.shape[-1]
    return np.concatenate([x, np.zeros_like(x, shape=(*x.shape[:-1], missing))], axis=-1)


def gathered(leaves: Sequence[Array]) -> Array:
    """The coordinates of all leaves in one row; a copy."""
    return np.concatenate([np.reshape(leaf, (leaf.size,)) for leaf in leaves])


def scatter(row: Array, leaves: Sequence[Array], add: bool) -> None:
    """Write a row of coordinates back into the leaves, or add it to them."""
    start = 0
    for leaf in leaves:
        piece = np.reshape(row[start : start + leaf.size], leaf.shape)
        leaf[...] = leaf + piece if add else piece
        start += leaf.size


def flat_weights(weights: Weights) -> list[Array]:
    """W and b of each layer, W_out, b_out."""
    return [*(array for layer in weights.layers for array in layer), weights.W_out, weights.b_out]


def as_weights(arrays: Sequence[Array]) -> Weights:
    """The inverse of `flat_weights`."""
    return Weights(tuple(zip(arrays[:-2:2], arrays[1:-2:2], strict=True)), *arrays[-2:])
