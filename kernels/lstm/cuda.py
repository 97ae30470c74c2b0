"""The LSTM optimizer in CUDA C (lstm.cu) through CuPy: float32 CuPy arrays in, CuPy arrays out, on the current stream.

A module is compiled for the sizes of the network on their first use; CuPy keeps it on disk. Sums over coordinates run
in a fixed order, so that a result is the same, bit for bit, each time on one model of GPU.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import agree
from .blocks import check_cotangents, check_written, gathered, scatter
from .gpu import Sizes, check_contiguous, flatten, plan, preprocessing, sizes_of, unflatten
from .reference import Weights

Array = Any  # cupy.ndarray
OPTIONS = ("-std=c++17", "--fmad=false")  # no products and sums joined but by fmaf: the same bits as on the host


def step(
    weights: Weights, blocks: Array, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(update (n,), new blocks)"""
    agree("step", gradient=(gradient, "n"))
    update, after = np.empty_like(gradient, order="C"), np.empty_like(blocks, order="C")
    _forward("step", weights, blocks, after, gradient[None], update, scale, p, add=False)
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
    gradient, or is moved by it if `add`. Several leaves are gathered for the kernel, 1 % of the memory it moves."""
    check_written(before, after, gradients, targets)
    check_contiguous(after)
    if len(targets) == 1 and targets[0].flags.c_contiguous:
        _forward("step", weights, before, after, gradients[0].reshape(1, -1), targets[0], scale, p, add)
        return
    flat = gathered(gradients)
    update = np.empty_like(flat)
    _forward("step", weights, before, after, flat[None], update, scale, p, add=False)
    scatter(update, targets, add)


def unroll_forward(
    weights: Weights, blocks: Array, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, Array]:
    """(updates (T, n), blocks after T steps) on constant gradients (T, n)."""
    updates, after = np.empty_like(gradients, order="C"), blocks.copy(order="C")
    _forward("unroll_forward", weights, after, after, gradients, updates, scale, p, add=False)
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

    `memory` bounds the bytes of the states held at once, see `gpu.plan`; by default all steps of the tiles in work.
    """
    _on_gpu("unroll_backward", blocks=blocks, gradients=gradients, d_updates=d_updates, d_blocks=d_blocks)
    sizes = sizes_of("unroll_backward", weights, blocks, gradients, p)
    check_cotangents(gradients, d_updates, blocks, d_blocks)
    d_before = d_blocks.copy(order="C")
    d_gradients = np.empty_like(gradients, order="C") if wrt_gradients else None
    if 0 in gradients.shape:
        return unflatten(np.zeros_like(gradients, shape=sizes.weights), weights), d_before, d_gradients
    blocks_at_once, segment, states = plan(sizes, _prepared("backward", sizes).resident, memory)
    order, inverse = _order(sizes)
    sums = np.empty_like(gradients, shape=(blocks_at_once, order.size))
    held = np.empty_like(gradients, shape=(blocks_at_once, states, sizes.state_bytes // 4))
    _launch(
        "backward", sizes, blocks_at_once,
        flatten(weights)[order], _c(blocks), _c(gradients), _c(d_updates), d_before,
        sums if d_gradients is None else d_gradients,  # not written if not asked for
        sums, held,
        np.int64(sizes.tiles), np.int64(sizes.n), np.int32(sizes.T), np.int32(segment),
        np.int32(wrt_gradients), np.float32(scale), *preprocessing(p),
    )  # fmt: skip
    total = np.empty_like(gradients, shape=order.size)
    _launch("reduce", sizes, -(-order.size // threads("reduce", sizes)), sums, total, np.int32(blocks_at_once))
    return unflatten(total[inverse], weights), d_before, d_gradients


def _forward(
    operation: str,
    weights: Weights,
    before: Array,
    after: Array,
    gradients: Array,
    targets: Array,
    scale: float,
    p: float | None,
    add: bool,
) -> None:
    _on_gpu(operation, W_out=weights.W_out, blocks=before, gradients=gradients)
    sizes = sizes_of(operation, weights, before, gradients, p)
    if 0 in gradients.shape:
        return
    _launch(
        "forward", sizes, min(sizes.tiles, _prepared("forward", sizes).resident),
        flatten(weights)[_order(sizes)[0]], _c(before), after, _c(gradients), targets,
        np.int64(sizes.tiles), np.int64(sizes.n), np.int32(sizes.T), np.int32(add), np.float32(scale), *preprocessing(p),
    )  # fmt: skip


def _on_gpu(operation: str, **arrays: Any) -> None:
    import cupy

    for name, array in arrays.items():
        if not isinstance(array, cupy.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"{operation}: {name} is a {kind}, expected a cupy.ndarray; use cupy.asarray")


def _c(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")


# ---- the layout that the kernels expect ----


def packing(sizes: Sizes) -> np.ndarray:
    """Indices into the row of `flatten`, in the order of tile.cuh: per layer (H, K, 4) with b as the last of K inputs,
    then W_out and b_out, then any weight up to a multiple of 4."""
    parts, start = [], 0
    for d, H in zip(sizes.widths, sizes.hidden, strict=False):
        natural = start + np.arange((d + H + 1) * 4 * H).reshape(d + H + 1, 4, H)
        parts.append(natural.transpose(2, 0, 1).reshape(-1))
        start += natural.size
    parts.append(np.arange(start, sizes.weights))
    return np.pad(np.concatenate(parts), (0, -sizes.weights % 4))


def shared_bytes(kernel: str, sizes: Sizes, in_shared: int) -> int:
    """Of the shared memory that a block of a kernel needs: tile.cuh and backward.cuh, in 16-byte Fours."""
    weights = -(-sizes.weights // 4)
    inputs = 16 * (sum(d + H + 1 for d, H in zip(sizes.widths, sizes.hidden, strict=False)) or sizes.features)
    forward = weights * (in_shared >= 1) + inputs
    backward = 16 * (4 * max(sizes.hidden, default=0) + sizes.features + 1) + weights * (in_shared >= 2)
    return 16 * {"forward": forward, "backward": forward + backward, "reduce": 0}[kernel]


def threads(kernel: str, sizes: Sizes) -> int:
    """Of a block: one for each unit of the widest layer and 8 coordinates, in whole warps, from 64 to 256."""
    return 256 if kernel == "reduce" else min(256, max(64, 8 * max(sizes.widths) + 31 & ~31))


def tuned() -> dict[str, tuple[int, int]]:
    """(threads, bytes of dynamic shared memory) of a block of each kernel, as the .cu compiles without options."""
    sizes = Sizes((20, 20), 2, 0, 0)
    return {
        kernel: (threads(kernel, sizes), shared_bytes(kernel, sizes, 2)) for kernel in ("forward", "backward", "reduce")
    }


# ---- launching ----


class Launch(NamedTuple):
    """A kernel's function, compiled for one network, and how its blocks run."""

    function: Any
    threads: int
    shared: int
    resident: int


def _launch(kernel: str, sizes: Sizes, blocks: int, *arguments: Any) -> None:
    launch = _prepared(kernel, sizes)
    launch.function((blocks,), (launch.threads,), arguments, shared_mem=launch.shared)


def _prepared(kernel: str, sizes: Sizes) -> Launch:
    import cupy

    return _prepare(kernel, sizes._replace(T=0, n=0), cupy.cuda.runtime.getDevice())


@cache
def _prepare(kernel: str, sizes: Sizes, device: int) -> Launch:
    import cupy

    limits = cupy.cuda.Device(device).attributes
    room = limits["MaxSharedMemoryPerBlockOptin"]
    in_shared = max((k for k in range(3) if shared_bytes(kernel, sizes, k) <= room), default=None)
    if in_shared is None:
        raise ValueError(
            f"lstm.cuda: layers of {sizes.hidden} units need {shared_bytes(kernel, sizes, 0)} bytes of shared memory, "
            f"expected {room} or less, all that a block of this GPU has; use tinymeta.kernels.lstm.portable"
        )
    function = _module(sizes, in_shared, device).get_function(kernel)
    function.max_dynamic_shared_size_bytes = shared = shared_bytes(kernel, sizes, in_shared)
    per_block = threads(kernel, sizes)
    by_registers = limits["MaxRegistersPerMultiprocessor"] // (per_block * (function.num_regs + 7 & ~7))
    by_memory = limits["MaxSharedMemoryPerMultiprocessor"] // (shared + 1024)  # 1 KiB of each block is the system's
    by_threads = limits["MaxThreadsPerMultiProcessor"] // per_block
    resident = limits["MultiProcessorCount"] * max(1, min(by_registers, by_memory, by_threads))
    return Launch(function, per_block, shared, resident)


@cache
def _module(sizes: Sizes, in_shared: int, device: int) -> Any:
    import cupy

    return cupy.RawModule(code=source(sizes, in_shared), options=OPTIONS)


def source(sizes: Sizes, in_shared: int) -> str:
    """lstm.cu for networks of these sizes, its headers in their places: a running program's compiler reads one text."""
    folder = Path(__file__).parent

    def text(name: str) -> str:  # no header is included twice
        body = (folder / name).read_text().replace("#pragma once\n", "")
        return re.sub(r'#include "(.+)"\n', lambda match: text(match[1]), body)

    hidden = ", ".join(map(str, sizes.hidden))
    given = f"#define FEATURES {sizes.features}\n#define SIZES {hidden}\n#define IN_SHARED {in_shared}\n"
    return given + text("lstm.cu")


def _order(sizes: Sizes) -> tuple[Array, Array]:
    """`packing` and its inverse, on the device."""
    import cupy

    return _order_on(sizes._replace(T=0, n=0), cupy.cuda.runtime.getDevice())


@cache
def _order_on(sizes: Sizes, device: int) -> tuple[Array, Array]:
    import cupy

    order = packing(sizes)
    return cupy.asarray(order), cupy.asarray(np.argsort(order[: sizes.weights]))
