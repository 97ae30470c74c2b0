"""NumPy's protocols on Tensors and Batched values: operators, methods, and the tables by which np.exp(x) finds our exp."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from ..engine.batched import Batched, alive, apply
from ..engine.structural import as_tuple, astype, broadcast_to
from ..engine.tensor import Tensor, describe, value
from . import diagonals, indexing, linalg, reduce, shape
from . import elementwise as ew
from .batching import PLAIN, broadcasting, plain_function
from .einsum import einsum
from .table import UFUNCS

UFUNCS |= {np.matmul: linalg.matmul, np.vecdot: linalg.vecdot}
OPTIONS: dict[np.ufunc, set[str]] = {np.vecdot: {"axis"}}  # the keywords of a ufunc that our op has too
EUCLIDEAN = {1: (None, 2), 2: (None, "fro", "f")}  # by the number of axes: what NumPy calls this norm


def _where(condition: Any, *either: Any) -> Any:
    if not either:
        raise TypeError(
            f"np.where({describe(condition)}): how many places it finds depends on the data, expected np.where(condition, x, y)"
        )
    return ew.where(condition, *either)


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return ew.clip(x, min if a_min is None else a_min, max if a_max is None else a_max)


def _full_like(x: Any, fill: Any, dtype: Any = None, order: str = "K", subok: bool = True, *, shape: Any = None) -> Any:
    """The number, which may be differentiated or mapped, in x's dtype and at every place."""
    one = np.ones_like(x, dtype=dtype, shape=())  # of x's library
    fill = astype(fill, one.dtype) if hasattr(fill, "ndim") else one.dtype.type(fill)
    return broadcast_to(one * fill, x.shape if shape is None else shape).copy()


def _astype(x: Any, dtype: Any, copy: bool = True) -> Any:
    return astype(x, dtype)


def _copy(x: Any, order: str = "K", subok: bool = False) -> Any:
    return x.copy()


def _einsum(*operands: Any, optimize: Any = True) -> Any:
    return einsum(*operands)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    axes = x.ndim if axis is None else len(as_tuple(axis))
    if ord not in EUCLIDEAN.get(axes, (None,)):
        raise ValueError(
            f"np.linalg.norm: ord={ord!r} of {describe(x)} has no derivative rule, expected the Euclidean norm: "
            "None, 2 over one axis or 'fro' over two"
        )
    return linalg.norm(x, axis, keepdims)


FUNCTIONS: dict[Callable, Callable] = {
    np.where: _where, np.clip: _clip, np.full_like: _full_like, np.copy: _copy, np.amax: reduce.max, np.amin: reduce.min,
    np.sum: reduce.sum, np.mean: reduce.mean, np.max: reduce.max, np.min: reduce.min, np.var: reduce.var, np.std: reduce.std,
    np.prod: reduce.prod, np.cumsum: reduce.cumsum,
    np.reshape: shape.reshape, np.ravel: shape.ravel, np.transpose: shape.transpose, np.moveaxis: shape.moveaxis,
    np.swapaxes: shape.swapaxes, np.expand_dims: shape.expand_dims, np.squeeze: shape.squeeze,
    np.broadcast_to: shape.broadcast_to, np.concatenate: shape.concatenate, np.stack: shape.stack, np.split: shape.split,
    np.pad: shape.pad, np.flip: shape.flip, np.roll: shape.roll, np.astype: _astype,
    np.hstack: shape.hstack, np.vstack: shape.vstack, np.tile: shape.tile,
    np.take: indexing.take, np.take_along_axis: indexing.take_along_axis, np.repeat: indexing.repeat,
    np.diagonal: diagonals.diagonal, np.trace: diagonals.trace, np.diag: diagonals.diag,
    np.tril: diagonals.tril, np.triu: diagonals.triu,
    np.dot: linalg.dot, np.vdot: linalg.vdot, np.inner: linalg.inner, np.outer: linalg.outer, np.tensordot: linalg.tensordot,
    np.einsum: _einsum,
    np.linalg.norm: _norm, np.linalg.solve: linalg.solve, np.linalg.cholesky: linalg.cholesky,
}  # fmt: skip
WITHOUT_DERIVATIVE = frozenset({
    np.shape, np.ndim, np.size, np.zeros_like, np.ones_like, np.empty_like, np.argmax, np.argmin, np.argsort,
    np.any, np.all, np.count_nonzero, np.nonzero, np.allclose, np.isclose, np.array_equal, np.result_type, np.searchsorted,
    np.array2string, np.array_repr, np.array_str, np.iscomplexobj, np.isrealobj,
})  # fmt: skip


