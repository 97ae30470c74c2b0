"""The batching rules, one per family of primitives: what a primitive of one example is on whole arrays.

A rule is called as rule(f, arrays, mapped, params): the examples lie along axis 0 of the arrays that are mapped, at least one is,
and so they lie in the result. Arrays that are not mapped stay as they are wherever NumPy can broadcast them.
"""

from __future__ import annotations

import functools
import inspect
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from ..engine import structural
from ..engine.batched import RULES, Batched, apply, raw
from ..engine.structural import broadcast_to, sum_to
from ..engine.tensor import IDENTITY, describe
from . import conv, indexing, linalg, reduce, shape
from .einsum import _einsum, einsum
from .indexing import filled, getitem, put
from .shape import moveaxis, reshape, swapaxes

# ---- broadcasting: elementwise ops, and those whose last axes are their own business ----


def broadcasting(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    """The ones go where the examples' own axes then broadcast as they did."""
    return f(*_aligned(xs, mapped), **params)


def matmul(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    """Through the op, which makes one large product of many with the same matrix; a left one is brought to the right."""
    a, b = _aligned(xs, mapped)
    if a.ndim == 2:
        return swapaxes(linalg.matmul(swapaxes(b, -1, -2), swapaxes(a, -1, -2)), -1, -2)
    return linalg.matmul(a, b)


def convolution(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    """Examples that share a kernel are more images; otherwise they are tasks."""
    x, w = xs
    if mapped[1] or x.ndim != 5 or w.ndim != 4:
        return broadcasting(f, xs, mapped, params)
    y = f(reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])), w, **params)
    return reshape(y, (*x.shape[:2], *y.shape[1:]))


