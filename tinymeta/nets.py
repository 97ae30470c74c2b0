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


class NormLayer(NamedTuple):
    """Weights w, those of a convolution (..., O, C, kh, kw) or a linear map (..., C, O), and then batch norm: scale gamma and
    shift beta (..., O). gamma is None where nothing scales (the nets of MAML's authors)."""

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


def init_normed_mlp(
    rng: np.random.Generator, sizes: Sequence[int], sigma: float = 0.01, dtype: Any = np.float32, scaled: bool = False
) -> tuple[Any, ...]:
    """Linear maps with batch norm for `sizes` (inputs, hidden..., outputs), the last one a Layer: MAML's net without convolutions
    (1703.03400, section 5.2: 256, 128, 64, 64). Weights N(0, sigma²), sigma 0.01 in the authors' code; `scaled` adds gammas."""
    *hidden, head = init_mlp(rng, sizes, sigma, dtype)
    return (*(_normed(layer.w, layer.w.shape[1], scaled) for layer in hidden), head)


def normed_mlp(params: Sequence[Any], x: Any, eps: float = 1e-5) -> Any:
    """Logits (..., N, out) of x (..., N, in): batch norm over N (statistics of the batch x itself) and ReLU after each map."""
    for layer in params[:-1]:
        x = ops.relu(ops.batch_norm(ops.matmul(x, layer.w), layer.gamma, layer.beta, axis=-2, eps=eps))
    return _linear(params[-1], x)


def init_conv4(
    rng: np.random.Generator,
    classes: int,
    filters: int = 64,
    channels: int = 1,
    dtype: Any = np.float32,
    scaled: bool = True,
    head_sigma: float | None = None,
) -> tuple[tuple[NormLayer, ...], Layer]:
    """Four 3x3 convolutions (Glorot uniform) and a linear layer N(0, head_sigma²), or N(0, 1 / filters) for None: the Omniglot
    net of MAML (1703.03400, section 5.2). With scaled=False there are no gammas, as in the authors' code."""
    return _convolutions(rng, filters, channels, dtype, scaled), _head(rng, filters, classes, dtype, head_sigma)


def conv4(params: tuple[tuple[NormLayer, ...], Layer], x: Any, eps: float = 1e-5) -> Any:
    """Logits (..., N, classes) of images x (..., N, C, H, W): stride-2 convolutions with batch norm (statistics of the batch
    x itself, `eps` added to its variances) and ReLU, then the mean over the remaining positions and a linear layer."""
    convolutions, head = params
    for layer in convolutions:
        x = ops.relu(_normed_convolution(layer, x, 2, eps))
    return _linear(head, ops.mean(x, axis=(-2, -1)))


def init_pooled_conv4(
    rng: np.random.Generator,
    classes: int,
    filters: int = 32,
    channels: int = 3,
    side: int = 84,
    dtype: Any = np.float32,
    scaled: bool = True,
) -> tuple[tuple[NormLayer, ...], Layer]:
    """As init_conv4, for `pooled_conv4` on images of side x side pixels: the mini-ImageNet net of MAML (section 5.2)."""
    if side < 16:
        raise ValueError(
            f"init_pooled_conv4: side is {side}, expected 16 or more, of which four poolings leave something"
        )
    positions = (side // 16) ** 2
    return _convolutions(rng, filters, channels, dtype, scaled), _head(rng, positions * filters, classes, dtype)


def pooled_conv4(params: tuple[tuple[NormLayer, ...], Layer], x: Any, eps: float = 1e-5) -> Any:
    """Logits (..., N, classes) of images x (..., N, C, H, W): convolutions with batch norm (statistics of the batch x itself),
    ReLU and 2x2 max-pooling, then a linear layer on all that remains."""
    convolutions, head = params
    for layer in convolutions:
        x = ops.max_pool2d(ops.relu(_normed_convolution(layer, x, 1, eps)), 2)
    return _linear(head, ops.reshape(x, (*x.shape[:-3], -1)))


def _convolutions(
    rng: np.random.Generator, filters: int, channels: int, dtype: Any, scaled: bool
) -> tuple[NormLayer, ...]:
    def convolution(c: int) -> NormLayer:
        limit = np.sqrt(6 / (9 * (c + filters)))
        w = rng.uniform(-limit, limit, size=(filters, c, 3, 3)).astype(dtype)
        return _normed(w, filters, scaled)

    return tuple(convolution(c) for c in (channels, filters, filters, filters))


def _normed(w: Any, outputs: int, scaled: bool) -> NormLayer:
    return NormLayer(w, np.ones(outputs, w.dtype) if scaled else None, np.zeros(outputs, w.dtype))


def _head(rng: np.random.Generator, fan_in: int, classes: int, dtype: Any, sigma: float | None = None) -> Layer:
    scale = 1 / np.sqrt(fan_in) if sigma is None else sigma
    return Layer((scale * rng.normal(size=(fan_in, classes))).astype(dtype), np.zeros(classes, dtype))


def _normed_convolution(layer: NormLayer, x: Any, stride: int, eps: float) -> Any:
    x = ops.conv2d(x, layer.w, stride=stride, padding=1)
    return ops.batch_norm(x, layer.gamma, layer.beta, axis=(-4, -2, -1), eps=eps)


def _linear(layer: Layer, x: Any) -> Any:
    return ops.matmul(x, layer.w) + (layer.b if layer.b.ndim == 1 else ops.expand_dims(layer.b, -2))
