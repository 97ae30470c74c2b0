"""Ops that move numbers without changing them, all linear: each rule is the op's adjoint."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from ..engine.structural import as_tuple, astype, axes_of, broadcast_to, sum_to
from ..engine.tensor import Prim, as_array, bind

_reshape = Prim(
    "reshape", lambda x, shape: np.reshape(x, shape), (lambda g, y, x, shape: reshape(g, x.shape),), kind="linear"
)
_transpose = Prim(
    "transpose",
    lambda x, axes: np.transpose(x, axes),
    (lambda g, y, x, axes: transpose(g, [axes.index(i) for i in range(len(axes))]),),
    kind="linear",
)
_flip = Prim("flip", lambda x, axis: np.flip(x, axis), (lambda g, y, x, axis: flip(g, axis),), kind="linear")
_roll = Prim("roll", np.roll, (lambda g, y, x, shift, axis: roll(g, _negated(shift), axis),), kind="linear")
_pad = Prim(
    "pad", lambda x, width: np.pad(x, width), (lambda g, y, x, width: g[_inside(width, x.shape)],), kind="linear"
)
_concatenate = Prim(
    "concatenate",
    lambda *xs, axis: np.concatenate(xs, axis),
    vjp=lambda g, y, *xs, axis: _cut(g, xs, axis),
    kind="joint",
)
_stack = Prim(
    "stack",
    lambda *xs, axis: np.stack(xs, axis),
    vjp=lambda g, y, *xs, axis: [g[(builtins.slice(None),) * (axis % g.ndim) + (i,)] for i in range(len(xs))],
    kind="joint",
)


def reshape(x: Any, shape: int | Sequence[int]) -> Any:
    """x with the same elements in another shape (one -1 is inferred), in C order."""
    return bind(_reshape, x, shape=as_tuple(shape))


def ravel(x: Any) -> Any:
    """x flattened to one axis."""
    return reshape(x, (-1,))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes permuted; reversed for None."""
    x = as_array(x)
    ndim = x.ndim
    order = range(ndim - 1, -1, -1) if axes is None else [normalize_axis_index(a, ndim, "transpose") for a in axes]
    return bind(_transpose, x, axes=tuple(order))


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Any:
    """x with the axes `source` at the places `destination`."""
    x = as_array(x)
    sources, places = (axes_of("moveaxis", a, x.ndim) for a in (source, destination))
    if len(sources) != len(places):
        raise ValueError(f"moveaxis: {len(sources)} axes {list(sources)} and {len(places)} places {list(places)}")
    order = [a for a in range(x.ndim) if a not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return transpose(x, order)


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """x with two axes exchanged."""
    x = as_array(x)
    order = list(range(x.ndim))
    a, b = (normalize_axis_index(axis, x.ndim, "swapaxes") for axis in (axis1, axis2))
    order[a], order[b] = b, a
    return transpose(x, order)


def expand_dims(x: Any, axis: int | Sequence[int]) -> Any:
    """x with axes of length 1 inserted at `axis` of the result."""
    x = as_array(x)
    ndim = x.ndim + (1 if isinstance(axis, (int, np.integer)) else len(axis))
    inserted, rest = axes_of("expand_dims", axis, ndim), iter(x.shape)
    return reshape(x, [1 if i in inserted else next(rest) for i in range(ndim)])


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """x without its axes of length 1 (only those in `axis`, if given)."""
    x = as_array(x)
    ones = [a for a, n in enumerate(x.shape) if n == 1]
    # a scalar has an axis 0, as in NumPy
    dropped = ones if axis is None else axes_of("squeeze", axis, x.ndim or 1)[: x.ndim]
    if not set(dropped) <= set(ones):
        raise ValueError(f"squeeze: axes {sorted(dropped)} of shape {list(x.shape)} are not all of length 1")
    return reshape(x, [n for i, n in enumerate(x.shape) if i not in dropped])


def concatenate(xs: Sequence[Any], axis: int | None = 0) -> Any:
    """The arrays joined along an existing axis (flattened first, for None)."""
    if axis is None:
        xs, axis = [ravel(x) for x in xs], 0
    return bind(_concatenate, *map(as_array, xs), axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """The arrays joined along a new axis."""
    return bind(_stack, *map(as_array, xs), axis=axis)


def hstack(xs: Sequence[Any]) -> Any:
    """The arrays joined along their second axis, or along the only one that they have."""
    xs = [_with_axes(x, 1) for x in xs]
    return concatenate(xs, 1 if xs and xs[0].ndim > 1 else 0)


def vstack(xs: Sequence[Any]) -> Any:
    """The arrays joined along their first axis; those of one axis are rows."""
    return concatenate([_with_axes(x, 2) for x in xs])


def tile(x: Any, reps: int | Sequence[int]) -> Any:
    """x repeated as a whole, reps[i] times along axis i; the shorter of reps and x's shape gets ones in front."""
    counts = as_tuple(np.ravel(reps))
    x = _with_axes(x, len(counts))
    pairs = list(zip((1,) * (x.ndim - len(counts)) + counts, x.shape, strict=True))
    apart = reshape(x, [k for _, n in pairs for k in (1, n)])  # the copies stand along an axis before each axis
    return reshape(broadcast_to(apart, sum(pairs, ())), [r * n for r, n in pairs]).copy()


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> list:
    """x cut along `axis` into equal sections, or before each of the given indices."""
    x = as_array(x)
    axis = normalize_axis_index(axis, x.ndim, "split")
    n = x.shape[axis]
    if isinstance(indices_or_sections, (int, np.integer)):
        if n % indices_or_sections:
            raise ValueError(
                f"split: axis {axis} of length {n} does not divide into {indices_or_sections} equal sections"
            )
        indices: Sequence[int] = [i * (n // indices_or_sections) for i in range(1, indices_or_sections)]
    else:
        indices = indices_or_sections
    before = (builtins.slice(None),) * axis
    return [x[before + (builtins.slice(a, b),)] for a, b in zip([0, *indices], [*indices, n], strict=True)]


def pad(x: Any, pad_width: int | Sequence, mode: str = "constant") -> Any:
    """x with zeros around it; pad_width as NumPy's: n, (before, after), or one pair per axis."""
    if mode != "constant":
        raise ValueError(f"pad: mode {mode!r} has no derivative rule, expected 'constant'")
    x = as_array(x)
    return bind(_pad, x, width=tuple(map(tuple, np.broadcast_to(pad_width, (x.ndim, 2)).tolist())))


def flip(x: Any, axis: int | Sequence[int] | None = None) -> Any:
    """x reversed along `axis` (all axes for None)."""
    return bind(_flip, x, axis=tuple(axis) if isinstance(axis, Sequence) else axis)


def roll(x: Any, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Any:
    """x rotated along `axis`; what leaves at one end enters at the other."""
    x = as_array(x)
    if axis is None:
        return reshape(roll(ravel(x), shift, 0), x.shape)
    return bind(_roll, x, shift=shift, axis=axis)


def _with_axes(x: Any, ndim: int) -> Any:
    """x with axes of length 1 in front if it has fewer than ndim."""
    x = as_array(x)
    return x if x.ndim >= ndim else reshape(x, (*[1] * (ndim - x.ndim), *x.shape))


def _negated(shift: int | Sequence[int]) -> Any:
    return tuple(-s for s in shift) if isinstance(shift, Sequence) else -shift


def _inside(width: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(before, before + n) for (before, _), n in zip(width, shape, strict=True))


def _cut(g: Any, xs: Sequence[Any], axis: int) -> list:
    ends = np.cumsum([x.shape[axis] for x in xs]).tolist()
    return split(g, ends[:-1], axis)


__all__ = [
    "astype", "broadcast_to", "concatenate", "expand_dims", "flip", "hstack", "moveaxis", "pad", "ravel", "reshape", "roll",
    "split", "squeeze", "stack", "sum_to", "swapaxes", "tile", "transpose", "vstack",
]  # fmt: skip
