"""Capture: f runs once on Symbols, arrays that write down every primitive that is applied to them.

A Symbol carries the numbers of this run, so shapes, dtypes and rules see what they always see, and a derivative's Tensor or a
vmap's Batched value may hold one. What f would decide by numbers, bool() or float() or np.asarray, is refused: it would be decided
once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from sys import _getframe
from typing import Any, NoReturn

import numpy as np

from ..engine import structural, trees
from ..engine.batched import Batched, raw
from ..engine.tensor import CAPTURES, OPEN, THREAD, Prim, Tensor, _user_frame, as_array, bind, describe
from ..ops import indexing
from ..ops.batching import LIKE, SEARCHES, named
from ..ops.protocols import FUNCTIONS, METHODS, OPTIONS, array_first, call
from ..ops.table import UFUNCS
from .graph import Check, Op, Program, Site, Value, line
from .plan import is_view


class Symbol:
    """An array of the capture `log`: its numbers in this run and its Value in the program."""

    __slots__ = ("array", "log", "value")
    __hash__ = object.__hash__
    __array_priority__ = 1500

    def __init__(self, array: Any, value: Value, log: Log) -> None:
        self.array, self.value, self.log = array, value, log

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim)
    size = property(lambda self: self.array.size)
    nbytes = property(lambda self: self.array.nbytes)

    def __repr__(self) -> str:
        return f"<captured {describe(self.array)}>"


class Log:
    """One capture: the ops so far, the checks, and the constants by the array's identity."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.checks: list[Check] = []
        self.constants: dict[int, Value] = {}
        self.in_place = False
        self.open = True

    def input(self, array: Any) -> Symbol:
        return Symbol(array, Value(array.shape, array.dtype), self)

    def operand(self, x: Any) -> Any:
        """What stands for x in the program: a Value, or x itself if it is a number or no array at all."""
        if type(x) is Symbol:
            return x.value
        x = np.asarray(x) if isinstance(x, (list, tuple)) else x
        if not is_array(x) or isinstance(x, np.generic):
            return x
        if id(x) not in self.constants:
            self.constants[id(x)] = value = Value(x.shape, x.dtype, constant=x)
            value.site = _site()
        return self.constants[id(x)]

    def record(self, prim: Prim, inputs: tuple, params: dict, data: Any) -> Any:
        code, at = _site()  # a tuple of its own, by which an op that is written another way is known as this one
        op = Op(prim, tuple(map(self.operand, inputs)), params, (code, at), many=type(data) is tuple)
        arrays = data if op.many else (data,)
        op.outputs = tuple(Value(np.shape(a), a.dtype, op) for a in arrays)
        for value, array in zip(op.outputs, arrays, strict=True):
            value.order = tuple(np.argsort([-s for s in getattr(array, "strides", ())], kind="stable").tolist())
        self.ops.append(op)
        symbols = tuple(Symbol(as_array(a), v, self) for a, v in zip(arrays, op.outputs, strict=True))
        return symbols if op.many else symbols[0]


def apply(prim: Prim, arrays: tuple, params: dict) -> Any:
    """The primitive's value, written down if a Symbol is among the arrays."""
    log = _log_of(arrays)
    if log is None:
        return prim.forward(*arrays, **params)
    if prim in (indexing._getitem, indexing._put):
        _refuse_masks(arrays[1:])
    data = prim.forward(*[x.array if type(x) is Symbol else x for x in arrays], **params)
    return log.record(prim, arrays, params, data)


def _refuse_masks(index: tuple) -> None:
    for x in index:
        if type(x) is Symbol and x.dtype.kind == "b":
            raise TypeError(
                f"tm.compile: the count of True in a captured value {describe(x)}, which is an index here, would be decided once: "
                "use tm.ops.where, and sum(where(mask, x, 0)) / sum(mask) for a mean"
            )


