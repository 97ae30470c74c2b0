"""Fisher diagonals in CUDA C (fisher.cu) through CuPy: float32 or float64 CuPy arrays, on the current stream.

``linear``, ``linear_exact``, ``linear_time`` and ``conv`` are CUDA C, with squares taken on the way into its products;
a network's other products are CuPy's, a chunk of samples at a time. Sums over samples are in float64, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import agree
from . import chunked
from .arguments import check_network
from .chunked import batch_norm, bias, label_scores, sample_labels
from .reference import forward, scores, scores_reduced

__all__ = [
    "batch_norm", "bias", "conv", "label_scores", "linear", "linear_exact", "linear_time", "mlp_fisher", "sample_labels",
    "scores", "scores_reduced",
]  # fmt: skip
Array = Any  # cupy.ndarray
OPTIONS = ("-std=c++17",)
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
TILE, DEPTH, THREADS = 64, 16, 256
BLOCKS_PER_MULTIPROCESSOR = 8


def linear(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (5)."""
    agree("linear", A=(A, "N I"), D=(D, "N O"))
    F = _linear("linear", A, D[None])
    return F[:-1], F[-1]


def linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (6)."""
    agree("linear_exact", A=(A, "N I"), S=(S, "V N O"))
    F = _linear("linear_exact", A, S)
    return F[:-1], F[-1]


def linear_time(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (7)."""
    agree("linear_time", A=(A, "N T I"), D=(D, "N T O"))
    D = D.swapaxes(1, 2)
    return _positions("linear_time", A.swapaxes(1, 2), D), bias(D)


def conv(U: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (O, K), F_b (O,)) of (8)."""
    agree("conv", U=(U, "N K L"), D=(D, "N O L"))
    return _positions("conv", D, U), bias(D)


def mlp_fisher(
    params: Sequence[tuple[Array, Array]],
    x: Array,
    labels: Array | None = None,
    activation: str = "relu",
    kind: str = "exact",
    uniforms: Array | None = None,
    batch_size: int = 1,
) -> list[tuple[Array, Array]]:
    """Per layer (F_W (I, O), F_b (O,)), means over the samples; arguments are those of the reference."""
    sizes = check_network(params, x, labels, activation, kind, uniforms, batch_size)
    _check_kind("mlp_fisher", x=x)
    if kind == "batched":
        return chunked.mlp_fisher(params, x, labels, activation, kind, uniforms, batch_size)
    given, columns = uniforms if kind == "sampled" else labels, sizes[-1] if kind == "exact" else 1
    chunks = list(chunked.chunks_of(len(x), chunked.fitting(MEMORY, x.dtype, 2 * columns * max(sizes)))) or [slice(0)]
    totals: list[Array] = []
    for rows in chunks:
        inputs, logits = forward(params, x[rows], activation)
        S = chunked.COLUMNS[kind](logits, None if given is None else given[rows])
        backward = chunked.cotangents(params, inputs, S, activation)
        sums = [_linear("mlp_fisher", A, D) for A, D in zip(reversed(inputs), backward, strict=True)]
        if len(chunks) > 1:
            wide = [F.astype(np.float64) for F in sums]
            sums = [total + F for total, F in zip(totals, wide, strict=True)] if totals else wide
        totals = sums
    means = [(total / max(1, len(x))).astype(x.dtype, copy=False) for total in reversed(totals)]
    return [(F[:-1], F[-1]) for F in means]


MEMORY = 1 << 28
"""Bytes that the cotangents of a chunk of a network's samples may have."""


def _linear(operation: str, A: Array, S: Array) -> Array:
    """F (I + 1, O), its last row the bias."""
    _check_kind(operation, A=A, S=S)
    V, N, O = S.shape
    I = A.shape[1]
    F = np.empty_like(A, shape=(I + 1, O), order="C")
    _launch("linear", F, _contiguous(A), _contiguous(S), F, V, N, I, O)
    return F


def _positions(operation: str, X: Array, Y: Array) -> Array:
    """sum_n (X_n Y_n^T)^2 of X (N, P, L) and Y (N, Q, L)."""
    _check_kind(operation, X=X, Y=Y)
    if not all(_steps(x) for x in (X, Y)):
        X, Y = _contiguous(X), _contiguous(Y)
    N, P, L = X.shape
    F = np.empty_like(X, shape=(P, Y.shape[1]), order="C")
    _launch("positions", F, X, Y, F, N, *F.shape, L, *_steps(X), *_steps(Y))
    return F


def _steps(array: Array) -> list[int]:
    """Strides in entries; nothing if they are no whole numbers of them, or negative."""
    steps = [stride // array.itemsize for stride in array.strides]
    exact = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    return steps if exact else []


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")


def _check_kind(operation: str, **arrays: Any) -> None:
    import cupy

    for name, array in arrays.items():
        if not isinstance(array, cupy.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"{operation}: {name} is a {kind}, expected a cupy.ndarray; use cupy.asarray")
        if array.dtype not in REAL:
            raise TypeError(f"{operation}: {name} is {array.dtype}, expected float32 or float64; use .astype")


# ---- launching ----


def _launch(kernel: str, F: Array, *arguments: Any) -> None:
    import cupy

    if F.size == 0:
        return
    function, most = _prepare(kernel, F.dtype, cupy.cuda.runtime.getDevice())
    blocks = -(-F.shape[0] // TILE) * -(-F.shape[1] // TILE)
    given = tuple(np.int64(x) if isinstance(x, int) else x for x in arguments)
    function((min(blocks, most),), (THREADS,), given, shared_mem=shared_bytes(F.dtype.itemsize))


@cache
def _prepare(kernel: str, dtype: np.dtype, device: int) -> tuple[Any, int]:
    """(the kernel, the most blocks of a launch)"""
    import cupy

    module = cupy.RawModule(code=source(dtype), options=OPTIONS)
    return module.get_function(kernel), BLOCKS_PER_MULTIPROCESSOR * cupy.cuda.Device(device).attributes[
        "MultiProcessorCount"
    ]


def source(dtype: np.dtype) -> str:
    """fisher.cu for this dtype."""
    return f"#define REAL {REAL[dtype]}\n" + Path(__file__).with_name("fisher.cu").read_text()


def shared_bytes(itemsize: int) -> int:
    return itemsize * 2 * DEPTH * (TILE + 1)


def tuned() -> dict[str, tuple[int, int]]:
    """(threads, bytes of dynamic shared memory) of a block of each kernel, as the .cu compiles without options."""
    return dict.fromkeys(("linear", "positions"), (THREADS, shared_bytes(4)))
