"""Convolution and pooling over the last two axes of images; leading task axes are allowed everywhere.

A convolution is one trilinear form Σ y x w. Three prims give each factor from the other two, and each is the derivative of the
others, which makes them right at every order: `_correlate` y, `_spread` x, `_match` w. Each is one matrix product for a block of
images, with the patches that the kernel sees: images are the innermost axis there, so that whatever the stride, what is copied or
added lies together.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ..engine.structural import as_tuple
from ..engine.tensor import Prim, bind, describe, value
from .shape import pad

Pair = int | tuple[int, int]
BLOCK_BYTES = 1 << 21  # of patches at a time, which mostly stay in a core's cache
FEW = 4  # images of a block; fewer are taken one by one, for moving so few together costs more than it saves


def conv2d(x: Any, w: Any, stride: Pair = 1, padding: Pair = 0) -> Any:
    """Cross-correlation of x (..., N, C, H, W) with w (..., O, C, kh, kw) -> (..., N, O, H', W'), zeros around the border.

    Leading task axes of x and w broadcast. H' = (H + 2 padding - kh) // stride + 1.
    """
    if x.ndim < 4 or w.ndim < 4 or x.shape[-3] != w.shape[-3]:
        raise ValueError(
            f"conv2d({describe(x)}, {describe(w)}): expected x (..., N, C, H, W) and w (..., O, C, kh, kw) with one C"
        )
    ph, pw = _pair(padding)
    x = pad(x, [(0, 0)] * (x.ndim - 2) + [(ph, ph), (pw, pw)]) if ph or pw else x
    return bind(_correlate, x, w, windows=_fitting("conv2d", x, w.shape[-2:], stride))


def max_pool2d(x: Any, size: Pair, stride: Pair | None = None) -> Any:
    """Maximum over windows of the last two axes (stride: the size); equal maxima share the gradient."""
    return bind(_max_pool, x, windows=_fitting("max_pool2d", x, size, size if stride is None else stride))


def mean_pool2d(x: Any, size: Pair, stride: Pair | None = None) -> Any:
    """Mean over windows of the last two axes (stride: the size)."""
    windows = _fitting("mean_pool2d", x, size, size if stride is None else stride)
    places = math.prod(windows.size)
    return bind(_gather, x, *[1 / places] * places, windows=windows)


class Windows(NamedTuple):
    """Windows of `size` placed every `stride` in images with the sides `image`: `output` of them, H' x W'."""

    image: tuple[int, int]
    size: tuple[int, int]
    stride: tuple[int, int]

    @property
    def output(self) -> tuple[int, int]:
        height, width = ((n - k) // s + 1 for n, k, s in zip(self.image, self.size, self.stride, strict=True))
        return height, width

    def places(self) -> list[tuple]:
        """For each place in a window, the index of the elements that have it."""
        rows, columns = (
            [slice(i, i + (n - 1) * s + 1, s) for i in range(k)]
            for n, k, s in zip(self.output, self.size, self.stride, strict=True)
        )
        return [(..., row, column) for row in rows for column in columns]


# ---- the trilinear form of a convolution ----


def _correlate_images(x: Any, w: Any, windows: Windows) -> Any:
    """y[n, o, h, v] = Σ_cij w[o, c, i, j] x[n, c, sh h + i, sw v + j]."""
    tasks, x, w = _flattened(x, w)
    y = np.empty_like(x, shape=(*x.shape[:2], w.shape[1], *windows.output), dtype=np.result_type(x.dtype, w.dtype))
    kernel = _matrix(w)
    for block in _blocks(x, w.shape[2], windows):
        flat = kernel[block[0]] @ _patches(x[block], windows)
        y[block] = np.moveaxis(flat.reshape(*flat.shape[:2], *windows.output, y[block].shape[1]), -1, 1)
    return y.reshape(*tasks, *y.shape[1:])


def _spread_images(y: Any, w: Any, windows: Windows) -> Any:
    """x[n, c, sh h + i, sw v + j] = Σ_o w[o, c, i, j] y[n, o, h, v]."""
    tasks, y, w = _flattened(y, w)
    x = np.empty_like(y, shape=(*y.shape[:2], w.shape[2], *windows.image), dtype=np.result_type(y.dtype, w.dtype))
    kernel = np.swapaxes(_matrix(w), 1, 2)
    for block in _blocks(y, w.shape[2], windows):
        t, n, c = x[block].shape[:3]
        patches = (kernel[block[0]] @ _outputs(y[block])).reshape(t, math.prod(windows.size), c, *windows.output, n)
        images = np.zeros_like(x, shape=(t, c, *windows.image, n))
        for k, place in enumerate(windows.places()):
            images[(*place, slice(None))] += patches[:, k]
        x[block] = np.moveaxis(images, -1, 1)
    return x.reshape(*tasks, *x.shape[1:])


def _match_images(x: Any, y: Any, windows: Windows) -> Any:
    """w[o, c, i, j] = Σ_nhv y[n, o, h, v] x[n, c, sh h + i, sw v + j]."""
    tasks, x, y = _flattened(x, y)
    o, c = y.shape[2], x.shape[2]
    w = np.zeros_like(x, shape=(len(x), o, math.prod(windows.size) * c), dtype=np.result_type(x.dtype, y.dtype))
    for block in _blocks(x, c, windows):
        w[block[0]] += _outputs(y[block]) @ np.swapaxes(_patches(x[block], windows), 1, 2)
    return np.moveaxis(w.reshape(*tasks, o, *windows.size, c), -1, -3).copy()


_correlate: Prim = Prim(
    "correlate",
    _correlate_images,
    (lambda g, y, x, w, windows: bind(_spread, g, w, windows=windows),
     lambda g, y, x, w, windows: bind(_match, x, g, windows=windows)),
    kind="linear", broadcasts=True,
)  # fmt: skip
_spread: Prim = Prim(
    "spread",
    _spread_images,
    (lambda g, x, y, w, windows: bind(_correlate, g, w, windows=windows),
     lambda g, x, y, w, windows: bind(_match, g, y, windows=windows)),
    kind="linear", broadcasts=True,
)  # fmt: skip
_match: Prim = Prim(
    "match",
    _match_images,
    (lambda g, w, x, y, windows: bind(_spread, y, g, windows=windows),
     lambda g, w, x, y, windows: bind(_correlate, x, g, windows=windows)),
    kind="linear", broadcasts=True,
)  # fmt: skip


# ---- layouts: the images of a block as the columns of one matrix ----


def _flattened(*arrays: Any) -> tuple:
    """The tasks' axes, and the arrays with all of them as one."""
    tasks = np.broadcast_shapes(*(a.shape[:-4] for a in arrays))
    return tasks, *(
        np.broadcast_to(a, (*tasks, *a.shape[-4:])).reshape(math.prod(tasks), *a.shape[-4:]) for a in arrays
    )


