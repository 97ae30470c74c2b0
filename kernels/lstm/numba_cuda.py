# mypy: disable-error-code="call-overload,call-arg,var-annotated,index"
"""The GPU kernels to read, on numba.cuda: float32 NumPy arrays in, NumPy arrays out.

The algorithm of lstm.cu, laid out for the eye: a block of threads works on one tile of 64 coordinates at a time, with
the weights in shared memory; a thread runs one coordinate through all layers; only sums over coordinates make the
threads of a tile meet. Runs on a GPU, or anywhere in Numba's simulator (NUMBA_ENABLE_CUDASIM=1). Steps are numbered
as in ``tinymeta.kernels.lstm``, and B6 to B1 as in reference.py.

A column is one coordinate's part of an array (rows, 64). Of ``inputs`` it holds, layer by layer, u = [x, h, 1], so
that b is the last of K = d + H + 1 rows of a weight (K, 4H), and at its end the input of the output; of ``gates``
i, f, g, o, and on the way back d_z; of ``cotangents`` d_x and d_out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import cuda, float32

from .. import agree
from .blocks import LANES, check_cotangents, check_written, gathered, scatter
from .gpu import Sizes, check_contiguous, flatten, plan, preprocessing, sizes_of, unflatten
from .reference import Array, Weights

BLOCKS = 256  # of threads at once; fixed, so that sums over coordinates are the same bits on every GPU
SHARED = 48 << 10  # bytes of shared memory that any GPU gives a block
ZERO, ONE = np.float32(0), np.float32(1)  # a Python number would turn float32 into float64


# ---- one coordinate, forward ----


@cuda.jit(device=True)
def _features(g, p, seam, slope, u, features):  # S1
    if features == 1:
        u[0] = g
    elif abs(g) >= seam:
        u[0], u[1] = math.log(abs(g)) / p, math.copysign(ONE, g)
    else:
        u[0], u[1] = -ONE, slope * g


@cuda.jit(device=True)
def _sigmoid(z):
    e = math.exp(-abs(z))
    return (ONE if z >= ZERO else e) / (ONE + e)


@cuda.jit(device=True)
def _cells(widths, weights, u, gates, before, after):
    """S2 for one coordinate: all arguments but widths and weights are columns; `after` may be `before`."""
    x = w = s = z = 0  # where the layer starts in u, weights, the state and the gates
    for layer in range(widths.size - 1):
        d, H = widths[layer], widths[layer + 1]
        K = d + H + 1
        for j in range(H):
            u[x + d + j] = before[s + j]  # 1: u = [x, h], and 1
        u[x + d + H] = ONE
        for r in range(4 * H):
            total = ZERO
            for k in range(K):
                total += weights[w + k * 4 * H + r] * u[x + k]  # 2: z = u W + b
            gates[z + r] = math.tanh(total) if r // H == 2 else _sigmoid(total)  # 3
        for j in range(H):
            i, f, g, o = gates[z + j], gates[z + H + j], gates[z + 2 * H + j], gates[z + 3 * H + j]
            c = f * before[s + H + j] + i * g  # 4
            h = o * math.tanh(c)  # 5, 6
            after[s + H + j], after[s + j] = c, h
            u[x + K + j] = h  # the x of the layer above, or the input of the output
        x, w, s, z = x + K, w + 4 * H * K, s + 2 * H, z + 4 * H


@cuda.jit(device=True)
def _output(widths, weights, u):  # S3
    top = widths[widths.size - 1]
    w, x = weights.size - top - 1, u.size - top
    out = weights[w + top]
    for j in range(top):
        out += u[x + j] * weights[w + j]
    return out


# ---- one coordinate, backward ----


@cuda.jit(device=True)
def _cells_backward(widths, weights, gates, before, after, d_state, d_out, d_x):
    """The transposed derivative of S3 and S2 for one coordinate: d_state, the cotangent of `after`, becomes that of
    `before`; the gates become d_z."""
    layers, top = widths.size - 1, widths[widths.size - 1]
    w, s, z = weights.size - top - 1, before.size, gates.size
    for j in range(top):
        d = d_out * weights[w + j]  # of S3: update = scale (h' W_out + b_out)
        if layers:
            d_state[s - 2 * top + j] += d
        else:
            d_x[j] = d
    for layer in range(layers - 1, -1, -1):
        d, H = widths[layer], widths[layer + 1]
        w, s, z = w - 4 * H * (d + H + 1), s - 2 * H, z - 4 * H
        for j in range(H):
            i, f, g, o = gates[z + j], gates[z + H + j], gates[z + 2 * H + j], gates[z + 3 * H + j]
            t, d_h_new = math.tanh(after[s + H + j]), d_state[s + j]
            d_o, d_t = d_h_new * t, d_h_new * o  # B6, of 6: h' = o t
            d_c_new = d_state[s + H + j] + d_t * (ONE - t * t)  # B5, of 5: t = tanh(c')
            d_i, d_f, d_g = d_c_new * g, d_c_new * before[s + H + j], d_c_new * i  # B4, of 4: c' = f c + i g
            d_state[s + H + j] = d_c_new * f
            gates[z + j], gates[z + H + j] = d_i * (i * (ONE - i)), d_f * (f * (ONE - f))  # B3, of 3: i, f, g, o
            gates[z + 2 * H + j], gates[z + 3 * H + j] = d_g * (ONE - g * g), d_o * (o * (ONE - o))
        for k in range(d + H):
            d_u = ZERO
            for r in range(4 * H):
                d_u += gates[z + r] * weights[w + k * 4 * H + r]  # B2, of 2: z = u W + b
            if k >= d:  # B1, of 1: u = [x, h]
                d_state[s + k - d] = d_u
            elif layer:
                d_state[s - 2 * d + k] += d_u
            else:
                d_x[k] = d_u


@cuda.jit(device=True)
def _features_vjp(d_x, g, p, seam, slope, features):  # of S1
    if features == 1:
        return d_x[0]
    return d_x[0] / g / p if abs(g) >= seam else slope * d_x[1]


# ---- a tile ----


@cuda.jit(device=True)
def _add_weights(widths, inputs, gates, d_out, sums):
    """B2: sums += u^T d_z over the tile, each of the 64 threads a part of the weights."""
    lane = cuda.threadIdx.x
    x = w = z = 0
    for layer in range(widths.size - 1):
        H = widths[layer + 1]
        K = widths[layer] + H + 1
        for e in range(lane, 4 * H * K, LANES):
            k, r = e // (4 * H), e % (4 * H)
            total = ZERO
            for q in range(LANES):
                total += inputs[x + k, q] * gates[z + r, q]
            sums[w + e] += total
        x, w, z = x + K, w + 4 * H * K, z + 4 * H
    top = widths[widths.size - 1]
    for j in range(lane, top + 1, LANES):  # of S3
        total = ZERO
        for q in range(LANES):
            total += (inputs[x + j, q] if j < top else ONE) * d_out[q]
        sums[w + j] += total


@cuda.jit(device=True)
def _load(weights, shared):
    for e in range(cuda.threadIdx.x, weights.size, LANES):
        shared[e] = weights[e]
    cuda.syncthreads()


# ---- kernels ----


@cuda.jit
def _forward(widths, flat, before, after, gradients, targets, inputs, gates, add, scale, p, seam, slope):
    """T steps. inputs, gates (blocks, rows, 64) are room to work in; a target receives the update, or is added to."""
    weights = cuda.shared.array(0, float32)
    _load(flat, weights)
    weights = weights[: flat.size]
    lane = cuda.threadIdx.x
    T, n = gradients.shape
    u, z = inputs[cuda.blockIdx.x, :, lane], gates[cuda.blockIdx.x, :, lane]
    for tile in range(cuda.blockIdx.x, before.shape[0], cuda.gridDim.x):
        q = tile * LANES + lane
        for t in range(T):
            g = gradients[t, q] if q < n else ZERO
            _features(g, p, seam, slope, u, widths[0])
            old = before[tile, :, lane] if t == 0 else after[tile, :, lane]
            _cells(widths, weights, u, z, old, after[tile, :, lane])
            if q < n:
                update = scale * _output(widths, weights, u)
                targets[t, q] = targets[t, q] + update if add else update


@cuda.jit(device=True)
def _slot(t, segment, kept):
    """Where the state before step t is held."""
    return kept + t % segment - 1 if t % segment else t // segment


@cuda.jit
def _backward(
    widths, flat, blocks, gradients, d_updates, d_blocks, d_gradients, sums, held, inputs, gates, cotangents, segment,
    scale, p, seam, slope,
):  # fmt: skip
    """The unroll backwards; held (blocks, states, R, 64) has the states at the segments' starts, then those of one.

    A first sweep keeps the starts. Then, from the last segment to the first, its states are computed again and walked
    backwards.
    """
    weights = cuda.shared.array(0, float32)
    _load(flat, weights)
    weights = weights[: flat.size]
    block, lane = cuda.blockIdx.x, cuda.threadIdx.x
    u, z, d_x, d_out = inputs[block, :, lane], gates[block, :, lane], cotangents[block, 1:, lane], cotangents[block, 0]
    mine = held[block, :, :, lane]
    T, n = gradients.shape
    kept = (T + segment - 1) // segment
    for tile in range(block, blocks.shape[0], cuda.gridDim.x):
        q, d_state = tile * LANES + lane, d_blocks[tile, :, lane]
        for row in range(blocks.shape[1]):
            mine[0, row] = blocks[tile, row, lane]
        for t in range((kept - 1) * segment):
            _features(gradients[t, q] if q < n else ZERO, p, seam, slope, u, widths[0])
            _cells(widths, weights, u, z, mine[_slot(t, segment, kept)], mine[_slot(t + 1, segment, kept)])
        for start in range((kept - 1) * segment, -1, -segment):
            end = start + segment if start + segment < T else T
            for t in range(start, end):
                _features(gradients[t, q] if q < n else ZERO, p, seam, slope, u, widths[0])
                _cells(widths, weights, u, z, mine[_slot(t, segment, kept)], mine[kept + t - start])
            for t in range(end - 1, start - 1, -1):
                before, after = mine[_slot(t, segment, kept)], mine[kept + t - start]
                g = gradients[t, q] if q < n else ZERO
                d_out[lane] = scale * d_updates[t, q] if q < n else ZERO
                _features(g, p, seam, slope, u, widths[0])
                _cells(widths, weights, u, z, before, after)  # fills u and the gates again
                _cells_backward(widths, weights, z, before, after, d_state, d_out[lane], d_x)
                if q < n and d_gradients.size:
                    d_gradients[t, q] = _features_vjp(d_x, g, p, seam, slope, widths[0])
                cuda.syncthreads()
                _add_weights(widths, inputs[block], gates[block], d_out, sums[block])
                cuda.syncthreads()


@cuda.jit
def _reduce(sums, d_weights):
    """d_weights = the sum of the rows of sums, always in the same order."""
    index = cuda.grid(1)
    if index < d_weights.size:
        total = ZERO
        for block in range(sums.shape[0]):
            total += sums[block, index]
        d_weights[index] = total


# ---- the functions of every backend ----


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks)"""
    agree("step", gradient=(gradient, "n"))
    update, after = np.empty_like(gradient), np.empty_like(blocks)
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
    check_written(before, after, gradients, targets)
    check_contiguous(after)
    flat, moved = gathered(gradients), gathered(targets)[None]
    moved[...], after[...] = _run_forward("step", weights, before, flat[None], moved, scale, p, add)
    scatter(moved[0], targets, add=False)  # the kernel has added