def examine(check: Callable, given: tuple, again: bool) -> None:
    """check(*given) now, and `again` after each run of the program."""
    log = _log_of(map(raw, given))
    check(*[raw(x).array if type(raw(x)) is Symbol else x for x in given])
    if log is not None and again:
        log.checks.append(Check(check, tuple(log.operand(raw(x)) for x in given)))


def _log_of(arrays: Any) -> Log | None:
    return next((_alive(x).log for x in arrays if type(x) is Symbol), None)


def _alive(x: Symbol) -> Symbol:
    if not x.log.open:
        raise TypeError(f"a captured value {describe(x)} is used after its capture; return it from the function")
    return x


def _site() -> Site:
    if THREAD.site is not None and THREAD.site[0] is not None:
        return THREAD.site
    frame = _user_frame(_getframe(2))
    return frame.f_code, frame.f_lasti


class _Hook:
    @staticmethod
    def running(prim: Prim) -> Callable:
        return lambda *arrays, **params: apply(prim, arrays, params)

    examine = staticmethod(examine)


@contextlib.contextmanager
def _capturing() -> Iterator[Log]:
    log = Log()
    CAPTURES.append(_Hook)
    OPEN.append(0)
    THREAD.captures += 1
    try:
        yield log
    finally:
        THREAD.captures -= 1
        OPEN.pop()
        CAPTURES.pop()
        log.open = False


def capture(f: Callable, args: tuple, kwargs: dict) -> tuple[Program, Any]:
    """(program, f's result with Values for what was computed): `args` and `kwargs` are trees whose arrays are inputs."""
    leaves = trees.leaves((args, kwargs))
    with _capturing() as log:
        symbols = [log.input(x) if is_array(x) else x for x in leaves]
        given = trees.unflatten((args, kwargs), symbols)
        result = f(*given[0], **given[1])
        _check_containers(given, symbols)
        for path, x in trees.items(result):
            check_numbers(f"the result{path}", x)
        result = trees.map(log.operand, result)
    inputs = [x.value for x in symbols if type(x) is Symbol]
    return Program(inputs, log.ops, trees.leaves(result), log.checks, log.in_place), result


def _check_containers(given: Any, symbols: list) -> None:
    """What f does to a dict or list among its arguments, a replay would not do."""
    now = trees.leaves(given)
    if len(now) != len(symbols) or any(x is not y for x, y in zip(now, symbols, strict=True)):
        raise TypeError("tm.compile: f changes a container among its arguments, which no replay does; return a new one")


def check_numbers(name: str, x: Any) -> None:
    """TypeError for an array of anything but numbers."""
    if has_dtype(x) and not is_array(x):
        raise TypeError(f"tm.compile: {name} is {describe(x)}, expected an array of floats, integers or booleans")


def is_array(x: Any) -> bool:
    """An array of numbers, of NumPy or another library; NumPy's scalars too."""
    return has_dtype(x) and getattr(x.dtype, "kind", None) in ("b", "i", "u", "f")


def has_dtype(x: Any) -> bool:
    """An array of anything; classes such as np.float32, and objects that have a dtype alone, are static arguments."""
    return hasattr(x, "dtype") and hasattr(x, "shape") and not isinstance(x, type)


# ---- NumPy's protocols ----


@cache
def _plain(f: Callable) -> Prim:
    """One of NumPy's functions that has no derivative, as a primitive."""
    return Prim(f.__name__, f, kind="elementwise" if isinstance(f, np.ufunc) else "general")


