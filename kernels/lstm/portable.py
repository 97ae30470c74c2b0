"""The reference behind the blocked layout, for arrays that follow NumPy's protocols without being NumPy's own."""

from collections.abc import Sequence

import numpy as np

from . import reference
from .blocks import LANES, from_blocks, hidden_sizes, to_blocks
from .reference import Array, State, Weights


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks)"""
    update, state = reference.step(weights, _whole(weights, blocks), _padded(gradient, blocks), scale, p)
    return update[: gradient.shape[0]], _packed(state, blocks)


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
    """One step in place: `after` becomes the next state, and each target the update of its gradient, or is moved by it."""
    flat = np.concatenate([np.reshape(g, (g.size,)) for g in gradients])
    update, after[...] = step(weights, before, flat, scale, p)
    start = 0
    for target in targets:
        piece = np.reshape(update[start : start + target.size], target.shape)
        target[...] = target + piece if add else piece
        start += target.size


def unroll_backward(
    weights: Weights,
    blocks: Array,
    gradients: Array,
    d_updates: Array,
    d_blocks: Array,
    scale: float = 1.0,
    p: float | None = 10,
    wrt_gradients: bool = False,
) -> tuple[Weights, Array, Array | None]:
    """(d_weights, d_blocks at the start, d_gradients (T, n) or None)"""
    padded = _padded(gradients, blocks), _padded(d_updates, blocks)
    state, d_state = _whole(weights, blocks), _whole(weights, d_blocks)
    d_weights, d_before, d_gradients = reference.unroll_backward(
        weights, state, *padded, d_state, scale, p, wrt_gradients
    )
    return d_weights, _packed(d_before, blocks), None if d_gradients is None else d_gradients[:, : gradients.shape[1]]


def _whole(weights: Weights, blocks: Array) -> State:
    """With the padding lanes."""
    return from_blocks(blocks, hidden_sizes(weights), blocks.shape[0] * LANES)


def _packed(state: State, like: Array) -> Array:
    return to_blocks(state, like.shape[0] * LANES, like.dtype) if state else like


def _padded(x: Array, blocks: Array) -> Array:
    missing = blocks.shape[0] * LANES - x.shape[-1]
    return np.concatenate([x, np.zeros_like(x, shape=(*x.shape[:-1], missing))], axis=-1)
