"""Convolution and pooling over the last two axes of images; leading task axes are allowed everywhere.

A convolution is one trilinear form Σ y x w. Three prims give each factor from the other two, and each is the derivative of the
others, which makes them right at every order: `_correlate` y, `_spread` x, `_match` w. Under each row of the kernel lie the same
columns, only some lines further down, so that a row is one matrix product with a slice of memory, and not all patches are copied.
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
BLOCK_BYTES = 300_000  # of columns at a time, so that they stay in a core's cache


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

    def rows(self, i: int) -> slice:
        """The i-th row of every window."""
        return slice(i, i + (self.output[0] - 1) * self.stride[0] + 1, self.stride[0])

    def columns(self, j: int) -> slice:
        """The j-th column of every window."""
        return slice(j, j + (self.output[1] - 1) * self.stride[1] + 1, self.stride[1])

    def places(self) -> list[tuple]:
        """For each place in a window, the index of the elements that have it."""
        return [(..., self.rows(i), self.columns(j)) for i in range(self.size[0]) for j in range(self.size[1])]


# ---- the trilinear form of a convolution ----


def _correlate_images(x: Any, w: Any, windows: Windows) -> Any:
    """y[n, o, h, v] = Σ_cij w[o, c, i, j] x[n, c, sh h + i, sw v + j]."""
    tasks = np.broadcast_shapes(x.shape[:-4], w.shape[:-4])
    y = np.empty_like(
        x, shape=(*tasks, x.shape[-4], w.shape[-4], *windows.output), dtype=np.result_type(x.dtype, w.dtype)
    )
    kernel = _kernel_rows(w)
    for block in _blocks(x, x.shape[-3], windows):
        lines = _lines(x[block], windows)
        flat = kernel[0] @ lines[0]
        for row, line in zip(kernel[1:], lines[1:], strict=True):
            flat += row @ line
        images = flat.reshape(*flat.shape[:-1], windows.output[0], y[block].shape[-4], windows.output[1])
        y[block] = np.moveaxis(images, -2, -4)
    return y


def _spread_images(y: Any, w: Any, windows: Windows) -> Any:
    """x[n, c, sh h + i, sw v + j] = Σ_o w[o, c, i, j] y[n, o, h, v]."""
    tasks, (c, _, kw), width = np.broadcast_shapes(y.shape[:-4], w.shape[:-4]), w.shape[-3:], windows.output[1]
    x = np.zeros_like(y, shape=(*tasks, y.shape[-4], c, *windows.image), dtype=np.result_type(y.dtype, w.dtype))
    kernel = [np.swapaxes(row, -1, -2) for row in _kernel_rows(w)]
    for block in _blocks(y, c, windows):
        flat, n = _from_images(y[block]), y[block].shape[-4]
        columns = np.zeros_like(x, shape=(*tasks, c * kw, windows.image[0], n * width))
        for i, row in enumerate(kernel):
            columns[..., windows.rows(i), :] += (row @ flat).reshape(*tasks, c * kw, windows.output[0], n * width)
        columns = columns.reshape(*tasks, c, kw, windows.image[0], n, width)
        images = np.moveaxis(x[block], -4, -2)
        for j in range(kw):
            images[..., windows.columns(j)] += columns[..., j, :, :, :]
    return x


def _match_images(x: Any, y: Any, windows: Windows) -> Any:
    """w[o, c, i, j] = Σ_nhv y[n, o, h, v] x[n, c, sh h + i, sw v + j]."""
    c, o, (kh, kw) = x.shape[-3], y.shape[-3], windows.size
    w: Any = 0
    for block in _blocks(x, c, windows):
        flat = np.swapaxes(_from_images(y[block]), -1, -2).copy()  # BLAS is faster on two matrices that lie alike
        w = w + np.stack([line @ flat for line in _lines(x[block], windows)], axis=-3)
    w = w.reshape(*w.shape[:-3], kh, c, kw, o)
    return np.moveaxis(w, (-1, -3), (-4, -3)).copy()


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


def _blocks(images: Any, channels: int, windows: Windows) -> list[tuple]:
    """Indices of blocks of images (..., N, _, _, _) whose columns are few; all at once where the array is not NumPy's."""
    tasks, n = math.prod(images.shape[:-4]), images.shape[-4]
    column_bytes = tasks * channels * windows.size[1] * windows.image[0] * windows.output[1] * images.dtype.itemsize
    step = max(1, BLOCK_BYTES // max(1, column_bytes) if type(images) is np.ndarray else n)
    return [(..., slice(i, i + step), *[slice(None)] * 3) for i in range(0, max(1, n), step)]


def _lines(x: Any, windows: Windows) -> list[Any]:
    """What lies under each kernel row: (..., C kw, H' N W') of x (..., N, C, H, W)."""
    x = np.moveaxis(x, -4, -2)
    columns = np.stack([x[..., windows.columns(j)] for j in range(windows.size[1])], axis=-4)
    *tasks, c, kw, height, n, width = columns.shape
    columns = columns.reshape(*tasks, c * kw, height, n * width)
    flat = (*tasks, c * kw, windows.output[0] * n * width)
    return [columns[..., windows.rows(i), :].reshape(flat) for i in range(windows.size[0])]


def _kernel_rows(w: Any) -> list[Any]:
    """Each row of the kernel as a matrix (..., O, C kw)."""
    *tasks, o, c, kh, kw = w.shape
    return [w[..., i, :].reshape(*tasks, o, c * kw) for i in range(kh)]


def _from_images(y: Any) -> Any:
    """(..., N, O, H', W') -> (..., O, H' N W')."""
    *tasks, n, o, height, width = y.shape
    return np.moveaxis(y, -4, -2).reshape(*tasks, o, height * n * width)


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
    return reduce(np.maximum, [x[place] for place in windows.places()])


def _share(g: Any, y: Any, x: Any, windows: Windows) -> Any:
    """g shared equally among the elements that attain the maximum of their window."""
    x, y = value(x), value(y)
    attained = [np.equal(x[place], y) for place in windows.places()]
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
