"""NumPy's protocols on Tensors: operators, methods, and the tables by which np.exp(x), np.sum(x) or x @ w find our ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from ..engine.tensor import Tensor, describe, value
from . import elementwise as ew
from . import indexing, linalg, reduce, shape
from .einsum import einsum
from .table import UFUNCS

UFUNCS[np.matmul] = linalg.matmul


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return ew.clip(x, min if a_min is None else a_min, max if a_max is None else a_max)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord is not None:
        raise ValueError(f"np.linalg.norm: ord={ord!r} has no derivative rule, expected None (the Euclidean norm)")
    return linalg.norm(x, axis, keepdims)


FUNCTIONS: dict[Callable, Callable] = {
    np.where: ew.where, np.clip: _clip,
    np.sum: reduce.sum, np.mean: reduce.mean, np.max: reduce.max, np.min: reduce.min, np.var: reduce.var, np.std: reduce.std,
    np.prod: reduce.prod, np.cumsum: reduce.cumsum,
    np.reshape: shape.reshape, np.ravel: shape.ravel, np.transpose: shape.transpose, np.moveaxis: shape.moveaxis,
    np.swapaxes: shape.swapaxes, np.expand_dims: shape.expand_dims, np.squeeze: shape.squeeze,
    np.broadcast_to: shape.broadcast_to, np.concatenate: shape.concatenate, np.stack: shape.stack, np.split: shape.split,
    np.pad: shape.pad, np.flip: shape.flip, np.roll: shape.roll, np.astype: shape.astype,
    np.take: indexing.take, np.take_along_axis: indexing.take_along_axis,
    np.dot: linalg.dot, np.outer: linalg.outer, np.tensordot: linalg.tensordot, np.einsum: einsum,
    np.linalg.norm: _norm, np.linalg.solve: linalg.solve, np.linalg.cholesky: linalg.cholesky,
}  # fmt: skip
WITHOUT_DERIVATIVE = frozenset({
    np.shape, np.ndim, np.size, np.zeros_like, np.ones_like, np.full_like, np.empty_like, np.argmax, np.argmin, np.argsort,
    np.any, np.all, np.count_nonzero, np.nonzero, np.allclose, np.isclose, np.array_equal, np.result_type, np.searchsorted,
    np.array2string, np.array_repr, np.array_str, np.iscomplexobj, np.isrealobj,
})  # fmt: skip


def _array_ufunc(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    op = UFUNCS.get(ufunc)
    if op is None or method != "__call__" or kwargs:
        call = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        options = f" with {', '.join(kwargs)}" if kwargs else ""
        raise TypeError(
            f"np.{call}{options} has no derivative rule for {describe(self)}; see tinymeta.ops for the ops that have one"
        )
    return op(*inputs)


def _array_function(self: Tensor, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
    if func in FUNCTIONS:
        return FUNCTIONS[func](*args, **kwargs)
    if func in WITHOUT_DERIVATIVE:
        return func(*map(value, args), **kwargs)
    name = f"{func.__module__}.{func.__name__}".replace("numpy", "np", 1)
    raise TypeError(f"{name} has no derivative rule for {describe(self)}; see tinymeta.ops for the ops that have one")


def _refuse(what: str, instead: str) -> Callable:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{what} of a Tensor {describe(self)} would lose its gradient; {instead}")

    return refuse


def _power(x: Any, n: Any) -> Any:
    return ew.square(x) if type(n) is int and n == 2 else ew.power(x, n)


def _setitem(self: Tensor, index: Any, new: Any) -> NoReturn:
    raise TypeError(
        f"a Tensor {describe(self)} cannot be changed in place; use tm.ops.scatter_add, tm.ops.where or concatenate"
    )


def _varargs(op: Callable) -> Callable:
    """A method that takes its shape or axes as one tuple or as separate ints, like ndarray's."""
    return lambda self, *args: (
        op(self, args[0] if len(args) == 1 and not isinstance(args[0], (int, np.integer)) else args)
        if args
        else op(self)
    )


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
_INSTEAD = "compute with tm.ops, or take the value with tm.stop_gradient(x)"
_METHODS: dict[str, Any] = {
    **{f"__{name}__": op for name, op in {**_BINARY, **_COMPARE}.items()},
    **{f"__r{name}__": _swapped(op) for name, op in _BINARY.items()},
    "__neg__": ew.negative, "__pos__": lambda x: x, "__abs__": ew.absolute,
    "__getitem__": indexing.getitem, "__setitem__": _setitem,
    "__len__": lambda x: len(x.data), "__iter__": lambda x: (x[i] for i in range(len(x.data))),
    "__bool__": lambda x: bool(x.data), "__format__": lambda x, spec: format(x.data[()], spec),
    "__float__": _refuse("float()", _INSTEAD), "__int__": _refuse("int()", _INSTEAD), "__index__": _refuse("index()", _INSTEAD),
    "__array__": _refuse("np.asarray", _INSTEAD + "; join Tensors with np.stack"), "item": _refuse("item()", _INSTEAD),
    "__array_ufunc__": _array_ufunc, "__array_function__": _array_function,
    "T": property(shape.transpose), "mT": property(lambda x: shape.swapaxes(x, -1, -2)),
    "reshape": _varargs(shape.reshape), "transpose": _varargs(shape.transpose),
    "ravel": shape.ravel, "flatten": shape.ravel, "swapaxes": shape.swapaxes, "squeeze": shape.squeeze, "astype": shape.astype,
    "sum": reduce.sum, "mean": reduce.mean, "max": reduce.max, "min": reduce.min, "var": reduce.var, "std": reduce.std,
    "prod": reduce.prod, "cumsum": reduce.cumsum, "clip": ew.clip, "dot": linalg.dot, "take": indexing.take,
    "copy": lambda x: x, "argmax": lambda x, axis=None: x.data.argmax(axis),
    "argmin": lambda x, axis=None: x.data.argmin(axis),
}  # fmt: skip
for _name, _method in _METHODS.items():
    setattr(Tensor, _name, _method)
