"""Networks as pure functions of (params, x): parameters are tuples of Layers, leading task axes are allowed in all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import ops


class Layer(NamedTuple):
    """A linear layer x @ w + b: w (..., fan_in, fan_out), b (..., fan_out)."""

    w: Any
    b: Any


class ConvLayer(NamedTuple):
    """A convolution w (..., O, C, kh, kw) followed by batch norm with scale gamma and shift beta (..., O)."""

    w: Any
    gamma: Any
    beta: Any


def init_mlp(
    rng: np.random.Generator, sizes: Sequence[int], sigma: float | None = None, dtype: Any = np.float32
) -> tuple[Layer, ...]:
    """Layers for `sizes` (inputs, hidden..., outputs): weights N(0, sigma²), or He's N(0, 2 / fan_in) for None; biases 0."""

    def layer(fan_in: int, fan_out: int) -> Layer:
        scale = np.sqrt(2 / fan_in) if sigma is None else sigma
        return Layer((scale * rng.normal(size=(fan_in, fan_out))).astype(dtype), np.zeros(fan_out, dtype))

    return tuple(layer(a, b) for a, b in itertools.pairwise(sizes))


def mlp(params: Sequence[Layer], x: Any, activation: Callable = ops.relu) -> Any:
    """Logits (..., N, out) of x (..., N, in): `activation` between the layers, none after the last."""
    for layer in params[:-1]:
        x = activation(_linear(layer, x))
    return _linear(params[-1], x)


def init_conv4(
    rng: np.random.Generator, classes: int, filters: int = 64, channels: int = 1, dtype: Any = np.float32
) -> tuple[tuple[ConvLayer, ...], Layer]:
    """Four 3x3 convolutions (Glorot uniform) and a linear layer: the Omniglot net of MAML (1703.03400, section 5.2)."""

    def convolution(c: int) -> ConvLayer:
        limit = np.sqrt(6 / (9 * (c + filters)))
        w = rng.uniform(-limit, limit, size=(filters, c, 3, 3)).astype(dtype)
        return ConvLayer(w, np.ones(filters, dtype), np.zeros(filters, dtype))

    head = Layer((rng.normal(size=(filters, classes)) / np.sqrt(filters)).astype(dtype), np.zeros(classes, dtype))
    return tuple(convolution(c) for c in (channels, filters, filters, filters)), head


def conv4(params: tuple[tuple[ConvLayer, ...], Layer], x: Any) -> Any:
    """Logits (..., N, classes) of images x (..., N, C, H, W): stride-2 convolutions with batch norm (statistics of the batch
    x itself) and ReLU, then the mean over the remaining positions and a linear layer."""
    convolutions, head = params
    for layer in convolutions:
        x = ops.conv2d(x, layer.w, stride=2, padding=1)
        x = ops.relu(ops.batch_norm(x, layer.gamma, layer.beta, axis=(-4, -2, -1)))
    return _linear(head, ops.mean(x, axis=(-2, -1)))


def _linear(layer: Layer, x: Any) -> Any:
    return ops.matmul(x, layer.w) + (layer.b if layer.b.ndim == 1 else ops.expand_dims(layer.b, -2))