def _array_ufunc(self: Symbol, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    _alive(self)
    if any(isinstance(x, (Tensor, Batched)) for x in inputs) and ufunc not in UFUNCS:
        return NotImplemented
    if method != "__call__" or kwargs.keys() - OPTIONS.get(ufunc, set()) or (ufunc.signature and ufunc not in UFUNCS):
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        raise TypeError(
            f"tm.compile: np.{name}{' with ' + ', '.join(kwargs) if kwargs else ''} of a captured value "
            f"{describe(self)}; see tinymeta.ops for the ops that can be compiled"
        )
    return UFUNCS[ufunc](*inputs, **kwargs) if ufunc in UFUNCS else bind(_plain(ufunc), *inputs)


def _array_function(self: Symbol, func: Callable, types: Any, args: tuple, kwargs: dict) -> Any:
    _alive(self)
    args, kwargs = array_first(args, kwargs)
    if func in FUNCTIONS:
        return call(self, func, args, kwargs)
    if func in LIKE or func in (np.shape, np.ndim, np.size, np.result_type, np.iscomplexobj, np.isrealobj):
        return func(*map(_array_of, args), **kwargs)  # of the shape and dtype alone
    if func is np.arange:
        array = np.asarray(self.array) if isinstance(self.array, np.generic) else self.array
        return np.arange(*args, **kwargs | {"like": array})  # it is called for like=self
    if func in SEARCHES:
        array, params = named(func, args, kwargs)
        return bind(_plain(func), array, **params)
    raise TypeError(
        f"tm.compile: {func.__module__}.{func.__name__} of a captured value {describe(self)} would be decided once; "
        "see tinymeta.ops for the ops that can be compiled"
    )


def _array_of(x: Any) -> Any:
    return x.array if type(x) is Symbol else x


def _refuse(
    what: str,
    instead: str = "use tm.ops.where for a branch, or pass the number as an argument",
    would_be: str = "decided once, by the numbers of the first call",
) -> Callable:
    def refuse(self: Symbol, *args: Any, **kwargs: Any) -> NoReturn:
        made = f" (made at {line(self.value.op.site)})" if self.value.op else ""
        raise TypeError(f"tm.compile: {what} of a captured value {describe(self)}{made} would be {would_be}: {instead}")

    return refuse


ONCE = "made by the first call alone"


def _in_place(op: Callable) -> Callable:
    def change(self: Symbol, other: Any) -> Any:
        root = self.value
        while root.op is not None and is_view(root.op):
            root = root.op.inputs[0]
        if root.op is None:
            _refuse("a change in place", "write x = x + y, which leaves the caller's array alone", ONCE)(self)
        self.log.in_place = True
        return op(self, other)

    return change


def _copied(x: Symbol) -> Any:
    """An op, which clean-up drops: a copy, unlike the argument it is of, may be changed in place."""
    return bind(structural._astype, x, dtype=x.dtype)


_TABLE: dict[str, Any] = {
    **METHODS,
    **{f"__i{name}__": _in_place(METHODS[f"__{name}__"]) for name in ("add", "sub", "mul", "truediv", "pow", "matmul")},
    "__invert__": lambda x: np.invert(x), "__array_ufunc__": _array_ufunc, "__array_function__": _array_function,
    "any": lambda x, axis=None: np.any(x, axis=axis), "all": lambda x, axis=None: np.all(x, axis=axis),
    "argmax": lambda x, axis=None, keepdims=False: np.argmax(x, axis=axis, keepdims=keepdims),
    "argmin": lambda x, axis=None, keepdims=False: np.argmin(x, axis=axis, keepdims=keepdims),
    "copy": lambda x, order="C": _copied(x), "__copy__": _copied, "__deepcopy__": lambda x, memo: _copied(x),
    "astype": lambda x, dtype, copy=True: structural.astype(_copied(x), dtype),
    "__len__": lambda x: len(x.array), "__format__": lambda x, spec: repr(x), "view": lambda x: x,
    **{name: _refuse(f"{name.strip('_')}()") for name in ("__bool__", "__float__", "__int__", "__index__", "item", "tolist")},
    "__array__": _refuse("np.asarray", "compute with tm.ops, as tm.ops.getitem(x, i) for x[i]"),
    "__reduce_ex__": _refuse("pickle", "return it from the function"),
    "__setitem__": _refuse("a change in place", "use tm.ops.scatter_add, tm.ops.where or concatenate", ONCE),
}  # fmt: skip
for _name, _method in _TABLE.items():
    setattr(Symbol, _name, _method)