def windows(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    x = _spread(xs[0], mapped[0], _examples(xs, mapped))
    return broadcasting(f, [x, *xs[1:]], [True, *mapped[1:]], params)


def _aligned(xs: Sequence, mapped: Sequence[bool]) -> list:
    rank = max(_ndim(x) - m for x, m in zip(xs, mapped, strict=True))
    return [_expanded(x, rank + 1) if m else x for x, m in zip(xs, mapped, strict=True)]


def _expanded(x: Any, ndim: int) -> Any:
    return x if x.ndim == ndim else reshape(x, (x.shape[0], *[1] * (ndim - x.ndim), *x.shape[1:]))


def _spread(x: Any, mapped: bool, n: int) -> Any:
    return x if mapped else broadcast_to(x, (n, *x.shape))


def _examples(xs: Sequence, mapped: Sequence[bool]) -> int:
    return next(x.shape[0] for x, m in zip(xs, mapped, strict=True) if m)


def _ndim(x: Any) -> int:
    return x.ndim if hasattr(x, "ndim") else np.ndim(x)


# ---- axes: reductions and moves, each with its axes counted one further ----


def along_axes(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    return f(*xs, **params | {"axis": _further(params["axis"], xs[0].ndim - 1)})


def along_axis(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    """As `along_axes`, for one axis; for None the examples are flattened."""
    if params["axis"] is not None:
        return along_axes(f, xs, mapped, params)
    (x,) = xs
    y = f(reshape(x, (x.shape[0], math.prod(x.shape[1:]))), **params | {"axis": 1})
    return reshape(y, (*y.shape, *[1] * (x.ndim - 2))) if params.get("keepdims") else y


def join(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    n = _examples(xs, mapped)
    xs = [_spread(x, m, n) for x, m in zip(xs, mapped, strict=True)]
    if xs[0].ndim == 1 and f is not shape._stack:
        raise ValueError("zero-dimensional arrays cannot be concatenated")
    return f(*xs, axis=_further(params["axis"], xs[0].ndim - (f is not shape._stack)))


def _further(axis: Any, ndim: int) -> Any:
    """The same axes of an array with an axis more in front."""
    if axis is None:
        return tuple(range(1, ndim + 1))
    if isinstance(axis, (tuple, list)):
        return tuple(a + 1 for a in normalize_axis_tuple(axis, ndim))
    return normalize_axis_index(axis, ndim) + 1 if ndim else ()


# ---- shapes ----


def reshaped(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    (x,), target = xs, params["shape"]
    known = math.prod(n for n in target if n != -1)
    missing = math.prod(x.shape[1:]) // known if known else -1
    return f(x, shape=(x.shape[0], *(missing if n == -1 else n for n in target)))


def broadcast(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    (x,), target = xs, params["shape"]
    return broadcast_to(_expanded(x, len(target) + 1), (x.shape[0], *target))


def summed_to(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    (x,), target = xs, params["shape"]
    kept = (x.shape[0], *[1] * (x.ndim - 1 - len(target)), *target)
    return reshape(sum_to(x, kept), (x.shape[0], *target))


def sums_of_products(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    left, output = params["spec"].split("->")
    letter = next(c for c in string.ascii_letters if c not in params["spec"])
    terms = [letter * m + term for term, m in zip(left.split(","), mapped, strict=True)]
    return einsum(f"{','.join(terms)}->{letter}{output}", *xs)


# ---- indexing ----


def read(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    (x, *arrays), index = xs, params["index"]
    if not mapped[0]:
        return _read_each(x, arrays, mapped[1:], index)
    items = _items(index, arrays, x.ndim - 1)
    if not any(mapped[1:]) and _start(items) is not None:
        return getitem(x, (slice(None), *items))
    flat = reshape(x, (x.shape[0], math.prod(x.shape[1:])))
    return getitem(flat, _places(x, x.shape[1:], arrays, mapped[1:], index))


def add_at(f: Callable, xs: list, mapped: list[bool], params: dict) -> Any:
    (g, *arrays), index, target = xs, params["index"], params["shape"]
    n, items = _examples(xs, mapped), _items(index, arrays, len(target))
    if not any(mapped[1:]) and _start(items) is not None:
        return put(g, (slice(None), *items), (n, *target))
    places = _places(arrays[0] if arrays else g, target, arrays, mapped[1:], index)
    return reshape(put(_spread(g, mapped[0], n), places, (n, math.prod(target))), (n, *target))


def _places(like: Any, target: tuple[int, ...], arrays: list, mapped: list[bool], index: Any) -> tuple:
    """Index, into the flattened examples, of what `index` finds in arrays of shape `target`."""
    numbers = np.arange(math.prod(target), like=raw(like)).reshape(target)
    if not any(mapped):
        return (slice(None), getitem(numbers, filled(index, arrays)))
    found = _read_each(numbers, arrays, mapped, index)
    rows = np.arange(found.shape[0], like=raw(like)).reshape(-1, *[1] * (found.ndim - 1))
    return (rows, found)


def _read_each(x: Any, arrays: list, mapped: list[bool], index: Any) -> Any:
    """x[index] for each example's own index."""
    if any(m and _is_mask(a) for a, m in zip(arrays, mapped, strict=True)):
        raise TypeError("a mapped boolean index finds another number of elements in every example; use tm.ops.where")
    lists = [np.ndim(i) for i in _items(index, arrays, x.ndim) if isinstance(i, list)]
    rank = max(0, *lists, *(1 if _is_mask(a) else a.ndim - m for a, m in zip(arrays, mapped, strict=True)))
    items = _items(index, [_expanded(a, rank + 1) if m else a for a, m in zip(arrays, mapped, strict=True)], x.ndim)
    return moveaxis(getitem(x, items), _start(items) or 0, 0)


def _items(index: Any, arrays: list, ndim: int) -> tuple:
    """The index of an array of `ndim` axes as a tuple, with slices for `...` (which parts arrays even if it stands for none)."""
    index = filled(index, arrays)
    items = index if isinstance(index, tuple) else (index,)
    arrays = [np.asarray(i) if type(i) is list else i for i in items]
    taken = sum(i.ndim if _is_mask(i) else 1 for i in arrays if i is not None and i is not Ellipsis)
    dots: list[Any] = [slice(None)] * (ndim - taken) or [...]
    return tuple(j for i in items for j in (dots if i is Ellipsis else [i]))


def _start(items: tuple) -> int | None:
    """Where the axes of the index arrays begin in the result; None if they come first because the arrays are no neighbours."""
    advanced = [k for k, i in enumerate(items) if not (i is None or i is Ellipsis or isinstance(i, slice))]
    if all(isinstance(items[k], (int, np.integer)) for k in advanced):
        return 0
    neighbours = advanced[-1] - advanced[0] < len(advanced)
    return sum(i is not Ellipsis for i in items[: advanced[0]]) if neighbours else None


def _is_mask(i: Any) -> bool:
    return getattr(getattr(i, "dtype", None), "kind", "") == "b"


# ---- NumPy's functions that have no derivative ----


def plain_function(func: Callable, x: Batched, args: tuple, kwargs: dict) -> Any:
    """func(*args) for one of PLAIN, x being the mapped value among its arguments."""
    if func in LIKE:
        return Batched(func(x.array, *args[1:], **{"shape": x.shape} | kwargs), x.level, False)
    if func in SEARCHES:
        (rule, axis), (array, params) = SEARCHES[func], named(func, args, kwargs)
        return apply(func, rule, (array,), {"axis": axis} | params, func.__name__)
    return func(*args, **kwargs, like=raw(x)) if func is np.arange else getattr(x, func.__name__)


def named(func: Callable, args: tuple, kwargs: dict) -> tuple[Any, dict]:
    """(the array that one of SEARCHES looks through, all other arguments by their names)."""
    params = _signature(func).bind(*args, **kwargs).arguments
    if params.pop("out", None) is not None:
        raise TypeError(f"np.{func.__name__} with out= of {describe(params['a'])}: expected none, use what it returns")
    return params.pop("a"), params


_signature = functools.cache(inspect.signature)
LIKE = (np.zeros_like, np.ones_like, np.empty_like)
SEARCHES: dict[Callable, tuple[Callable, int | None]] = {
    np.argmax: (along_axis, None), np.argmin: (along_axis, None), np.argsort: (along_axis, -1),
    np.any: (along_axes, None), np.all: (along_axes, None), np.count_nonzero: (along_axes, None),
}  # fmt: skip
PLAIN = {*LIKE, *SEARCHES, np.arange, np.shape, np.ndim, np.size}

RULES["elementwise"] = broadcasting
FAMILIES: dict[Callable, Sequence] = {
    broadcasting: (linalg._solve, linalg._cholesky, conv._match),
    matmul: (linalg._matmul,),
    convolution: (conv._correlate, conv._spread),
    windows: (conv._gather, conv._scatter, conv._max_pool),
    along_axes: (reduce._sum, reduce._mean, reduce._max, reduce._min, reduce._cumsum, shape._flip, shape._roll),
    join: (shape._concatenate, shape._stack),
    reshaped: (shape._reshape,),
    broadcast: (structural._broadcast,),
    summed_to: (structural._sum_to_prim,),
    sums_of_products: (_einsum,),
    read: (indexing._getitem,),
    add_at: (indexing._put,),
    lambda f, xs, mapped, params: f(*xs, **params): (structural._astype, IDENTITY),
    # which refuses to end a gradient in complex numbers
    lambda f, xs, mapped, params: structural.astype(*xs, **params): (structural._cast,),
    lambda f, xs, mapped, params: f(*xs, axes=(0, *(a + 1 for a in params["axes"]))): (shape._transpose,),
    lambda f, xs, mapped, params: f(*xs, width=((0, 0), *params["width"])): (shape._pad,),
}
for _rule, _prims in FAMILIES.items():
    RULES.update(dict.fromkeys(_prims, _rule))
