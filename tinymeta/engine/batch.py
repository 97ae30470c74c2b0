"""tm.vmap: a function of one example, applied to all examples at once.

f runs once, on `Batched` values (engine/batched.py) that look like one example each. No graph is needed for it, so nothing that f
computes without a gradient (labels, masks, indices) can become a constant of the first example.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import trees
from .batched import Batched, lift, mapping
from .scope import release
from .tensor import THREAD, as_array, describe

_next_level = itertools.count(1).__next__


def vmap(f: Callable, in_axes: Any = 0, out_axes: Any = 0) -> Callable:
    """f of one example as a function of all of them: argument leaves lose the axis `in_axes`, result leaves gain `out_axes`.

    Both are an int for all leaves, None for leaves without the axis (the same for every example), or a tree of these that is a
    prefix of the arguments' tuple or of the result; keyword arguments are mapped along axis 0. As JAX's. Nests with itself and
    with every derivative: tm.vmap(tm.grad(loss), (None, 0, 0)) gives one gradient per example. A kernel op runs as its reference
    composition. ValueError for axes that are missing or of different lengths; TypeError for bool() or float() of a mapped value
    and for an op without a batching rule.
    """

    @functools.wraps(f)
    def vmapped(*args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs)
        leaves = trees.leaves(given)
        axes = [*_axes(in_axes, args, "in_axes"), *_axes(0, kwargs, "")]
        n = _examples(given, axes)
        level = _next_level()
        with mapping(level):
            mapped = [
                x if a is None else Batched(np.moveaxis(x, a, 0) if a else x, level, True)
                for x, a in zip(leaves, axes, strict=True)
            ]
            args, kwargs = trees.unflatten(given, mapped)
            result = f(*args, **kwargs)
        found = zip(trees.items(result), _axes(out_axes, result, "out_axes"), strict=True)
        values = [_leave(lift(y, level), a, n, path) for (path, y), a in found]
        if THREAD.depth == 0 and not THREAD.maps:
            values = release(values, keep=leaves)
        return trees.unflatten(result, values)

    return vmapped


def _axes(axes: Any, tree: Any, name: str) -> list[int | None]:
    """The axis of each leaf of the tree."""
    try:
        found = trees.spread(axes, tree)
    except ValueError as error:
        raise ValueError(f"vmap: {name} is not a prefix of what it stands for: {error}") from None
    for a in found:
        if a is not None and not isinstance(a, (int, np.integer)):
            raise TypeError(f"vmap: {name} holds {a!r}, expected an int or None")
    return found


def _examples(given: tuple, axes: list) -> int:
    """The length of the mapped axes, which must agree."""
    names = [f"argument {i}{path}" for i, x in enumerate(given[0]) for path, _ in trees.items(x)]
    names += [f"argument {path}" for path, _ in trees.items(given[1])]
    sizes: dict[int, str] = {}
    for name, x, axis in zip(names, trees.leaves(given), axes, strict=True):
        if axis is not None:
            if not -getattr(x, "ndim", 0) <= axis < getattr(x, "ndim", 0):
                raise ValueError(
                    f"vmap: {name} is {describe(x)}, without an axis {axis} to map; pass None in in_axes for it"
                )
            sizes.setdefault(x.shape[axis], f"{name} {describe(x)} has {x.shape[axis]} along axis {axis}")
    if len(sizes) != 1:
        found = "; ".join(sizes.values()) if sizes else "no argument has one (in_axes is None for all of them)"
        raise ValueError(f"vmap: the mapped axes must be equally long: {found}")
    return next(iter(sizes))


def _leave(y: Batched, axis: int | None, n: int, path: str) -> Any:
    """All examples' values, with their axis at `axis`."""
    array = as_array(y.array)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"vmap: the function returned {array.dtype} at result{path}, expected arrays or numbers")
    if axis is None:
        if y.mapped:
            raise ValueError(f"vmap: result{path} {describe(y)} differs between examples, but its out_axes is None")
        return array
    if not -y.ndim - 1 <= axis <= y.ndim:
        raise ValueError(f"vmap: result{path} {describe(y)} cannot have its examples along axis {axis} (out_axes)")
    if y.mapped:
        return np.moveaxis(array, 0, axis) if axis else array
    shape = list(y.shape)
    shape.insert(axis % (y.ndim + 1), n)
    return np.broadcast_to(np.expand_dims(array, axis), tuple(shape))
