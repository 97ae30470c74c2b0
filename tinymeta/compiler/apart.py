"""Products of all tasks at once taken apart, so that the loop over tasks can have them.

tm.vmap and matmul make one large product where all tasks share a matrix or a kernel: the tasks' rows or images follow each other
along its first axis. That is fastest by itself, but it is not of one task, and neither is what is computed from it. Here such a
product gets a task axis again, and a sum over all the rows becomes the sum over tasks of each one's product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..engine import structural
from ..ops import conv, linalg, reduce, shape
from .cleanup import without_dead
from .graph import Op, Program, Value, values

PRODUCTS = {linalg._matmul, conv._correlate, conv._spread, conv._match}


def apart(program: Program, count: int, least: int = 1) -> tuple[Program, set[Value]]:
    """(a program of the same results for `count` tasks, its products that have a task axis now).

    A product is taken apart if each task has at least `least` rows of it: a matrix with `count` rows may be the weights of a layer.
    """
    made = _Apart(program, count, least)
    live = without_dead(replace(program, ops=made.ops))
    return live, made.products.intersection(op.out for op in live.ops)


class _Apart:
    """`origin` maps an array to one of the same numbers in the same order that has the task axis in front, itself perhaps;
    `turned` a matrix to its transpose, if that has an origin."""

    def __init__(self, program: Program, count: int, least: int) -> None:
        self.count, self.least, self.ops, self.products = count, least, list[Op](), set[Value]()
        self.origin = {v: v for v in (*program.inputs, *program.constants) if v.shape[:1] == (count,)}
        self.turned: dict[Value, Value] = {}
        for op in program.ops:
            rule = RULES.get(op.prim) or (_elementwise if op.prim.kind == "elementwise" else None)
            if rule is None or op.many or not rule(self, op):
                self._keep(op)

    def _keep(self, op: Op) -> None:
        self.ops.append(op)
        led = [v for v in (*values(op.inputs), *op.outputs) if v.shape[:1] == (self.count,)]
        if any(v in self.origin for v in led):
            self.origin.update((v, v) for v in op.outputs if v in led)

    def has(self, x: Value) -> bool:
        """Whether x is a number of rows of each task."""
        return x in self.origin and x.shape[0] >= self.least * self.count

    def emit(self, prim: Any, inputs: tuple, params: dict, like: Op, shape: tuple[int, ...]) -> Value:
        op = Op(prim, inputs, params, like.site)
        op.outputs = (Value(shape, like.out.dtype if prim in PRODUCTS else inputs[0].dtype, op),)
        self.ops.append(op)
        self.products.update(op.outputs if prim in PRODUCTS else ())
        return op.out

    def parts(self, x: Value, op: Op) -> Value:
        """x with the task axis in front and its own first axis, that much shorter, behind it."""
        source, over = self.origin[x], (self.count, x.shape[0] // self.count, *x.shape[1:])
        if source.shape != over:
            self.origin[x] = self.emit(shape._reshape, (source,), {"shape": over}, op, over)
        return self.origin[x]

    def mirrored(self, x: Value, op: Op) -> Value:
        over = (x.shape[0], x.shape[2], x.shape[1])
        return self.emit(shape._transpose, (x,), {"axes": (0, 2, 1)}, op, over)

    def join(self, source: Value, op: Op) -> bool:
        """op's result is `source` without its task axis."""
        self.ops.append(Op(shape._reshape, (source,), {"shape": op.out.shape}, op.site, op.outputs))
        self.origin[op.out] = source
        return True

    def total(self, source: Value, op: Op) -> bool:
        """op's result is the sum of `source` over the tasks."""
        self.ops.append(Op(reduce._sum, (source,), {"axis": (0,), "keepdims": False}, op.site, op.outputs))
        return True


# ---- the rules: whether they have written the op another way ----


def _matmul(a: _Apart, op: Op) -> bool:
    x, y = op.inputs
    if x.ndim != 2 or y.ndim != 2:
        return False
    (m, n), of_task = op.out.shape, a.count
    if x in a.turned and a.has(y):
        left, right = a.mirrored(a.parts(a.turned[x], op), op), a.parts(y, op)
        return a.total(a.emit(linalg._matmul, (left, right), {}, op, (of_task, m, n)), op)
    if a.has(x) and y not in a.turned:
        made = a.emit(linalg._matmul, (a.parts(x, op), y), {}, op, (of_task, m // of_task, n))
        return a.join(made, op)
    if y in a.turned and not a.has(x):
        columns = a.mirrored(a.parts(a.turned[y], op), op)
        made = a.mirrored(a.emit(linalg._matmul, (x, columns), {}, op, (of_task, m, n // of_task)), op)
        rows = a.emit(shape._reshape, (made,), {"shape": (n, m)}, op, (n, m))
        a.ops.append(Op(shape._transpose, (rows,), {"axes": (1, 0)}, op.site, op.outputs))
        a.origin[rows], a.turned[op.out] = made, rows
        return True
    return False


def _with_kernel(a: _Apart, op: Op) -> bool:
    x, kernel = op.inputs
    if not a.has(x) or x.ndim != 4 or kernel.ndim != 4:
        return False
    over = (a.count, op.out.shape[0] // a.count, *op.out.shape[1:])
    return a.join(a.emit(op.prim, (a.parts(x, op), kernel), op.params, op, over), op)


def _match(a: _Apart, op: Op) -> bool:
    if any(not a.has(x) or x.ndim != 4 for x in op.inputs):
        return False
    both = tuple(a.parts(x, op) for x in op.inputs)
    return a.total(a.emit(op.prim, both, op.params, op, (a.count, *op.out.shape)), op)


def _reshaped(a: _Apart, op: Op) -> bool:
    source = a.origin.get(op.inputs[0])
    return source is not None and op.out.ndim > 0 and op.out.shape[0] % a.count == 0 and a.join(source, op)


def _transposed(a: _Apart, op: Op) -> bool:
    x = op.inputs[0]
    if op.params["axes"] != (1, 0):
        return False
    if x in a.turned:
        return a.join(a.origin[a.turned[x]], op)
    if a.has(x):
        a.turned[op.out] = x
    return False


def _elementwise(a: _Apart, op: Op) -> bool:
    """On the parts, if all arrays that run along the first axis have them."""
    along = [x for x in values(op.inputs) if x.ndim == op.out.ndim and x.shape[:1] == op.out.shape[:1]]
    if not along or op.out.shape[:1] == (a.count,) or any(x not in a.origin for x in along):
        return False
    inputs = tuple(a.parts(x, op) if x in along else x for x in op.inputs)
    made = Op(op.prim, inputs, op.params, op.site)
    made.outputs = (Value((a.count, op.out.shape[0] // a.count, *op.out.shape[1:]), op.out.dtype, made),)
    a.ops.append(made)
    return a.join(made.out, op)


RULES: dict[Any, Callable[[_Apart, Op], bool]] = {
    linalg._matmul: _matmul, conv._correlate: _with_kernel, conv._spread: _with_kernel, conv._match: _match,
    shape._reshape: _reshaped, shape._transpose: _transposed,
    structural._astype: _elementwise, structural._cast: _elementwise,
}  # fmt: skip
