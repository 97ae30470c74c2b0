"""The penalty and its steps on the CPU, compiled by Numba: one pass over the arrays, all processors, float32 and float64.

A step rounds as the reference does, so that both agree bit for bit; the value (1) is summed in float64. ``out`` is where
a step writes, C-contiguous: any array, so theta itself (m, v), and then parameters move where they lie. One that overlaps
an array otherwise costs another array and a copy.
The first call compiles for this processor and keeps the result on disk; needs numba, ``pip install 'tinymeta[fast]'``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..simd import available, njit, together
from .reference import Array, _alike, _compilable, fold

__all__ = ["adam_step", "fold", "penalty", "penalty_grad", "proximal_step", "sgd_step"]
PIECE = 1 << 14
"""Entries that a thread takes at a time, and of which the sum (1) is made."""


def penalty(theta: Array, anchor: Array, fisher: Array, lam: float) -> np.floating:
    """lam/2 sum F (theta - anchor)^2 (1), a scalar of the arrays' dtype."""
    _compilable("penalty", theta=theta, anchor=anchor, fisher=fisher)
    flat, sums = list(map(_flat, (theta, anchor, fisher))), np.zeros(-(-theta.size // PIECE))

    def part(piece: slice) -> None:
        sums[piece.start // PIECE] = _squares(*(x[piece] for x in flat))

    _share(part, theta.size)
    return theta.dtype.type(float(lam) / 2 * sums.sum())


def penalty_grad(theta: Array, anchor: Array, fisher: Array, lam: float, out: Array | None = None) -> Array:
    """lam F (theta - anchor) (2), shaped like theta."""
    _compilable("penalty_grad", theta=theta, anchor=anchor, fisher=fisher)
    return _step("penalty_grad", _gradients, [theta], [anchor, fisher], [lam], [out])[0]


def sgd_step(
    theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float, out: Array | None = None
) -> Array:
    """The new theta after gradient descent on loss + penalty (3); grad is the loss's gradient alone."""
    _compilable("sgd_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher)
    return _step("sgd_step", _sgd, [theta], [grad, anchor, fisher], [lam, lr], [out])[0]


def proximal_step(
    theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float, out: Array | None = None
) -> Array:
    """The new theta after an explicit step on the loss and an implicit one on the penalty (5)."""
    _compilable("proximal_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher)
    return _step("proximal_step", _proximal, [theta], [grad, anchor, fisher], [1.0, lr, float(lr) * float(lam)], [out])[
        0
    ]


def adam_step(
    theta: Array,
    grad: Array,
    anchor: Array,
    fisher: Array,
    lam: float,
    lr: float,
    m: Array,
    v: Array,
    t: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    out: tuple[Array, Array, Array] | None = None,
) -> tuple[Array, Array, Array]:
    """(theta, m, v) after Adam's step number t = 1, 2, ... on loss + penalty (4); m and v start at 0."""
    _compilable("adam_step", theta=theta, grad=grad, anchor=anchor, fisher=fisher, m=m, v=v)
    if t < 1:
        raise ValueError(f"adam_step: t is {t}, expected the step's number counted from 1")
    beta1, beta2 = float(beta1), float(beta2)
    numbers = [lam, lr, beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1 ** int(t), 1 - beta2 ** int(t), eps]
    new = _step("adam_step", _adam, [theta, m, v], [grad, anchor, fisher], numbers, list(out or [None] * 3))
    return new[0], new[1], new[2]


def _step(
    operation: str,
    kernel: Callable,
    moved: list[Array],
    constant: list[Array],
    numbers: list[float],
    outs: list[Array | None],
) -> list[Array]:
    """The outs, or new arrays, after kernel(*outs, *constant, *numbers) has moved them from where `moved` are."""
    for out in outs:
        if out is not None:
            _check_out(operation, out, like=moved[0])
    dtype = moved[0].dtype.type
    new = [_place(out, k, [*moved, *constant]) for k, out in enumerate(outs)]
    before, after, other = (list(map(_flat, arrays)) for arrays in (moved, new, constant))
    scalars = [dtype(number) for number in numbers]

    def move(piece: slice) -> None:
        for source, target in zip(before, after, strict=True):
            target[piece] = source[piece]
        kernel(*(x[piece] for x in (*after, *other)), *scalars)

    _share(move, new[0].size)
    return [x if out is None or out is x else _copied(x, out) for x, out in zip(new, outs, strict=True)]


def _check_out(operation: str, out: Array, like: Array) -> None:
    _alike(operation, theta=like, out=out)
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(
            f"{operation}: out of shape {out.shape} has strides {out.strides} or is read-only, expected a "
            "C-contiguous array to write to"
        )


def _place(out: Array | None, k: int, given: list[Array]) -> Array:
    """Where the k-th of the given arrays may move: to out, unless what is written there is read from another array."""
    others = (x for n, x in enumerate(given) if n != k or x is not out)
    if out is None or any(np.may_share_memory(out, x) for x in others):
        return np.empty(given[k].shape, given[k].dtype)
    return out


def _copied(x: Array, out: Array) -> Array:
    out[...] = x
    return out


def _share(work: Callable[[slice], None], size: int) -> None:
    """work(piece) for each piece of so many entries, handed out to threads as they ask."""
    starts = iter(range(0, size, PIECE))

    def pieces(thread: int) -> None:
        for first in starts:
            work(slice(first, first + PIECE))

    together(pieces, max(1, min(available(), size // PIECE)))


def _flat(array: Array) -> Array:
    return array.reshape(-1) if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(-1)


def _compile() -> tuple[Callable, ...]:
    """The kernels. Their arithmetic is that of reference.py, in the same order.

    They change arrays where they lie: LLVM makes vectors of a loop only if what it writes is not another array's.
    """

    @njit(nogil=True, cache=True)
    def squares(theta, anchor, fisher):
        """The sum of F (theta - anchor)^2, in 16 sums side by side, which are added as vectors are."""
        sums, whole = np.zeros(16), theta.size // 16 * 16
        for i in range(0, whole, 16):
            for j in range(16):
                d = theta[i + j] - anchor[i + j]
                sums[j] += np.float64(fisher[i + j] * d * d)
        for i in range(whole, theta.size):
            d = theta[i] - anchor[i]
            sums[i - whole] += np.float64(fisher[i] * d * d)
        return sums.sum()

    @njit(nogil=True, cache=True)
    def gradients(theta, anchor, fisher, lam):
        for i in range(theta.size):
            theta[i] = lam * fisher[i] * (theta[i] - anchor[i])

    @njit(nogil=True, cache=True)
    def sgd(theta, grad, anchor, fisher, lam, lr):
        for i in range(theta.size):
            theta[i] -= lr * (grad[i] + lam * fisher[i] * (theta[i] - anchor[i]))

    @njit(nogil=True, cache=True, error_model="numpy")
    def proximal(theta, grad, anchor, fisher, one, lr, lr_lam):
        for i in range(theta.size):
            pull = lr_lam * fisher[i]
            theta[i] = (theta[i] - lr * grad[i] + pull * anchor[i]) / (one + pull)

    @njit(nogil=True, cache=True, error_model="numpy")
    def adam(theta, m, v, grad, anchor, fisher, lam, lr, beta1, rest1, beta2, rest2, bias1, bias2, eps):
        total = np.empty_like(theta)
        for i in range(theta.size):
            total[i] = grad[i] + lam * fisher[i] * (theta[i] - anchor[i])
        for i in range(theta.size):
            m[i] = beta1 * m[i] + rest1 * total[i]
            v[i] = beta2 * v[i] + rest2 * total[i] * total[i]
        for i in range(theta.size):
            theta[i] -= lr * (m[i] / bias1) / (np.sqrt(v[i] / bias2) + eps)

    return squares, gradients, sgd, proximal, adam


_squares, _gradients, _sgd, _proximal, _adam = _compile()
