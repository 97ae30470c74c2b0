"""Style images that are drawn, not found: each is a picture on the unit square that can be had at any resolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Texture = Literal["mosaic", "waves"]
OVERSAMPLING = 4  # samples per pixel and axis: edges come out smooth


def texture(kind: Texture, rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """One picture, float32 (3, size, size), 0 to 1; from an equal `rng` the same one at any size.

    "mosaic": stained glass, two dozen cells around random points, red to yellow, divided by dark lines; "waves": bands of blue,
    white and ochre along bent lines.
    """
    if kind not in _PICTURES or size < 1:
        raise ValueError(f"texture: kind is {kind!r} and size {size}, expected one of {list(_PICTURES)} and 1 or more")
    samples = size * OVERSAMPLING
    axis = (np.arange(samples) + 0.5) / samples
    fine = _PICTURES[kind](rng, *np.meshgrid(axis, axis))  # (samples, samples, 3)
    pixels = fine.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.moveaxis(pixels, -1, 0).astype(np.float32)


def _mosaic(rng: np.random.Generator, x: NDArray, y: NDArray) -> NDArray:
    points = rng.random((24, 2))
    colours = _palette(rng.random(24), [(0.65, 0.05, 0.1), (0.95, 0.45, 0.05), (1.0, 0.85, 0.2)])
    distances = np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1])
    nearest, second = np.moveaxis(np.partition(distances, 1, axis=-1)[..., :2], -1, 0)
    inside = second - nearest > 0.035
    return np.where(inside[..., None], colours[np.argmin(distances, axis=-1)], 0.08)


def _waves(rng: np.random.Generator, x: NDArray, y: NDArray) -> NDArray:
    bends = rng.uniform([2, 0, 0.02], [5, 2 * np.pi, 0.08], (4, 3))  # frequency, phase, height
    for frequency, phase, height in bends:
        x, y = y + height * np.sin(2 * np.pi * frequency * x + phase), x
    band = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * x)
    return _palette(band, [(0.05, 0.1, 0.45), (0.3, 0.6, 0.85), (0.95, 0.95, 0.9), (0.8, 0.6, 0.2)])


def _palette(position: NDArray, colours: list[tuple[float, float, float]]) -> NDArray:
    """Colours (..., 3) by position 0 to 1 along a list of them."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(position, stops, channel) for channel in zip(*colours, strict=True)], axis=-1)


_PICTURES: dict[str, Callable[[np.random.Generator, NDArray, NDArray], NDArray]] = {"mosaic": _mosaic, "waves": _waves}