def unroll_forward(
    weights: Weights, blocks: Array, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(updates (T, n), blocks after T steps) on constant gradients (T, n)."""
    updates = np.empty_like(gradients)
    return _run_forward("unroll_forward", weights, blocks, gradients, updates, scale, p, False)


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

    `memory` bounds the bytes of the states held at once, see `gpu.plan`; by default all steps of the tiles in work.
    """
    sizes = sizes_of("unroll_backward", weights, blocks, gradients, p)
    check_cotangents(gradients, d_updates, blocks, d_blocks)
    if 0 in gradients.shape:
        zeros = unflatten(np.zeros_like(gradients, shape=sizes.weights), weights)
        return zeros, d_blocks.copy(), np.empty_like(gradients) if wrt_gradients else None
    count, segment, states = plan(sizes, BLOCKS, memory)
    d_before, d_gradients = _to_gpu(d_blocks), _room(*(gradients.shape if wrt_gradients else (0, 0)))
    sums, total = cuda.to_device(np.zeros((count, sizes.weights), np.float32)), _room(sizes.weights)
    _launch(
        _backward, sizes, count, weights, _to_gpu(blocks), _to_gpu(gradients), _to_gpu(d_updates), d_before, d_gradients,
        sums, _room(count, states, blocks.shape[1], LANES), *_columns(sizes, count),
        _room(count, 1 + sizes.features, LANES), segment, np.float32(scale), *preprocessing(p),
    )  # fmt: skip
    _reduce[math.ceil(sizes.weights / LANES), LANES](sums, total)
    d_weights = unflatten(total.copy_to_host(), weights)
    return d_weights, d_before.copy_to_host(), d_gradients.copy_to_host() if wrt_gradients else None


def _run_forward(
    operation: str,
    weights: Weights,
    before: Array,
    gradients: Array,
    targets: Array,
    scale: float,
    p: float | None,
    add: bool,
) -> tuple[Array, Array]:
    """(targets, the state after)"""
    sizes = sizes_of(operation, weights, before, gradients, p)
    if 0 in gradients.shape:
        return targets, before.copy()
    count = min(sizes.tiles, BLOCKS)
    state, moved = _to_gpu(before), _to_gpu(targets)
    _launch(
        _forward, sizes, count, weights, state, state, _to_gpu(gradients), moved, *_columns(sizes, count), add,
        np.float32(scale), *preprocessing(p),
    )  # fmt: skip
    return moved.copy_to_host(), state.copy_to_host()


def _launch(kernel: Callable, sizes: Sizes, count: int, weights: Weights, *arguments: Any) -> None:
    shared = 4 * sizes.weights
    if shared > SHARED:
        raise ValueError(
            f"lstm.numba_cuda: layers of {sizes.hidden} units have {sizes.weights} weights, expected {SHARED // 4} or "
            "less, all that fit in shared memory; use tinymeta.kernels.lstm.cuda"
        )
    widths, flat = cuda.to_device(np.array(sizes.widths)), _to_gpu(flatten(weights))
    kernel[count, LANES, 0, shared](widths, flat, *arguments)


def _columns(sizes: Sizes, count: int) -> tuple[Any, Any]:
    """Room for the inputs and the gates of each thread block."""
    rows = sum(d + H + 1 for d, H in zip(sizes.widths, sizes.hidden, strict=False)) + sizes.widths[-1]
    return _room(count, rows, LANES), _room(count, 4 * sum(sizes.hidden), LANES)


def _room(*shape: int) -> Any:
    return cuda.device_array(shape, np.float32)


def _to_gpu(array: Array) -> Any:
    return cuda.to_device(np.array(array, order="C"))
