"""The optimizee of 1606.04474, section 3.4: f(θ) = α L_content(c, θ) + β L_style(s, θ) + γ L_reg(θ) over an image θ.

The losses are those of Gatys, Ecker, Bethge 2015 (1508.06576), as means instead of sums, so that α, β and γ say the same at
every resolution. F_l are the maps of layer l of a convolutional net, which compares images by what it sees in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from .problems import Problem, compiled_problem

CONTENT_LAYER = 1  # the style is compared in all layers


class Filters(NamedTuple):
    """A layer relu(x ∗ w + b): w (O, C, k, k) with k odd, b (O,)."""

    w: Any
    b: Any


class Balance(NamedTuple):
    """The factors α of the content, β of the style and γ of the regulariser."""

    content: float
    style: float
    smooth: float


def feature_maps(net: Sequence[Filters], images: Any) -> list[Any]:
    """F_l (N, C_l, H / 2^l, W / 2^l) of images (N, C, H, W), l = 0, 1, ...: between two layers means over 2 x 2 positions."""
    maps: list[Any] = []
    for layer in net:
        x = ops.mean_pool2d(maps[-1], 2) if maps else images
        x = ops.conv2d(x, layer.w, padding=layer.w.shape[-1] // 2)
        maps.append(ops.relu(x + ops.reshape(layer.b, (-1, 1, 1))))
    return maps


def with_unit_power(net: Sequence[Filters], images: Any) -> tuple[Filters, ...]:
    """The net rescaled layer by layer so that the mean square of each F_l over `images` is 1: no layer outweighs the others.

    ValueError if a layer is 0 on all of them.
    """
    rescaled, before = [], 1.0
    for l, ((w, b), maps) in enumerate(zip(net, feature_maps(net, images), strict=True)):
        power = float(np.sqrt(np.mean(np.square(maps))))
        if power == 0:
            raise ValueError(f"layer {l} of the feature net is 0 on all images; give it more filters or train it anew")
        rescaled.append(Filters(w * (before / power), b / power))
        before = power
    return tuple(rescaled)


def gram(maps: Any) -> Any:
    """G_ij = mean over positions of F_i F_j: (N, C, H, W) -> (N, C, C)."""
    flat = ops.reshape(maps, (*maps.shape[:2], -1))
    return ops.matmul(flat, ops.swapaxes(flat, -1, -2)) / flat.shape[-1]


def content_loss(maps: Any, target: Any) -> Any:
    """Mean square of F - F_c: (N, C, H, W) twice -> (N,)."""
    return ops.mean(ops.square(maps - target), axis=(1, 2, 3))


def style_loss(maps: Sequence[Any], targets: Sequence[Any]) -> Any:
    """Mean square of G - G_s, and of that the mean over layers: maps (N, C_l, H_l, W_l), Gram matrices (C_l, C_l) -> (N,)."""
    layers = [ops.mean(ops.square(gram(f) - g), axis=(1, 2)) for f, g in zip(maps, targets, strict=True)]
    return sum(layers[1:], layers[0]) / len(layers)


def total_variation(images: Any) -> Any:
    """Mean square of the differences between neighbours, down and across: (N, C, H, W) -> (N,)."""
    down, across = images[:, :, 1:] - images[:, :, :-1], images[:, :, :, 1:] - images[:, :, :, :-1]
    return ops.mean(ops.square(down), axis=(1, 2, 3)) + ops.mean(ops.square(across), axis=(1, 2, 3))


def style_problem(net: Sequence[Filters], content: Any, style: Any, theta: Any, balance: Balance) -> Problem:
    """f(θ) of B images, times their number of pixels, so that a pixel's gradient is as large at every resolution.

    content and the start θ (B, 3, H, W), one style image (3, h, w) of any size.
    """
    wanted = feature_maps(net, content)[CONTENT_LAYER]
    grams = [gram(maps)[0] for maps in feature_maps(net, style[None])]
    pixels = theta.shape[-2] * theta.shape[-1]
    factors = Balance(*(float(pixels * weight) for weight in balance))
    return compiled_problem(theta, _losses, lambda t: (net, wanted, grams, factors))


def _losses(theta: Any, net: Sequence[Filters], wanted: Any, grams: Sequence[Any], factors: Balance) -> Any:
    maps = feature_maps(net, theta)
    content, style = content_loss(maps[CONTENT_LAYER], wanted), style_loss(maps, grams)
    return factors.content * content + factors.style * style + factors.smooth * total_variation(theta)
