"""The reference behind the blocked layout, for arrays that follow NumPy's protocols without being NumPy's own."""

from collections.abc import Sequence

from . import reference
from .blocks import LANES, check_written, from_blocks, gathered, hidden_sizes, padded, scatter, to_blocks
from .reference import Array, State, Weights


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks)"""
    update, state = reference.step(weights, _whole(weights, blocks), padded(gradient, blocks), scale, p)
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
    check_written(before, after, gradients, targets)
    update, after[...] = step(weights, before, gathered(gradients), scale, p)
    scatter(update, targets, add)


def unroll_forward(
    weights: Weights, blocks: Array, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(updates (T, n), blocks after T steps) on constant gradients (T, n)."""
    known = _whole(weights, blocks), padded(gradients, blocks)
    updates, state = reference.unroll_forward(weights, *known, scale, p)
    return updates[:, : gradients.shape[1]], _packed(state, blocks)


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
    """(d_weights, d_blocks at the start, d_gradients (T, n) or None); all activations are stored, whatever `memory` says."""
    known = padded(gradients, blocks), padded(d_updates, blocks)
    state, d_state = _whole(weights, blocks), _whole(weights, d_blocks)
    d_weights, d_before, d_gradients = reference.unroll_backward(
        weights, state, *known, d_state, scale, p, wrt_gradients
    )
    return d_weights, _packed(d_before, blocks), None if d_gradients is None else d_gradients[:, : gradients.shape[1]]


def _whole(weights: Weights, blocks: Array) -> State:
    """With the padding lanes."""
    return from_blocks(blocks, hidden_sizes(weights), blocks.shape[0] * LANES)


def _packed(state: State, like: Array) -> Array:
    return to_blocks(state, like.shape[0] * LANES, like.dtype) if state else like
