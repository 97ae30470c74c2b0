"""Fisher diagonals in NumPy, a few samples at a time: no more memory than the weights and a chunk need, any float dtype.

Sums over the samples of a chunk obey the dtype; sums over chunks are in float64, or wider if the arrays are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .. import agree
from .arguments import check_labels, check_logits, check_network, check_uniforms
from .reference import ACTIVATIONS, Array, forward, scores, scores_reduced

MEMORY, CACHE, TILE = 1 << 24, 1 << 20, 64
"""Bytes that a chunk's activations may have, those of products squared at once, and samples that go backward at once."""


# ---- layers ----


def linear(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (5)."""
    agree("linear", A=(A, "N I"), D=(D, "N O"))
    return _linear_exact(A, D[None])


def linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (6)."""
    agree("linear_exact", A=(A, "N I"), S=(S, "V N O"))
    return _linear_exact(A, S)


def _linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    def squares(rows: slice) -> tuple[Array, ...]:
        return _product(A[rows], _squares(S[:, rows], "vno->no"))

    F_W, F_b = _over_chunks(squares, len(A), fitting(MEMORY, A.dtype, A.shape[1] + S.shape[2]))
    return F_W, F_b


def _product(A: Array, D_squared: Array) -> tuple[Array, Array]:
    return np.square(A).T @ D_squared, D_squared.sum(axis=0)


def linear_time(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (7)."""
    agree("linear_time", A=(A, "N T I"), D=(D, "N T O"))
    return _squared_products(A.swapaxes(1, 2), D), bias(D.swapaxes(1, 2))


def conv(U: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (O, K), F_b (O,)) of (8)."""
    agree("conv", U=(U, "N K L"), D=(D, "N O L"))
    return _squared_products(D, U.swapaxes(1, 2)), bias(D)


def _squared_products(X: Array, Y: Array) -> Array:
    """sum_n (X_n Y_n)^2"""
    size = fitting(CACHE, X.dtype, X.shape[1] * Y.shape[2])
    return _over_chunks(lambda rows: (_sums(X[rows] @ Y[rows]),), len(X), size)[0]


def bias(D: Array) -> Array:
    """F_b (O,) of (8)."""
    agree("bias", D=(D, "N O L"))
    return _sums(D.sum(axis=2))


def batch_norm(x_hat: Array, D: Array) -> tuple[Array, Array]:
    """(F_gamma (C,), F_beta (C,)) of (13)."""
    agree("batch_norm", x_hat=(x_hat, "N C L"), D=(D, "N C L"))
    return _sums(np.einsum("ncl,ncl->nc", D, x_hat)), bias(D)


def _sums(G: Array) -> Array:
    """sum_n G_n^2"""
    return _squares(G, "no->o" if G.ndim == 2 else "nok->ok")


def _squares(G: Array, axes: str) -> Array:
    letters = axes.partition("->")[0]
    return np.einsum(f"{letters},{axes}", G, G)


def fitting(memory: int, dtype: np.dtype, numbers: int) -> int:
    """Samples of so many numbers that fit, at least one."""
    return max(1, memory // (dtype.itemsize * max(1, numbers)))


def _over_chunks(squares: Callable[[slice], tuple[Array, ...]], N: int, size: int) -> tuple[Array, ...]:
    """The sums of squares(rows) over chunks of `size` of the rows 0, ..., N - 1."""
    if size >= N:
        return squares(slice(0, N))
    totals: list[Array] = []
    for rows in chunks_of(N, size):
        parts = squares(rows)
        totals = totals or [np.zeros_like(part, dtype=np.result_type(part, np.float64)) for part in parts]
        for total, part in zip(totals, parts, strict=True):
            total += part
    return tuple(total.astype(part.dtype) for total, part in zip(totals, parts, strict=True))


def chunks_of(N: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, N)) for start in range(0, N, size))


# ---- the output ----


def label_scores(logits: Array, labels: Array) -> Array:
    """D (N, C) = e_y - p, in O(N C)."""
    N, C = check_logits("label_scores", logits)
    check_labels(labels, N, C)
    e = _exponentials(logits)
    own = np.arange(N, like=logits), labels
    total = e.sum(axis=1)
    D = -e / total[:, None]
    e[own] = 0
    D[own] = e.sum(axis=1) / total  # 1 - p_y, as the sum of the others
    return D


def sample_labels(logits: Array, uniforms: Array) -> Array:
    """Labels (N,) drawn from the softmax by inversion, in O(N C)."""
    N, _ = check_logits("sample_labels", logits)
    check_uniforms(uniforms, N)
    e = _exponentials(logits)
    cumulated = np.cumsum(e / e.sum(axis=1, keepdims=True), axis=1, dtype=np.float64)
    return (cumulated <= uniforms.astype(np.float64)[:, None] * cumulated[:, -1:]).sum(axis=1)


def _exponentials(logits: Array) -> Array:
    return np.exp(logits - logits.max(axis=1, keepdims=True))


# ---- a whole network ----

COLUMNS: dict[str, Callable[..., Array]] = {
    "exact": lambda logits, given: (scores_reduced if logits.shape[1] > 1 else scores)(logits),
    "sampled": lambda logits, uniforms: label_scores(logits, sample_labels(logits, uniforms))[None],
    "empirical": lambda logits, labels: label_scores(logits, labels)[None],
    "batched": lambda logits, labels: label_scores(logits, labels)[None],
}


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

    Backward, the columns of a few samples at a time; the squared products take all samples of a chunk at once.
    """
    sizes = check_network(params, x, labels, activation, kind, uniforms, batch_size)
    given, size = uniforms if kind == "sampled" else labels, fitting(MEMORY, x.dtype, 2 * sum(sizes))
    if kind == "batched":
        size = -(-size // batch_size) * batch_size  # whole batches

    def squares(rows: slice) -> tuple[Array, ...]:
        inputs, logits = forward(params, x[rows], activation)
        per_sample = None if given is None else given[rows]
        if kind == "batched":
            D = cotangents(params, inputs, COLUMNS[kind](logits, per_sample), activation)
            pairs = [_batched(A, S[0], batch_size) for A, S in zip(reversed(inputs), D, strict=True)][::-1]
        else:
            D_squared = _squared_cotangents(params, inputs, logits, per_sample, activation, kind)
            pairs = [_product(A, D) for A, D in zip(inputs, D_squared, strict=True)]
        return tuple(F for pair in pairs for F in pair)

    N = max(len(x), 1)
    sums = iter(_over_chunks(squares, len(x), size))
    return [(F_W / N, F_b / N) for F_W, F_b in zip(sums, sums, strict=True)]


def _squared_cotangents(
    params: Sequence[tuple[Array, Array]],
    inputs: list[Array],
    logits: Array,
    given: Array | None,
    activation: str,
    kind: str,
) -> list[Array]:
    """Per layer the sums over columns of squared cotangents, (N, O)."""
    found = [np.empty_like(logits, shape=(len(logits), len(b))) for _, b in params]
    for rows in chunks_of(len(logits), TILE):
        S = COLUMNS[kind](logits[rows], None if given is None else given[rows])
        backward = cotangents(params, [A[rows] for A in inputs], S, activation)
        for D_squared, S in zip(reversed(found), backward, strict=True):
            D_squared[rows] = _squares(S, "vno->no")
    return found


def cotangents(
    params: Sequence[tuple[Array, Array]], inputs: list[Array], S: Array, activation: str
) -> Iterator[Array]:
    """Those of the layers' outputs, (V, N, O), from the last layer to the first."""
    slope = ACTIVATIONS[activation][1]
    for k in range(len(params) - 1, -1, -1):
        yield S
        if k > 0:
            V, N, O = S.shape
            S = (S.reshape(V * N, O) @ params[k][0].T).reshape(V, N, len(params[k][0]))
            S *= slope(inputs[k])


def _batched(A: Array, D: Array, batch_size: int) -> tuple[Array, Array]:
    """(4) for one layer: the samples of a batch are summed as (7) sums over time; the last batch may be smaller."""
    whole = len(A) // batch_size * batch_size
    parts = [
        linear_time(*(X[rows].reshape(len(X[rows]) // size, size, X.shape[1]) for X in (A, D)))
        for rows, size in ((slice(0, whole), batch_size), (slice(whole, None), max(1, len(A) - whole)))
    ]
    return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
