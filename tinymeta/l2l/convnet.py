"""The convolutional optimizee of 1606.04474, section 3.3, with the sizes of the authors' code (problems.py, cifar10)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..nets import Layer
from .problems import Problem, compiled_problem

KERNEL, EPS = 5, 1e-3  # of the authors' code; EPS is the default of their library's batch norm


class Normalised(NamedTuple):
    """A convolution w (..., O, C, k, k) or a linear map w (..., fan_in, O), then batch norm with the shift beta (..., O).

    It has no bias, which the mean that is taken off would cancel: the authors' code has one, with gradient zero.
    """

    w: Any
    beta: Any


class ConvNet(NamedTuple):
    """The parameters: convolutions, a hidden layer and the layer of the logits."""

    conv: tuple[Normalised, ...]
    hidden: Normalised
    out: Layer


def init_conv_net(
    rng: np.random.Generator,
    image: tuple[int, int, int],
    classes: int,
    filters: Sequence[int] = (16, 16, 16),
    hidden: int = 32,
    sigma: float = 0.01,
    tasks: tuple[int, ...] = (),
) -> ConvNet:
    """float32 parameters for images (C, H, W): weights and biases N(0, sigma²), shifts 0; `tasks` are leading axes."""

    def normal(*shape: int) -> Any:
        return (sigma * rng.normal(size=(*tasks, *shape))).astype(np.float32)

    def normalised(outputs: int, *shape: int) -> Normalised:
        return Normalised(normal(*shape), np.zeros((*tasks, outputs), np.float32))

    channels, height, width = image
    halvings = 2 ** len(filters)
    if height % halvings or width % halvings:
        raise ValueError(
            f"images are {height} x {width}, expected multiples of {halvings}: each convolution halves them"
        )
    sizes = (channels, *filters)
    conv = tuple(normalised(o, o, c, KERNEL, KERNEL) for c, o in itertools.pairwise(sizes))
    features = sizes[-1] * (height // halvings) * (width // halvings)
    return ConvNet(conv, normalised(hidden, features, hidden), Layer(normal(hidden, classes), normal(classes)))


def conv_net(params: ConvNet, x: Any) -> Any:
    """Logits (..., N, classes) of images x (..., N, C, H, W), batch norm by the statistics of the batch x itself.

    The paper pools after ReLU after batch norm. Both are increasing, so that pooling first gives the same, on a quarter
    of the elements; the statistics are those of all.
    """
    for layer in params.conv:
        z = ops.conv2d(x, layer.w, padding=KERNEL // 2)
        x = ops.relu(_normal(ops.max_pool2d(z, 2), layer.beta, z, axes=(-4, -2, -1)))
    z = ops.matmul(ops.reshape(x, (*x.shape[:-3], -1)), params.hidden.w)
    x = ops.relu(_normal(z, params.hidden.beta, z, axes=(-2,)))
    return ops.matmul(x, params.out.w) + ops.expand_dims(params.out.b, -2)


def _normal(x: Any, beta: Any, batch: Any, axes: tuple[int, ...]) -> Any:
    """(x - mean) / sqrt(var + eps) + beta with the mean and the variance of `batch`."""
    mean = ops.mean(batch, axes, keepdims=True)
    variance = ops.mean(ops.square(batch - mean), axes, keepdims=True)
    return (x - mean) / ops.sqrt(variance + EPS) + ops.expand_dims(beta, axes)


def conv_problem(
    x: Any,
    y: Any,
    batches: Any,
    rng: np.random.Generator,
    filters: Sequence[int] = (16, 16, 16),
    hidden: int = 32,
    sigma: float = 0.01,
) -> Problem:
    """Mean cross-entropy of a `conv_net` on mini-batches; the problems differ in θ_0 and batches.

    x (N, C, H, W), uint8 (0 to 255) or float32 (0 to 1), y (N,) integer labels, batches (B, steps, batch_size) indices into them.
    """
    theta = init_conv_net(rng, x.shape[1:], int(y.max()) + 1, filters, hidden, sigma, tasks=(len(batches),))

    def batch(t: int) -> tuple[Any, Any]:
        chosen = batches[:, t % batches.shape[1]]
        return _unit(x[chosen]), y[chosen]

    return compiled_problem(theta, _losses, batch)


def _losses(theta: ConvNet, x: Any, y: Any) -> Any:
    return ops.mean(ops.softmax_cross_entropy(conv_net(theta, x), y), axis=-1)


def _unit(pixels: Any) -> Any:
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
