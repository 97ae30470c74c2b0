"""Fisher diagonals on the CPU, compiled by Numba: explicit vectors, all processors, float32.

``linear``, ``linear_exact`` and ``mlp_fisher`` (but its batched kind) are compiled; the others are those of ``chunked``.
Sums over samples are compensated from chunk to chunk, so that many lose no more than few. Results do not depend on the
number of threads; tanh is within 10 ulp. Values are those of ``tinymeta.kernels.fisher``, but that weights behind a ReLU
which is off for a sample are not looked at: an inf among them need not give NaN.
The first call compiles for this processor and keeps the result on disk; needs numba, ``pip install 'tinymeta[fast]'``.
A thread keeps its room to work in, some MB, for the next call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np

from .. import agree
from ..simd import available, together
from . import chunked, cpu_network, cpu_products
from .arguments import ACTIVATIONS, check_network
from .chunked import batch_norm, bias, conv, label_scores, linear_time, sample_labels
from .cpu_network import COLUMNS, DRAWN, LABELS, Shared
from .cpu_products import BACKWARD, BIAS, FORWARD, RESULT, SQUARE, plan_for
from .cpu_tile import RELU, ROWS, TANH
from .reference import Array, scores, scores_reduced

__all__ = [
    "batch_norm", "bias", "conv", "label_scores", "linear", "linear_exact", "linear_time", "mlp_fisher", "sample_labels",
    "scores", "scores_reduced",
]  # fmt: skip
CHUNK, WORK_PER_THREAD = 1024, 1 << 18
"""Samples whose squares are held at once; multiplications below which a thread is not worth its waking."""
_ACT = dict(zip(ACTIVATIONS, (RELU, TANH), strict=True))
_CODE = {"exact": COLUMNS, "sampled": DRAWN, "empirical": LABELS}
_kept = threading.local()


def linear(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (5)."""
    agree("linear", A=(A, "N I"), D=(D, "N O"))
    return _one_layer("linear", A, D[None])


def linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (6)."""
    agree("linear_exact", A=(A, "N I"), S=(S, "V N O"))
    return _one_layer("linear_exact", A, S)


def _one_layer(operation: str, A: Array, S: Array) -> tuple[Array, Array]:
    _check_float32(operation, A=A)
    A, S, sizes = np.ascontiguousarray(A), np.ascontiguousarray(S), [A.shape[1], S.shape[2]]

    def squares(rows: slice, plan: Array, room: Array, threads: int) -> None:
        arguments = A[rows], np.ascontiguousarray(S[:, rows]), plan, room
        _share(partial(_call, cpu_products.square, arguments), threads)

    return _summed(sizes, len(A), 1.0, squares)[0]


def mlp_fisher(
    params: Sequence[tuple[Array, Array]],
    x: Array,
    labels: Array | None = None,
    activation: str = "relu",
    kind: str = "exact",
    uniforms: Array | None = None,
    batch_size: int = 1,
) -> list[tuple[Array, Array]]:
    """Per layer (F_W (I, O), F_b (O,)), means over the samples; arguments are those of the reference.

    The exact kind takes C - 1 columns (11). The results of all layers are views of one array.
    """
    sizes = check_network(params, x, labels, activation, kind, uniforms, batch_size)
    _check_float32("mlp_fisher", x=x)
    if kind == "batched" or len(x) == 0:
        return chunked.mlp_fisher(params, x, labels, activation, kind, uniforms, batch_size)
    x = np.ascontiguousarray(x)
    V = max(1, sizes[-1] - 1) if kind == "exact" else 1
    R = -(-V // -(-V // ROWS))  # columns of a tile: as many as fit, in parts of one size
    weights = _packed(params, plan_for(sizes, 0), _threads(sizes, len(x)))
    given = np.asarray(labels if kind == "empirical" else [], np.int64)
    drawn = np.asarray(uniforms if kind == "sampled" else [], np.float64)

    def squares(rows: slice, plan: Array, room: Array, threads: int) -> None:
        count = rows.stop - rows.start
        shared = Shared(plan, weights, room, count, _ACT[activation])
        chosen = np.empty(count, np.int64) if kind == "sampled" else given[rows]
        own = cpu_network.scratch(plan, R, threads, _room)
        arguments = x[rows], chosen, drawn[rows], _CODE[kind], V, R, shared
        _share(lambda thread, counter: cpu_network.over_samples(*arguments, own[thread], counter), threads)

    return _summed(sizes, len(x), 1 / len(x), squares)


def _packed(params: Sequence[tuple[Array, Array]], plan: Array, threads: int) -> Array:
    """All weights as the network's pass reads them."""
    weights = _room("weights", plan[-1, BIAS])
    for k, (W, b) in enumerate(params):
        W = np.ascontiguousarray(W)
        for transposed, place in ((False, FORWARD), (True, BACKWARD))[: 2 if k > 0 else 1]:
            _share(partial(_call, cpu_products.pack, (W, transposed, weights, plan[k, place])), threads)
        weights[plan[k, BIAS] : plan[k + 1, BIAS]] = 0
        weights[plan[k, BIAS] : plan[k, BIAS] + len(b)] = b
    return weights


def _summed(
    sizes: Sequence[int], N: int, scale: float, squares: Callable[[slice, Array, Array, int], None]
) -> list[tuple[Array, Array]]:
    """Per layer (F_W, F_b), the products of what squares(rows, plan, room, threads) leaves in `room`, chunk by chunk."""
    plan, threads = plan_for(sizes, min(N, CHUNK)), _threads(sizes, N)
    results = np.empty(plan[-1, RESULT], np.float32) if N else np.zeros(plan[-1, RESULT], np.float32)
    lost = np.empty(results.size if N > CHUNK else 0, np.float32)
    for rows in chunked.chunks_of(N, CHUNK):
        count = rows.stop - rows.start
        plan = plan_for(sizes, count)
        room = _room("squares", plan[-1, SQUARE])
        squares(rows, plan, room, threads)
        last = np.float32(scale if rows.stop == N else 1)
        arguments = plan, count, room, rows.start > 0, last, results, lost
        _share(partial(_call, cpu_products.products, arguments), threads)
    layers = zip(plan[:, RESULT], plan[1:, RESULT], pairwise(sizes), strict=False)
    both = (results[first:end].reshape(I + 1, O) for first, end, (I, O) in layers)
    return [(F[:-1], F[-1]) for F in both]


def _threads(sizes: Sequence[int], N: int) -> int:
    """As many as have work worth their waking."""
    work = N * sum(I * O for I, O in pairwise(sizes))
    return max(1, min(available(), work // WORK_PER_THREAD))


def _share(work: Callable[[int, Array], None], threads: int) -> None:
    counter = np.zeros(1, np.int64)
    together(lambda thread: work(thread, counter), threads)


def _call(kernel: Callable, arguments: tuple, thread: int, counter: Array) -> None:
    kernel(*arguments, counter)


def _room(name: str, count: int) -> Array:
    """So many floats, this thread's own until it asks for the same name again."""
    kept = getattr(_kept, name, None)
    if kept is None or kept.size < count:
        kept = np.empty(count, np.float32)
        setattr(_kept, name, kept)
    return kept[:count]


def _check_float32(operation: str, **arrays: Array) -> None:
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise TypeError(
                f"{operation}: {name} is {array.dtype}, but the compiled kernels take float32; use "
                ".astype(numpy.float32), or tinymeta.kernels.fisher.chunked for any float dtype"
            )
