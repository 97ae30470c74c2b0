"""The LSTM optimizer's step on the CPU, compiled by Numba: one pass over coordinates, in parallel over tiles, float32.

The update and the new state are within 1e-6 of float64's for weights and states of the usual size. Values are those of
``tinymeta.kernels.lstm``, but that a gate no longer falls once its logistic function is 2^-40.
The first call compiles for this processor and keeps the result on disk; needs numba, ``pip install 'tinymeta[fast]'``.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from .. import agree, one_dtype
from ..simd import available, together
from .blocks import LANES, check, flat_weights, gathered, hidden_sizes
from .cpu_step import advance_tiles, pack
from .reference import Array, Weights, _checked

TILES_PER_THREAD = 8
"""Fewer are not worth the waking of a thread."""


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks) for gradient (n,) and blocks (tiles, R, 64)."""
    agree("step", gradient=(gradient, "n"))
    update, after = np.empty(gradient.shape, gradient.dtype), np.empty(blocks.shape, blocks.dtype)
    before, gradient = np.ascontiguousarray(blocks), np.ascontiguousarray(gradient)
    advance(weights, before, after, [gradient], [update], scale, p, add=False)
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
    gradient, or is moved by it if `add`.

    Blocks (tiles, R, 64); gradients are the leaves of a tree, whose coordinates in this order are the n of the blocks;
    a target has its gradient's shape, and may be it. All C-contiguous float32; after and targets are written to.
    TypeError on another dtype, ValueError on another shape or layout.
    """
    starts = np.array([0, *accumulate(g.size for g in gradients)], np.int64)
    _check_arrays(before, after, gradients, targets)
    _check_weights(weights, before, int(starts[-1]), p)
    sizes, d = hidden_sizes(weights), 1 if p is None else 2
    layers = np.array(sizes, np.int64)
    packed, _ = pack(gathered(flat_weights(weights)), d, layers)
    threads = max(1, min(available(), len(before) // TILES_PER_THREAD))
    scratch = np.empty((threads, LANES * (2 + d + sum(sizes))), np.float32)
    counter, run = np.zeros(1, np.int64), max(1, len(before) // (64 * threads))
    state, leaves = (_address(before), _address(after)), (_addresses(gradients), _addresses(targets))
    numbers = float(scale), float(p or 0), bool(add)

    def work(thread: int) -> None:
        row = -(-_address(scratch[thread]) // 64) * 64  # where its first whole vector begins
        advance_tiles(packed, d, layers, *state, *leaves, starts, *numbers, row, counter, run)

    together(work, threads)


def _check_arrays(before: Array, after: Array, gradients: Sequence[Array], targets: Sequence[Array]) -> None:
    if len(targets) != len(gradients):
        raise ValueError(f"advance: there are {len(targets)} targets, expected {len(gradients)}, one for each gradient")
    leaves = {f"gradients[{k}]": g for k, g in enumerate(gradients)}
    written = {"after": (after, before)} | {
        f"targets[{k}]": pair for k, pair in enumerate(zip(targets, gradients, strict=True))
    }
    arrays = {"before": before} | leaves | {name: x for name, (x, _) in written.items()}
    one_dtype("advance", **arrays)
    if before.dtype != np.float32:
        raise TypeError(
            f"advance: before is {before.dtype}, but the compiled step takes float32; use .astype(numpy.float32), or "
            "tinymeta.kernels.lstm.tiled for any float dtype"
        )
    for name, (x, like) in written.items():
        if x.shape != like.shape:
            raise ValueError(f"advance: {name} has shape {x.shape}, expected {like.shape}")
        if not x.flags.writeable:
            raise ValueError(f"advance: {name} is read-only, expected an array to write to; use .copy()")
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray):
            raise TypeError(
                f"advance: {name} is a {type(x).__name__}, expected an array, whose memory is read; use numpy.asarray"
            )
        if not x.flags.c_contiguous:
            raise ValueError(
                f"advance: {name} of shape {x.shape} has strides {x.strides}, expected a C-contiguous array; "
                "use numpy.ascontiguousarray"
            )


def _check_weights(weights: Weights, before: Array, n: int, p: float | None) -> None:
    """What `check` does, which takes longer than a step of a few tiles, and is asked only to say what is wrong."""
    if p is not None:
        _checked(p, before.dtype)
    sizes = hidden_sizes(weights)
    inputs = (1 if p is None else 2, *sizes)
    shapes = [shape for d, H in zip(inputs, sizes, strict=False) for shape in ((d + H, 4 * H), (4 * H,))]
    expected = [(shape, before.dtype) for shape in (*shapes, (inputs[-1],), ())]
    found = [(getattr(x, "shape", None), getattr(x, "dtype", None)) for x in flat_weights(weights)]
    if found != expected or before.shape != (-(-n // LANES), 2 * sum(sizes), LANES):
        check("advance", weights, before, np.broadcast_to(before.dtype.type(0), (1, n)), p)


def _address(array: Array) -> int:
    return array.__array_interface__["data"][0]


def _addresses(arrays: Sequence[Array]) -> Array:
    return np.array([_address(array) for array in arrays], np.int64)
