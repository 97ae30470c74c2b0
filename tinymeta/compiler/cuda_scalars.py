"""The elementwise ops as CUDA C++, one row each: the same arithmetic as NumPy's, NaN and infinity included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops.elementwise import _where
from ..ops.table import built_in
from .graph import Op, Value
from .statements import Unsupported

C = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}
WRAPS = {"add", "subtract", "multiply", "negative", "square"}  # of integers: unsigned, whose overflow C++ defines
LARGER = "{0} >= {1} ? {0} : {1} > {0} ? {1} : {0} + {1}"  # the sum is NaN where one of the two is
SMALLER = "{0} <= {1} ? {0} : {1} < {0} ? {1} : {0} + {1}"
SOFTPLUS = f"({LARGER}) + log1p(exp({{0}} == {{1}} ? 0 : -fabs({{0}} - {{1}})))"  # of inf and inf there is no gap

ROWS: dict[str, tuple[str, str]] = {  # the kinds of dtype in which it is computed, and the formula
    "add": ("fi", "{0} + {1}"), "subtract": ("fi", "{0} - {1}"), "multiply": ("fi", "{0} * {1}"), "divide": ("f", "{0} / {1}"),
    "negative": ("fi", "-{0}"), "reciprocal": ("f", "1 / {0}"), "square": ("fi", "{0} * {0}"), "absolute": ("f", "fabs({0})"),
    "maximum": ("fi", LARGER), "minimum": ("fi", SMALLER), "relu": ("f", LARGER.replace("{1}", "0")),
    "logaddexp": ("f", SOFTPLUS), "softplus": ("f", SOFTPLUS.replace("{1}", "0")), "sigmoid": ("f", "1 / (1 + exp(-{0}))"),
    "sign": ("f", "{0} > 0 ? 1 : {0} < 0 ? -1 : {0}"), "power": ("f", "pow({0}, {1})"), "arctan": ("f", "atan({0})"),
    **{name: ("f", f"{name}({{0}})") for name in
       ("sqrt", "floor", "ceil", "rint", "exp", "log", "log1p", "expm1", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "equal": ("fib", "{0} == {1}"), "not_equal": ("fib", "{0} != {1}"), "less": ("fi", "{0} < {1}"),
    "less_equal": ("fi", "{0} <= {1}"), "greater": ("fi", "{0} > {1}"), "greater_equal": ("fi", "{0} >= {1}"),
    "isnan": ("f", "{0} != {0}"), "isfinite": ("f", "{0} - {0} == 0"), "isinf": ("f", "{0} == {0} && {0} - {0} != 0"),
    "bitwise_and": ("b", "{0} && {1}"), "logical_and": ("b", "{0} && {1}"), "bitwise_or": ("b", "{0} || {1}"),
    "logical_or": ("b", "{0} || {1}"), "bitwise_xor": ("b", "{0} != {1}"), "invert": ("b", "!{0}"), "logical_not": ("b", "!{0}"),
}  # fmt: skip


def expression(op: Op, arguments: Sequence[tuple[Any, np.dtype | None]]) -> str:
    """The op on variables (name, dtype) or numbers (number, None); Unsupported if there is no row for these dtypes."""
    out = op.out.dtype
    if op.prim in (structural._astype, structural._cast, IDENTITY):
        return _as(arguments[0], out)
    if op.prim is _where:
        condition = _as(arguments[0], np.dtype(bool))
        return f"{condition} ? {_as(arguments[1], out)} : {_as(arguments[2], out)}"
    kinds, formula = ROWS.get(op.prim.name, ("", ""))
    within = out if out.kind != "b" else np.result_type(*(x if d is None else d for x, d in arguments))
    if within.kind not in kinds or not built_in(op.prim) or op.params:
        raise Unsupported(f"{op.prim.name} in {within}")
    given = [_as(x, within) for x in arguments]
    if within.kind == "i" and op.prim.name in WRAPS:
        given = [f"(unsigned {C[within.name]}){x}" for x in given]
    return formula.format(*given)


def check(op: Op) -> None:
    """Unsupported if the op has no expression."""
    expression(op, [("x", x.dtype) if type(x) is Value else (x, None) for x in op.inputs])
    _type(op.out.dtype)


def _type(dtype: np.dtype) -> str:
    if dtype.name not in C:
        raise Unsupported(f"{dtype}")
    return C[dtype.name]


def _as(x: tuple[Any, np.dtype | None], dtype: np.dtype) -> str:
    """A variable or a number in this dtype; floats become no integers, which C++ defines for some numbers only."""
    given, own = x
    to = _type(dtype)
    if own is None:
        return _literal(given, dtype)
    if _type(own) == to:
        return given
    if own.kind == "f" and dtype.kind == "i":
        raise Unsupported(f"{own} as {dtype}")
    return f"({given} != 0)" if dtype.kind == "b" else f"({to}){given}"


def _literal(x: Any, dtype: np.dtype) -> str:
    if dtype.kind == "b":
        return "true" if x else "false"
    if dtype.kind == "i":
        bounds = np.iinfo(dtype)
        if not isinstance(x, (int, np.integer)) or not bounds.min < x <= bounds.max:
            raise Unsupported(f"{x!r} as {dtype}")
        text = f"{int(x)}{'LL' if dtype.itemsize == 8 else ''}"
    else:
        text = _float(x, dtype)
    return f"({text})" if text.startswith("-") else text


def _float(x: Any, dtype: np.dtype) -> str:
    with np.errstate(over="ignore"):
        number = dtype.type(x)
    if np.isfinite(number):
        return f"{number!s}{'f' if dtype.itemsize == 4 else ''}"
    bits = "0x7fc00000" if np.isnan(number) else "0x7f800000"
    return f"{'-' if number < 0 else ''}__uint_as_float({bits})"