def _array_ufunc(self: Any, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    op = UFUNCS.get(ufunc)
    if op is not None and method == "__call__" and kwargs.keys() <= OPTIONS.get(ufunc, set()):
        return op(*inputs, **kwargs)
    if method == "__call__" and not (kwargs or ufunc.signature or any(type(x) is Tensor for x in inputs)):
        return apply(ufunc, broadcasting, inputs, {}, ufunc.__name__)
    call = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    options = f" with {', '.join(kwargs)}" if kwargs else ""
    raise _without_rule(f"np.{call}{options}", self, inputs)


def _array_function(self: Any, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
    args, kwargs = array_first(args, kwargs)
    if func in FUNCTIONS:
        return call(self, func, args, kwargs)
    if type(self) is Batched and func in PLAIN:
        return plain_function(func, self, args, kwargs)
    if type(self) is Tensor and func in WITHOUT_DERIVATIVE:
        return func(*map(value, args), **{name: value(x) for name, x in kwargs.items()})
    raise _without_rule(_of_numpy(func), self, args)


def _without_rule(name: str, x: Any, given: Sequence) -> TypeError:
    if type(x) is Batched and not any(type(y) is Tensor for y in given):
        return TypeError(
            f"{name} cannot be mapped over {describe(x)}; compose it of tinymeta.ops, or call it on each example in a loop"
        )
    return TypeError(f"{name} has no derivative rule for {describe(x)}; see tinymeta.ops for the ops that have one")


def array_first(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Arguments of a function of NumPy's, the array not by the name that it has there, `a`, which is not always ours."""
    if "a" in kwargs and not args:
        return (kwargs["a"],), {name: x for name, x in kwargs.items() if name != "a"}
    return args, kwargs


def call(self: Any, func: Callable, args: tuple, kwargs: dict) -> Any:
    """Our op for one of FUNCTIONS; TypeError, in a sentence, for an argument of NumPy's that it has not."""
    try:
        return FUNCTIONS[func](*args, **kwargs)
    except TypeError as error:
        raise _about_arguments(error, self, func, args, kwargs) from error.__cause__


def _of_numpy(func: Callable) -> str:
    return f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)


def _about_arguments(error: TypeError, self: Any, func: Callable, args: tuple, kwargs: dict) -> TypeError:
    """The error, unless it is that NumPy's function has an argument that our op has not: then a sentence about that."""
    signature = inspect.signature(FUNCTIONS[func])
    try:
        signature.bind(*args, **kwargs)
    except TypeError as why:
        return TypeError(
            f"{_of_numpy(func)} of {describe(self)}: {why}, expected only {', '.join(signature.parameters)}"
        )
    return error


def _refuse(what: str, instead: str) -> Callable:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        mapped = "mapped value", f"would be one for all examples of the vmap; {_FOR_EACH}"
        kind, why = mapped if type(self) is Batched else ("Tensor", f"would lose its gradient; {instead}")
        raise TypeError(f"{what} of a {kind} {describe(self)} {why}")

    return refuse


def _power(x: Any, n: Any) -> Any:
    return ew.square(x) if type(n) is int and n == 2 else ew.power(x, n)


def _setitem(self: Any, index: Any, new: Any) -> NoReturn:
    raise TypeError(
        f"a {type(self).__name__} {describe(self)} cannot be changed in place; use tm.ops.scatter_add, tm.ops.where or concatenate"
    )


def _varargs(op: Callable) -> Callable:
    """A method that takes its shape or axes as one tuple or as separate ints, like ndarray's."""

    def method(self: Any, *args: Any) -> Any:
        one = len(args) == 1 and not isinstance(args[0], (int, np.integer))
        return op(self, args[0] if one else args) if args else op(self)

    method.__name__ = method.__qualname__ = op.__name__
    return method


def _swapped(op: Callable) -> Callable:
    return lambda a, b: op(b, a)


_BINARY = {
    "add": ew.add, "sub": ew.subtract, "mul": ew.multiply, "truediv": ew.divide, "pow": _power, "matmul": linalg.matmul,
}  # fmt: skip
_COMPARE = {
    "lt": ew.less,
    "le": ew.less_equal,
    "gt": ew.greater,
    "ge": ew.greater_equal,
    "eq": ew.equal,
    "ne": ew.not_equal,
}
_FOR_EACH = "use tm.ops.where(condition, x, y) for a branch, tm.ops.getitem(x, i) for x[i]"
_INSTEAD = "compute with tm.ops, or take the value with tm.stop_gradient(x)"
_OF_MASKS = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "floordiv": np.floor_divide, "mod": np.remainder,
}  # fmt: skip
METHODS: dict[str, Any] = {
    **{f"__{name}__": op for name, op in {**_BINARY, **_COMPARE}.items()},
    **{f"__r{name}__": _swapped(op) for name, op in _BINARY.items()},
    **{f"__{name}__": _swapped(_swapped(op)) for name, op in _OF_MASKS.items()},
    **{f"__r{name}__": _swapped(op) for name, op in _OF_MASKS.items()},
    "__neg__": ew.negative, "__pos__": lambda x: x, "__abs__": ew.absolute,
    "__getitem__": indexing.getitem, "__setitem__": _setitem,
    "__len__": lambda x: len(x.data), "__iter__": lambda x: (x[i] for i in range(len(x))),
    "__bool__": lambda x: bool(x.data), "__format__": lambda x, spec: format(x.data[()], spec),
    "__float__": _refuse("float()", _INSTEAD), "__int__": _refuse("int()", _INSTEAD), "__index__": _refuse("index()", _INSTEAD),
    "__array__": _refuse("np.asarray", _INSTEAD + "; join Tensors with np.stack"), "item": _refuse("item()", _INSTEAD),
    "__array_ufunc__": _array_ufunc, "__array_function__": _array_function,
    "T": property(shape.transpose), "mT": property(lambda x: shape.swapaxes(x, -1, -2)),
    "reshape": _varargs(shape.reshape), "transpose": _varargs(shape.transpose),
    "ravel": shape.ravel, "flatten": shape.ravel, "swapaxes": shape.swapaxes, "squeeze": shape.squeeze, "astype": _astype,
    "sum": reduce.sum, "mean": reduce.mean, "max": reduce.max, "min": reduce.min, "var": reduce.var, "std": reduce.std,
    "prod": reduce.prod, "cumsum": reduce.cumsum, "clip": lambda x, min=None, max=None: ew.clip(x, min, max),
    "dot": linalg.dot, "take": indexing.take, "repeat": indexing.repeat,
    "diagonal": diagonals.diagonal, "trace": diagonals.trace,
    "copy": lambda x: x, "__copy__": lambda x: x, "__deepcopy__": lambda x, memo: x, "__reduce_ex__": _refuse("pickle", _INSTEAD),
    "argmax": lambda x, axis=None, keepdims=False: np.argmax(value(x), axis, keepdims=keepdims),
    "argmin": lambda x, axis=None, keepdims=False: np.argmin(value(x), axis, keepdims=keepdims),
}  # fmt: skip
_OF_BATCHED: dict[str, Any] = {
    **METHODS,
    "__invert__": lambda x: np.invert(x), "any": lambda x, axis=None: np.any(x, axis), "all": lambda x, axis=None: np.all(x, axis),
    "__array_ufunc__": lambda x, *args, **kwargs: _array_ufunc(alive(x), *args, **kwargs),
    "__array_function__": lambda x, *args: _array_function(alive(x), *args),
    "__getitem__": lambda x, index: indexing.getitem(alive(x), index),
    "astype": lambda x, dtype, copy=True: astype(alive(x), dtype),
    "__len__": lambda x: len(np.broadcast_to(0, x.shape)), "__format__": lambda x, spec: repr(x),
    "__bool__": _refuse("bool()", _FOR_EACH),
}  # fmt: skip
for _class, _table in ((Tensor, METHODS), (Batched, _OF_BATCHED)):
    for _name, _method in _table.items():
        setattr(_class, _name, _method)