def _blocks(images: Any, channels: int, windows: Windows) -> list[tuple[slice, slice]]:
    """Tasks and images (T, N, _, _, _) in blocks whose patches are few; all at once where the array is not NumPy's."""
    tasks, n = images.shape[:2]
    if type(images) is not np.ndarray:
        return [(slice(tasks), slice(n))]
    patch_bytes = channels * math.prod(windows.size) * math.prod(windows.output) * images.dtype.itemsize
    fitting = BLOCK_BYTES // max(1, patch_bytes)
    step = max(1, min(n, fitting if fitting >= FEW else 1))
    together = max(1, fitting // step)
    return [
        (slice(t, t + together), slice(i, i + step))
        for t in range(0, tasks, together)
        for i in range(0, max(1, n), step)
    ]


def _patches(x: Any, windows: Windows) -> Any:
    """What each place of the kernel sees, (T, kh kw C, H' W' N), of x (T, N, C, H, W)."""
    t, n, c, _, _ = x.shape
    x = np.moveaxis(x, 1, -1).copy()
    seen = np.empty_like(x, shape=(t, math.prod(windows.size), c, *windows.output, n))
    for k, place in enumerate(windows.places()):
        seen[:, k] = x[(*place, slice(None))]
    return seen.reshape(t, seen.shape[1] * c, math.prod(windows.output) * n)


def _outputs(y: Any) -> Any:
    """(T, N, O, H', W') -> (T, O, H' W' N)."""
    t, n, o, height, width = y.shape
    return np.moveaxis(y, 1, -1).reshape(t, o, height * width * n)


def _matrix(w: Any) -> Any:
    """(T, O, C, kh, kw) -> (T, O, kh kw C)."""
    t, o, c, kh, kw = w.shape
    return np.moveaxis(w, 2, -1).reshape(t, o, kh * kw * c)


# ---- pooling ----


def _gather_windows(x: Any, *weights: Any, windows: Windows) -> Any:
    """The weighted sum over each window; one weight, a number or an array, for each place in a window."""
    return reduce(np.add, [weight * x[place] for weight, place in zip(weights, windows.places(), strict=True)])


def _scatter_windows(g: Any, *weights: Any, windows: Windows) -> Any:
    """The adjoint of `_gather_windows`."""
    x = np.zeros_like(g, shape=(*g.shape[:-2], *windows.image))
    for weight, place in zip(weights, windows.places(), strict=True):
        x[place] += weight * g
    return x


def _max_windows(x: Any, windows: Windows) -> Any:
    parts = [x[place] for place in windows.places()]
    return reduce(np.maximum, parts) if len(parts) > 1 else parts[0].copy()


def _share(g: Any, y: Any, x: Any, windows: Windows) -> Any:
    """g shared equally among the elements that attain the maximum of their window: those that are NaN, if it is."""
    x, y = value(x), value(y)
    attained = [np.equal(x[place], y) | np.isnan(x[place]) for place in windows.places()]
    ties = reduce(np.add, [a.astype(g.dtype) for a in attained])
    return bind(_scatter, g / ties, *attained, windows=windows)


_gather: Prim = Prim(
    "gather_windows",
    _gather_windows,
    (lambda g, y, x, *weights, windows: bind(_scatter, g, *weights, windows=windows),),
    kind="linear",
)
_scatter: Prim = Prim(
    "scatter_windows",
    _scatter_windows,
    (lambda g, x, y, *weights, windows: bind(_gather, g, *weights, windows=windows),),
    kind="linear",
)
_max_pool: Prim = Prim("max_pool2d", _max_windows, (_share,))


def _fitting(caller: str, x: Any, size: Pair, stride: Pair) -> Windows:
    windows = Windows(x.shape[-2:], _pair(size), _pair(stride))
    if (
        x.ndim < 2
        or min(*windows.size, *windows.stride) < 1
        or any(n < k for n, k in zip(windows.image, windows.size, strict=True))
    ):
        raise ValueError(
            f"{caller}: a window of {list(windows.size)} with stride {list(windows.stride)} does not fit into "
            f"{describe(value(x))}"
        )
    return windows


def _pair(x: Pair) -> tuple[int, int]:
    first, *rest = as_tuple(x)
    return (first, rest[0] if rest else first)
