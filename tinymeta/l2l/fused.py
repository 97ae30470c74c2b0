"""The network m of section 2.1 as one engine op on the blocked state, and its truncated backpropagation through time.

`lstm_step` runs a fused kernel of `tinymeta.kernels.lstm` for its value and its VJP; further derivatives (the dashed edges of the
paper's Fig. 2) go through `lstm_step_composed`, the same step in public ops.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from .. import ops
from ..engine.backend import choose, float32_only
from ..kernels.lstm import State, Weights
from ..kernels.lstm.blocks import LANES, as_weights, flat_weights, from_blocks, hidden_sizes, padded
from ..ops.kernel import kernel
from .network import propose


def advance(
    weights: Weights, blocks: Any, gradients: Sequence[Any], scale: float, p: float | None, in_place: bool
) -> tuple[list[Any], Any]:
    """(one update per gradient, the next state) of plain arrays; `in_place` writes the next state over `blocks`."""
    step = choose("lstm step", _table("advance", "cpu"), [blocks, *gradients])
    # a scalar of NumPy's, which tm.grad gives for a number, has no memory of its own to read from
    leaves = [np.require(g, requirements="C") if isinstance(g, (np.ndarray, np.generic)) else g for g in gradients]
    flat = np.empty_like(blocks, shape=sum(g.size for g in leaves))
    after = blocks if in_place else np.empty_like(blocks)
    updates = cut(flat, gradients)
    step(weights, blocks, after, leaves, updates, scale, p, add=False)
    return updates, after


def cut(flat: Any, like: Sequence[Any]) -> list[Any]:
    """Pieces of a flat array in the shapes of the arrays `like`."""
    ends = np.cumsum([int(np.prod(x.shape)) for x in like]).tolist()
    return [ops.reshape(piece, x.shape) for piece, x in zip(ops.split(flat, ends[:-1]), like, strict=True)]


def weights_gradient(
    weights: Weights,
    blocks: Any,
    gradients: Any,
    d_updates: Any,
    scale: float,
    p: float | None,
    memory: int | None = None,
) -> Weights:
    """dL/dφ (a Weights) of an unroll from `blocks` on the constant gradients (T, n), from dL/dg_t (T, n).

    `memory` is that of the kernel's `unroll_backward`: bytes of activations to hold at a time. Others are computed anew.
    """
    if memory is not None and memory < 0:
        raise ValueError(
            f"weights_gradient: memory is {memory}, expected a number of bytes, or None for what is fastest"
        )
    backward = choose("lstm unroll", _table("unroll_backward", "cpu_unroll"), [blocks, gradients])
    return backward(weights, blocks, gradients, d_updates, np.zeros_like(blocks), scale, p, memory=memory)[0]


@functools.cache
def _table(name: str, numba_module: str) -> dict[str, Callable]:
    return {
        "numpy": _on_numpy(name),
        "numba": float32_only(_lazily(numba_module, name)),
        "cuda": float32_only(_lazily("cuda", name)),
    }


def _on_numpy(name: str) -> Callable:
    """Tiles of NumPy's own arrays; the reference for other arrays that follow its protocols."""
    tiled, portable = _lazily("tiled", name), _lazily("portable", name)

    def call(weights: Weights, blocks: Any, *args: Any, **kwargs: Any) -> Any:
        return (tiled if isinstance(blocks, np.ndarray) else portable)(weights, blocks, *args, **kwargs)

    return call


def _lazily(module: str, name: str) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f"tinymeta.kernels.lstm.{module}"), name)(*args, **kwargs)

    return call


# ---- the engine op ----


def lstm_step_composed(gradient: Any, blocks: Any, *arrays: Any, scale: float, p: float | None) -> tuple[Any, Any]:
    """[g_t, h_{t+1}] = m(∇_t, h_t, φ): gradient (n,), blocks (tiles, R, 64), the arrays of φ in order -> (update, new blocks)."""
    weights = as_weights(arrays)
    state = from_blocks(blocks, hidden_sizes(weights), blocks.shape[0] * LANES)
    update, state = propose(weights, state, padded(gradient, blocks), scale, p)
    return update[: gradient.shape[0]], to_blocks(state, blocks)


def to_blocks(state: State, like: Any) -> Any:
    """The inverse of `from_blocks` in public ops: the (h, c) pairs in the shape of the blocks `like`."""
    if not state:
        return like
    rows = ops.concatenate([part for layer in state for part in layer], axis=1)
    return ops.transpose(ops.reshape(rows, (like.shape[0], LANES, like.shape[1])), (0, 2, 1))


def _forward(step: Callable) -> Callable:
    return lambda gradient, blocks, *arrays, scale, p: step(as_weights(arrays), blocks, gradient, scale, p)


def _vjp(backward: Callable) -> Callable:
    def vjp(d_out: tuple, gradient: Any, blocks: Any, *arrays: Any, scale: float, p: float | None) -> tuple:
        d_update, d_blocks = d_out
        d_weights, d_before, d_gradients = backward(
            as_weights(arrays), blocks, gradient[None], d_update[None], d_blocks, scale, p, wrt_gradients=True
        )
        return (d_gradients[0], d_before, *flat_weights(d_weights))

    return vjp


def _marked(wrap: Callable, table: dict[str, Callable]) -> dict[str, Callable]:
    return {backend: functools.wraps(f)(wrap(f)) for backend, f in table.items()}  # keeps the mark float32_only


lstm_step = kernel(
    "lstm_step",
    lstm_step_composed,
    forward=_marked(_forward, _table("step", "cpu")),
    vjp=_marked(_vjp, _table("unroll_backward", "cpu_unroll")),
)
