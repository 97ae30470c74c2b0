"""Layers of neural networks, all composed of smaller ops and so right at every order; leading task axes are allowed everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.structural import as_tuple
from ..engine.tensor import Prim, bind, describe, value
from . import elementwise as ew
from .indexing import check_range, take_along_axis
from .linalg import matmul
from .reduce import logsumexp, max, mean
from .shape import expand_dims, pad, reshape, swapaxes

Pair = int | tuple[int, int]

_patches: Prim = Prim(
    "patches",
    lambda x, size, stride, axis: np.stack([x[w] for w in _windows(x.shape, size, stride)], axis),
    (lambda g, y, x, size, stride, axis: bind(_unpatch, g, size=size, stride=stride, axis=axis, shape=x.shape),),
    kind="linear",
)


def _add_patches(g: Any, size: tuple[int, int], stride: tuple[int, int], axis: int, shape: tuple[int, ...]) -> Any:
    x, parts = np.zeros_like(g, shape=shape), np.moveaxis(g, axis, 0)
    for k, window in enumerate(_windows(shape, size, stride)):
        x[window] += parts[k]
    return x


_unpatch: Prim = Prim(
    "unpatch",
    _add_patches,
    (lambda g, x, y, size, stride, axis, shape: bind(_patches, g, size=size, stride=stride, axis=axis),),
    kind="linear",
)


def conv2d(x: Any, w: Any, stride: Pair = 1, padding: Pair = 0) -> Any:
    """Cross-correlation of x (..., N, C, H, W) with w (..., O, C, kh, kw) -> (..., N, O, H', W'), zeros around the border.

    Leading task axes of x and w broadcast. H' = (H + 2 padding - kh) // stride + 1. One matrix product of patches.
    """
    if x.ndim < 4 or w.ndim < 4 or x.shape[-3] != w.shape[-3]:
        raise ValueError(
            f"conv2d({describe(x)}, {describe(w)}): expected x (..., N, C, H, W) and w (..., O, C, kh, kw) with one C"
        )
    ph, pw = _pair(padding)
    x = swapaxes(x, -4, -3)
    x = pad(x, [(0, 0)] * (x.ndim - 2) + [(ph, ph), (pw, pw)]) if ph or pw else x
    columns = _patch(x, w.shape[-2:], stride, -4, "conv2d")  # (..., C, kh*kw, N, H', W')
    *tasks, c, k, n, height, width = columns.shape
    columns = reshape(columns, (*tasks, c * k, n * height * width))
    y = matmul(reshape(w, (*w.shape[:-3], c * k)), columns)
    return swapaxes(reshape(y, (*y.shape[:-1], n, height, width)), -4, -3)


def max_pool2d(x: Any, size: Pair, stride: Pair | None = None) -> Any:
    """Maximum over windows of the last two axes (stride: the size); equal maxima share the gradient."""
    return max(_patch(x, size, size if stride is None else stride, -3, "max_pool2d"), axis=-3)


def mean_pool2d(x: Any, size: Pair, stride: Pair | None = None) -> Any:
    """Mean over windows of the last two axes (stride: the size)."""
    return mean(_patch(x, size, size if stride is None else stride, -3, "mean_pool2d"), axis=-3)


def batch_norm(x: Any, gamma: Any, beta: Any, axis: int | tuple[int, ...], eps: float = 1e-5) -> Any:
    """γ (x - mean) / sqrt(var + eps) + β with the batch's own mean and (biased) variance over `axis`.

    γ and β have the shape of x without `axis` (leading task axes may be missing). Composed, so that no derivative treats the
    statistics as constants.
    """
    axes = tuple(a % x.ndim - x.ndim for a in as_tuple(axis))
    centred = x - mean(x, axes, keepdims=True)
    scale = ew.sqrt(mean(ew.square(centred), axes, keepdims=True) + eps)
    return centred / scale * expand_dims(gamma, axes) + expand_dims(beta, axes)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """x - log Σ exp(x) along `axis`."""
    return x - logsumexp(x, axis, keepdims=True)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) / Σ exp(x) along `axis`."""
    return ew.exp(log_softmax(x, axis))


def softmax_cross_entropy(logits: Any, labels: Any) -> Any:
    """-log softmax(logits)[label] per example: logits (..., classes), integer labels (...) -> (...), in nats."""
    labels = labels if hasattr(labels, "dtype") else np.asarray(labels)
    classes = logits.shape[-1]
    if labels.dtype.kind not in "iu" or labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"softmax_cross_entropy: labels are {describe(labels)}, expected integers of shape {list(logits.shape[:-1])} for "
            f"logits {describe(logits)}"
        )
    check_range("softmax_cross_entropy", labels, classes, f" for logits {describe(logits)}")
    chosen = take_along_axis(logits, labels[..., None], -1)
    return logsumexp(logits, -1) - reshape(chosen, labels.shape)


def _patch(x: Any, size: Pair, stride: Pair, axis: int, caller: str) -> Any:
    size, stride = _pair(size), _pair(stride)
    if (
        x.ndim < 2
        or any(s < 1 for s in (*size, *stride))
        or any(n < k for n, k in zip(x.shape[-2:], size, strict=True))
    ):
        raise ValueError(
            f"{caller}: a window of {list(size)} with stride {list(stride)} does not fit into {describe(value(x))}"
        )
    return bind(_patches, x, size=size, stride=stride, axis=axis)


def _windows(shape: tuple[int, ...], size: tuple[int, int], stride: tuple[int, int]) -> list[tuple]:
    """For each place in the window, the strided slices of the image that meet it."""
    (height, width), (kh, kw), (sh, sw) = shape[-2:], size, stride
    rows, columns = (height - kh) // sh * sh + 1, (width - kw) // sw * sw + 1
    return [(..., slice(i, i + rows, sh), slice(j, j + columns, sw)) for i in range(kh) for j in range(kw)]


def _pair(x: Pair) -> tuple[int, int]:
    first, *rest = as_tuple(x)
    return (first, rest[0] if rest else first)
