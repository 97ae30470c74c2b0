"""A strict stand-in for a GPU array: NumPy's two protocols over an inner ndarray, and no implicit conversion of any kind.

Like a CuPy array it refuses to become a NumPy array, to be mixed with one, or to be an index of a Python list; unlike one it needs
no GPU. What runs on it runs on any array library that implements the two protocols.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np


class ImplicitConversion(TypeError):
    pass


def _refuse(*args: Any, **kwargs: Any) -> NoReturn:
    raise ImplicitConversion("implicit conversion of a Duck to the host")


class Duck(np.lib.mixins.NDArrayOperatorsMixin):
    __array__ = __int__ = __index__ = _refuse
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = np.asarray(inner)

    shape = property(lambda self: self.inner.shape)
    dtype = property(lambda self: self.inner.dtype)
    ndim = property(lambda self: self.inner.ndim)
    size = property(lambda self: self.inner.size)
    nbytes = property(lambda self: self.inner.nbytes)
    T = property(lambda self: Duck(self.inner.T))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "at" or "where" in kwargs or any(type(x) not in KNOWN for x in inputs):
            return NotImplemented  # so does CuPy, which has ufunc.at of its own: `add` below
        return wrap(
            getattr(ufunc, method)(*map(unwrap, inputs), **{k: unwrap(v) for k, v in kwargs.items()}), kwargs.get("out")
        )

    def __array_function__(self, func: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        if not all(issubclass(t, Duck) for t in types) or "initial" in kwargs:
            return NotImplemented
        if func is np.asarray:  # np.asarray(x, like=duck): an explicit transfer, as to a GPU
            return Duck(args[0])
        return wrap(func(*map(unwrap, args), **{k: unwrap(v) for k, v in kwargs.items()}))

    def __getitem__(self, index: Any) -> Duck:
        return Duck(self.inner[unwrap_index(index)])

    def __setitem__(self, index: Any, new: Any) -> None:
        self.inner[unwrap_index(index)] = unwrap(new)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Duck]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:  # explicit questions, which CuPy answers too
        return bool(self.inner)

    def __float__(self) -> float:
        return float(self.inner)

    def astype(self, dtype: Any, **options: Any) -> Duck:
        return Duck(self.inner.astype(dtype, **options))

    def swapaxes(self, axis1: int, axis2: int) -> Duck:
        return Duck(self.inner.swapaxes(axis1, axis2))

    def max(self, axis: Any = None, **options: Any) -> Duck:
        return Duck(self.inner.max(axis, **options))

    def reshape(self, *shape: Any) -> Duck:
        return Duck(self.inner.reshape(*shape))

    def sum(self, axis: Any = None, **options: Any) -> Duck:
        return Duck(self.inner.sum(axis, **options))

    def all(self, axis: Any = None) -> Duck:
        return Duck(self.inner.all(axis))

    def copy(self) -> Duck:
        return Duck(self.inner.copy())

    def __repr__(self) -> str:
        return f"Duck({self.inner!r})"


class add:
    """As cupy.add."""

    @staticmethod
    def at(target: Duck, index: Any, values: Duck) -> None:
        np.add.at(target.inner, unwrap_index(index), unwrap(values))


KNOWN = (Duck, np.ndarray, tuple, list, slice, bool, int, float, *(np.dtype(c).type for c in "?bBhHiIlLefd"))


def unwrap(x: Any) -> Any:
    """The inner arrays of Ducks in a (nested) argument; a NumPy array beside a Duck is the mixing that a GPU library refuses."""
    if isinstance(x, Duck):
        return x.inner
    if isinstance(x, (list, tuple)):
        return type(x)(map(unwrap, x))
    if isinstance(x, np.ndarray):
        raise ImplicitConversion(f"a NumPy array {x.dtype}{list(x.shape)} is mixed with a Duck")
    return x


def unwrap_index(index: Any) -> Any:
    return tuple(map(unwrap_index, index)) if isinstance(index, tuple) else unwrap(index)


def wrap(result: Any, out: Any = None) -> Any:
    if out is not None:
        return out[0] if isinstance(out, tuple) else out
    if isinstance(result, (np.ndarray, np.generic)):
        return Duck(result)
    if isinstance(result, (list, tuple)) and any(isinstance(r, np.ndarray) for r in result):
        return type(result)(map(wrap, result))
    return result
