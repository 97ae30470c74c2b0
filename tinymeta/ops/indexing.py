"""Indexing as a linear op: reading (`getitem`, take) and its adjoint, adding into zeros (`scatter_add`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from ..engine.batched import raw
from ..engine.structural import as_tuple
from ..engine.tensor import Prim, Tensor, as_array, bind, describe, examine, value
from . import elementwise as ew
from .shape import expand_dims, reshape, tile

ARRAY = "array"  # in an index, the place of an array: arrays are inputs of the primitives, the rest is a parameter

_getitem: Prim = Prim(
    "getitem",
    lambda x, *arrays, index: x[filled(index, arrays)],
    (lambda g, y, x, *arrays, index: bind(_put, g, *arrays, index=index, shape=x.shape),),
    kind="linear",
)
_put: Prim = Prim(
    "put",
    lambda g, *arrays, index, shape: _add_at(np.zeros_like(g, shape=shape), filled(index, arrays), g),
    (lambda g, y, x, *arrays, index, shape: bind(_getitem, g, *arrays, index=index),),
    kind="linear",
)


def getitem(x: Any, index: Any) -> Any:
    """x[index], basic or advanced, as NumPy."""
    index, arrays = _parted(index)
    return bind(_getitem, x, *arrays, index=index)


def put(g: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of that shape with g added at `index`: the adjoint of getitem."""
    index, arrays = _parted(index)
    return bind(_put, g, *arrays, index=index, shape=shape)


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The elements of x at integer `indices` along `axis` (of the flattened array for None)."""
    indices = _integers(indices)
    if axis is None:
        return getitem(reshape(x, -1), indices)
    x = as_array(x)
    x = x if x.ndim else reshape(x, (1,))
    return getitem(x, (slice(None),) * normalize_axis_index(axis, x.ndim, "take") + (indices,))


def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """Each element of x as often as `repeats` says, one count or one for each place of `axis` (of the flattened array for None)."""
    x, counts = as_array(x), as_tuple(np.ravel(repeats))
    x = reshape(x, -1) if axis is None or x.ndim == 0 else x
    axis = normalize_axis_index(axis or 0, x.ndim, "repeat")
    n = x.shape[axis]
    if len(counts) not in (1, n) or min(counts, default=0) < 0:
        raise ValueError(
            f"repeat: counts {list(counts)} for axis {axis} of {describe(x)}, expected one or {n} counts, none negative"
        )
    if len(counts) != 1:
        return take(x, np.repeat(np.arange(n, like=value(x)), counts), axis)
    copies = tile(expand_dims(x, axis + 1), counts + (1,) * (x.ndim - axis - 1))
    return reshape(copies, (*x.shape[:axis], n * counts[0], *x.shape[axis + 1 :]))


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """The elements of x at `indices` along `axis`, the other axes matched (broadcast) one to one."""
    x = as_array(x)
    axis = normalize_axis_index(axis, x.ndim, "take_along_axis")
    if indices.ndim != x.ndim:
        raise ValueError(f"take_along_axis: indices {describe(indices)} of {describe(x)}, expected as many axes")
    return getitem(x, tuple(indices if a == axis else _grid(x, a, indices) for a in range(x.ndim)))


def scatter_add(x: Any, index: Any, values: Any) -> Any:
    """x with `values` added at `index`; an element that is indexed twice receives both. x itself is unchanged."""
    zeros = np.zeros_like(value(x), shape=getitem(value(x), index).shape)
    return x + put(values + zeros, index, x.shape)


def one_hot(labels: Any, classes: int, dtype: Any = np.float32) -> Any:
    """Integer labels (...) as rows (..., classes) of zeros with a single one. ValueError for a label out of range."""
    labels = labels if hasattr(labels, "dtype") and not isinstance(labels, np.generic) else np.asarray(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"one_hot: labels are {labels.dtype}, expected integers")
    check_range("one_hot", labels, classes)
    return ew.equal(labels[..., None], np.arange(classes, like=labels)).astype(dtype)


def check_range(op: str, labels: Any, classes: int, there: str = "") -> None:
    """ValueError, naming op and place, unless all labels lie in 0 to classes - 1."""

    def check(labels: Any) -> None:
        if labels.size and not (np.min(labels) >= 0 and np.max(labels) < classes):
            found = f"[{np.min(labels)}, {np.max(labels)}]"
            raise ValueError(f"{op}: labels lie in {found}, expected 0 to {classes - 1}{there}")

    examine(check, raw(labels))


def _add_at(zeros: Any, index: Any, g: Any) -> Any:
    if _is_basic(index):
        zeros[index] += g
    else:
        _add_of(zeros).at(zeros, index, g)
    return zeros


def _add_of(array: Any) -> Any:
    """The ufunc of the array's own library: CuPy has ufunc.at, but not behind NumPy's ufuncs."""
    return getattr(sys.modules[type(array).__module__.partition(".")[0]], "add", np.add)


def _is_basic(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is Ellipsis or isinstance(i, (int, np.integer, slice)) for i in items)


def _parted(index: Any) -> tuple[Any, list]:
    """The index with ARRAY for each of its arrays, and the arrays."""
    if type(index) is int or type(index) is slice:
        return index, []
    index = tuple(map(_item, index)) if isinstance(index, tuple) else _item(index)
    items = index if isinstance(index, tuple) else (index,)
    arrays = [i for i in items if _is_array(i)]
    return (tuple(ARRAY if _is_array(i) else i for i in items) if arrays else index), arrays


def _item(i: Any) -> Any:
    """True and False are masks without axes, and no integers."""
    return np.asarray(i) if isinstance(i, (bool, np.bool_)) else _frozen(i)


def _frozen(i: Any) -> Any:
    """A list as one of our own, which nobody can change before the sweep; not as an array, which would be NumPy's only."""
    if not isinstance(i, (list, tuple)):
        return i
    return [k.copy() if type(k) is np.ndarray else _frozen(k) for k in i]


def _integers(indices: Any) -> Any:
    """The indices of take, for which True is 1 and no mask."""
    if type(indices) is int:
        return indices
    array = as_array(indices)
    array = array.astype(np.intp) if array.dtype.kind == "b" else array
    return array if hasattr(indices, "ndim") else array.tolist()


def filled(index: Any, arrays: Sequence) -> Any:
    """The index with its arrays back in their places."""
    supply = iter(arrays)
    return tuple(next(supply) if i is ARRAY else i for i in index) if arrays else index


def _is_array(i: Any) -> bool:
    if type(i) is Tensor:
        raise TypeError(f"getitem: an index is a Tensor of {i.dtype}, expected integers or booleans")
    return hasattr(i, "dtype") and not isinstance(i, np.generic)


def _grid(x: Any, axis: int, indices: Any) -> Any:
    shape = [1] * x.ndim
    shape[axis] = x.shape[axis]
    return np.arange(x.shape[axis], like=indices).reshape(shape)
