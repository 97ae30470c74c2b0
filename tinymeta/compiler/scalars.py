"""The elementwise ops as LLVM code, one row each: the same arithmetic as NumPy's, NaN and infinity included."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops.elementwise import _where
from ..ops.table import built_in
from .graph import Op
from .statements import unsupported
from .vectors import Code, by_lanes, combine, convert, intrinsic, number

Row = Callable[[ir.IRBuilder, np.dtype, int, list[Code]], Code]


def compute(b: ir.IRBuilder, op: Op, arguments: Sequence[tuple[Any, np.dtype | None]], width: int) -> Code:
    """The op on registers (value, dtype) or numbers (number, None)."""
    try:
        return _computed(b, op, arguments, width)
    except OverflowError:  # NumPy compares with a number that the integers of the array do not reach
        raise unsupported(op, f"an integer out of range and {op.outputs[0]}") from None


def _computed(b: ir.IRBuilder, op: Op, arguments: Sequence[tuple[Any, np.dtype | None]], width: int) -> Code:
    out = op.outputs[0].dtype
    if op.prim is _where:
        condition = _as(b, arguments[0], np.dtype(bool), width)
        return b.select(condition, *(_as(b, x, out, width) for x in arguments[1:]))
    if op.prim in (structural._astype, structural._cast, IDENTITY):
        return _as(b, arguments[0], out, width)
    name = op.prim.name
    if name not in ROWS or not built_in(op.prim):
        raise unsupported(op, op.outputs[0])
    within = out if out.kind != "b" or name in LOGIC else np.result_type(*(x if d is None else d for x, d in arguments))
    if within.kind not in ("b" if name in LOGIC else "fi" if name in INTEGER else "f"):
        raise unsupported(op, within)
    return ROWS[name](b, within, width, [_as(b, x, within, width) for x in arguments])


def _as(b: ir.IRBuilder, x: tuple[Any, np.dtype | None], dtype: np.dtype, width: int) -> Code:
    given, own = x
    return number(given, dtype, width) if own is None else convert(b, given, own, dtype, width)


def _both(of_floats: str, of_integers: str) -> Row:
    return lambda b, t, w, x: getattr(b, of_floats if t.kind == "f" else of_integers)(*x)


def _compare(sign: str) -> Row:
    ordered = "fcmp_unordered" if sign == "!=" else "fcmp_ordered"
    return lambda b, t, w, x: getattr(b, ordered if t.kind == "f" else "icmp_signed")(sign, *x)


def _llvm(name: str) -> Row:
    return lambda b, t, w, x: intrinsic(b, name, t, w, *x)


def _libm(name: str) -> Row:
    return lambda b, t, w, x: by_lanes(b, name, t, w, *x)


def _larger(how: str) -> Row:
    return lambda b, t, w, x: combine(b, how, x[0], x[1], t, w)


def _softplus(b: ir.IRBuilder, t: np.dtype, w: int, x: list[Code]) -> Code:
    """log(e^x + e^y) = max + log1p(e^-|x - y|)."""
    gap = b.fsub(*x)
    small = by_lanes(b, "log1p", t, w, by_lanes(b, "exp", t, w, b.fneg(intrinsic(b, "fabs", t, w, gap))))
    apart = b.fadd(combine(b, "max", x[0], x[1], t, w), small)
    return b.select(b.fcmp_ordered("==", *x), b.fadd(x[0], number(np.log(2), t, w)), apart)  # inf - inf is no gap


def _sigmoid(b: ir.IRBuilder, t: np.dtype, w: int, x: list[Code]) -> Code:
    one = number(1, t, w)
    return b.fdiv(one, b.fadd(one, by_lanes(b, "exp", t, w, b.fneg(x[0]))))


def _sign(b: ir.IRBuilder, t: np.dtype, w: int, x: list[Code]) -> Code:
    zero, one, less = (number(k, t, w) for k in (0, 1, -1))
    above, below = b.fcmp_ordered(">", x[0], zero), b.fcmp_ordered("<", x[0], zero)
    return b.select(above, one, b.select(below, less, b.select(b.fcmp_ordered("==", x[0], zero), zero, x[0])))


def _finite(b: ir.IRBuilder, t: np.dtype, w: int, x: list[Code]) -> Code:
    return b.fcmp_ordered("!=", intrinsic(b, "fabs", t, w, x[0]), number(np.inf, t, w))


ROWS: dict[str, Row] = {
    "add": _both("fadd", "add"), "subtract": _both("fsub", "sub"), "multiply": _both("fmul", "mul"),
    "divide": lambda b, t, w, x: b.fdiv(*x), "maximum": _larger("max"), "minimum": _larger("min"),
    "negative": lambda b, t, w, x: b.fneg(*x) if t.kind == "f" else b.neg(*x),
    "reciprocal": lambda b, t, w, x: b.fdiv(number(1, t, w), *x), "square": lambda b, t, w, x: _both("fmul", "mul")(b, t, w, x * 2),
    "relu": lambda b, t, w, x: combine(b, "max", x[0], number(0, t, w), t, w),
    "sqrt": _llvm("sqrt"), "absolute": _llvm("fabs"), "floor": _llvm("floor"), "ceil": _llvm("ceil"), "rint": _llvm("rint"),
    "exp": _libm("exp"), "log": _libm("log"), "log1p": _libm("log1p"), "expm1": _libm("expm1"), "sin": _libm("sin"),
    "cos": _libm("cos"), "tan": _libm("tan"), "arctan": _libm("atan"), "sinh": _libm("sinh"), "cosh": _libm("cosh"),
    "tanh": _libm("tanh"), "power": _libm("pow"), "sigmoid": _sigmoid, "sign": _sign, "logaddexp": _softplus,
    "softplus": lambda b, t, w, x: _softplus(b, t, w, [x[0], number(0, t, w)]),
    "equal": _compare("=="), "not_equal": _compare("!="), "less": _compare("<"), "less_equal": _compare("<="),
    "greater": _compare(">"), "greater_equal": _compare(">="),
    "isnan": lambda b, t, w, x: b.fcmp_unordered("uno", x[0], x[0]), "isfinite": _finite,
    "bitwise_and": lambda b, t, w, x: b.and_(*x), "bitwise_or": lambda b, t, w, x: b.or_(*x),
    "bitwise_xor": lambda b, t, w, x: b.xor(*x), "logical_and": lambda b, t, w, x: b.and_(*x),
    "logical_or": lambda b, t, w, x: b.or_(*x), "invert": lambda b, t, w, x: b.not_(*x),
    "logical_not": lambda b, t, w, x: b.not_(*x),
}  # fmt: skip
LOGIC = {"bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "invert", "logical_not"}
INTEGER = {"add", "subtract", "multiply", "maximum", "minimum", "negative", "square", "equal", "not_equal", "less", "less_equal",
           "greater", "greater_equal"}  # fmt: skip
