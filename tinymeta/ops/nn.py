"""Layers of neural networks, all composed of smaller ops and so right at every order; leading task axes are allowed everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.structural import axes_of
from ..engine.tensor import describe
from . import elementwise as ew
from .indexing import check_range, take_along_axis
from .reduce import largest, mean, sum
from .shape import expand_dims, reshape


def batch_norm(x: Any, gamma: Any, beta: Any, axis: int | tuple[int, ...], eps: float = 1e-5) -> Any:
    """γ (x - mean) / sqrt(var + eps) + β with the batch's own mean and (biased) variance over `axis`.

    γ and β have the shape of x without `axis` (leading task axes may be missing); None leaves out the scale or the shift.
    Composed, so that no derivative treats the statistics as constants.
    """
    axes = tuple(a - x.ndim for a in axes_of("batch_norm", axis, x.ndim))
    centred = x - mean(x, axes, keepdims=True)
    scale = ew.sqrt(mean(ew.square(centred), axes, keepdims=True) + eps)
    normal = centred / scale if gamma is None else centred / scale * expand_dims(gamma, axes)
    return normal if beta is None else normal + expand_dims(beta, axes)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """x - log Σ exp(x) along `axis`."""
    shifted = x - largest(x, axis)  # before the logarithm is subtracted, which is small beside a large x
    return shifted - ew.log(sum(ew.exp(shifted), axis, keepdims=True))


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
    shifted = logits - largest(logits, -1)
    chosen = take_along_axis(shifted, labels[..., None], -1)
    return ew.log(sum(ew.exp(shifted), -1)) - reshape(chosen, labels.shape)
