"""Clean-up: ops that nobody needs, ops that were run twice, and ops that change nothing.

Only rewrites that keep every bit are done, but for the sign of a zero: x + 0 is taken for x.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops import elementwise as ew
from ..ops import shape
from .graph import Op, Program, Value, values

OWN = 3  # references to a constant that is only the Value's: its own, and two of the functions that ask
ADD, SUBTRACT, MULTIPLY, DIVIDE = (f.prim for f in (ew.add, ew.subtract, ew.multiply, ew.divide))  # type: ignore[attr-defined]
NEGATIVE = ew.negative.prim  # type: ignore[attr-defined]


def clean(program: Program) -> Program:
    """The same outputs and checks by fewer ops."""
    ops, stand_ins = _simplified(program.ops)

    def new(x: Any) -> Any:
        return stand_ins.get(x, x) if type(x) is Value else x

    checks = [check._replace(values=tuple(map(new, check.values))) for check in program.checks]
    cleaned = without_dead(replace(program, ops=ops, outputs=list(map(new, program.outputs)), checks=checks))
    for v in cleaned.constants:
        v.fixed = type(v.constant) is np.ndarray and nobody_elses(v.constant)
    return cleaned


def _simplified(ops: list[Op]) -> tuple[list[Op], dict[Value, Value]]:
    """The ops that remain, and what stands for the outputs of the others."""
    kept: list[Op] = []
    stand_ins: dict[Value, Value] = {}
    known: dict[Any, Op] = {}
    for op in ops:
        inputs = tuple(stand_ins.get(x, x) if type(x) is Value else x for x in op.inputs)
        op.inputs = _numbers(op, inputs)
        same = _unchanged(op)
        key = _key(op)
        if same is None and key in known:
            stand_ins.update(zip(op.outputs, known[key].outputs, strict=True))
        elif same is None:
            known[key] = op
            kept.append(op)
        else:
            stand_ins[op.out] = same
    return kept, stand_ins


def without_dead(program: Program) -> Program:
    needed = set(program.results)
    live = []
    for op in reversed(program.ops):
        if needed.intersection(op.outputs):
            live.append(op)
            needed.update(values(op.inputs))
    return replace(program, ops=live[::-1])


def _key(op: Op) -> Any:
    """Equal for two ops that compute the same; -0.0 is not 0.0, and True is not 1."""
    inputs = [id(x) if type(x) is Value else (type(x), repr(x)) for x in op.inputs]
    params = repr(sorted(op.params.items())) if _is_data(tuple(op.params.values())) else id(op)
    return (id(op.prim), tuple(inputs), params)


def _is_data(x: Any) -> bool:
    """Whether repr tells all about x."""
    if isinstance(x, (tuple, list)):
        return all(map(_is_data, x))
    return x is None or x is ... or isinstance(x, (int, float, str, slice, np.integer, np.dtype))


def _numbers(op: Op, inputs: tuple) -> tuple:
    """Constant arrays of one number as that number, where the other inputs have the result's shape and dtype without them."""
    if op.prim.kind != "elementwise":
        return inputs
    single = [_single_number(x) for x in inputs]
    others = [x for x, n in zip(inputs, single, strict=True) if n is None and type(x) is Value]
    kept = any(x.shape == op.out.shape for x in others)
    return tuple(
        n if n is not None and others and (kept or x.ndim == 0) else x for x, n in zip(inputs, single, strict=True)
    )


def _single_number(x: Any) -> Any:
    if type(x) is not Value or type(x.constant) is not np.ndarray or not x.size or not nobody_elses(x.constant):
        return None
    first, all_first = x.constant.flat[0], np.broadcast_to(x.constant.flat[0], x.shape)
    alike = np.array_equal(x.constant, all_first)
    if alike and x.dtype.kind == "f":  # zeros of either sign are equal
        alike = np.array_equal(np.signbit(x.constant), np.signbit(all_first))
    return first if not x.ndim or alike else None


def nobody_elses(array: np.ndarray) -> bool:
    """Whether the program alone holds it: an array that came in by closure may be written to, and is read in each run."""
    base = array.base
    if base is not None and (type(base) is not np.ndarray or base.base is not None or sys.getrefcount(base) > OWN):
        return False
    return sys.getrefcount(array) <= OWN


def _unchanged(op: Op) -> Value | None:
    """The input that the op returns as it is."""
    rule = UNCHANGED.get(op.prim)
    same = rule(op) if rule else None
    return same if type(same) is Value and (same.shape, same.dtype) == (op.out.shape, op.out.dtype) else None


def _neutral(number: float, sides: tuple[int, ...]) -> Callable[[Op], Any]:
    def rule(op: Op) -> Any:
        for side in sides:
            x = op.inputs[side]
            if type(x) is not Value and x == number and not isinstance(x, bool):
                return op.inputs[1 - side]
        return None

    return rule


def _twice(op: Op) -> Any:
    """x of --x, and of a transpose that undoes another."""
    x = op.inputs[0]
    before = x.op if type(x) is Value else None
    if before is None or before.prim is not op.prim:
        return None
    if op.prim is shape._transpose:
        first, second = before.params["axes"], op.params["axes"]
        return before.inputs[0] if [first[a] for a in second] == list(range(len(first))) else None
    return before.inputs[0]


def _reshaped(op: Op) -> Any:
    """x of a reshape to its own shape; of two reshapes the second alone counts."""
    x = op.inputs[0]
    while type(x) is Value and x.op is not None and x.op.prim is shape._reshape:
        x = x.op.inputs[0]
    op.params = {"shape": op.out.shape}
    op.inputs = (x,)
    return x


UNCHANGED: dict[Any, Callable[[Op], Any]] = {
    ADD: _neutral(0, (0, 1)), SUBTRACT: _neutral(0, (1,)), MULTIPLY: _neutral(1, (0, 1)), DIVIDE: _neutral(1, (1,)),
    NEGATIVE: _twice, shape._transpose: _twice, shape._reshape: _reshaped,
    IDENTITY: lambda op: op.inputs[0], structural._astype: lambda op: op.inputs[0], structural._cast: lambda op: op.inputs[0],
}  # fmt: skip
