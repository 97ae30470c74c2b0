"""Ops as loops over numbers: elementwise ops of one shape in one loop nest, with the sums over its values, and matrix products.

Reshapes, transposes, broadcasts and slices cost nothing: they are other strides of the same memory. A value that only its own loop
reads lives in a register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops import indexing, linalg, reduce, shape
from .cleanup import ADD
from .graph import Op, Value, values
from .plan import is_view, part_of
from .statements import Gather, Loop, Product, Statement, Sum, View, contiguous, steps, unsupported
from .tasks import full_index, positive_axes

LARGEST = 48  # computations in one loop nest: more than the registers hold is slower


class Lowering:
    """The statements of a list of ops. `results` must be in memory at the end, each at the place of another Value; `sums` are
    added to what is at theirs.
    """

    def __init__(self, ops: list[Op], results: dict[Value, Value], sums: dict[Value, Value]) -> None:
        self.same: dict[Value, Value] = {}  # values whose place is that of another one
        self.statements: list[Statement] = []
        self.views: dict[Value, View] = {}
        self.made: dict[Value, int] = {}  # by root: the statement after which it is in memory
        self.wanted: set[Value] = set()  # roots that must be in memory
        self.patches: dict[Any, Value] = {}  # copies in another layout, by what they are copies of
        for op in ops:
            self.lower(op)
        for x, to in results.items():
            self._export(x, to)
        for x, to in sums.items():
            self._add(x, to)
        for loop in self.statements:
            if isinstance(loop, Loop):
                known = {view.root for _, view in loop.stores}
                loop.stores += [
                    (r, contiguous(v)) for v, r in loop.registers.items() if v in self.wanted and v not in known
                ]

    def _export(self, x: Value, to: Value) -> None:
        if self.view(x).root is x and x in self.made and x not in self.same:
            self.same[x] = to
            self.wanted.add(x)
            return
        loop, at = self._loop(x.shape, [x], lambda loop: not loop.sums)
        loop.stores.append((self._load(loop, x), View(to, 0, x.shape, steps(x.shape))))
        self.made[to] = at

    def _add(self, x: Value, to: Value) -> None:
        """Add x to what is at the place of `to`."""
        loop, _ = self._loop(x.shape, [x], lambda loop: not loop.sums)
        loop.loads[contiguous(to)] = before = loop.register()
        register = loop.register()
        loop.code.append(
            (register, Op(ADD, (to, x), {}, x.op.site if x.op else None, (to,)), (before, self._load(loop, x)))
        )
        loop.stores.append((register, contiguous(to)))

    def view(self, x: Value) -> View:
        return self.views.get(x) or contiguous(x)

    def stored(self, x: Value) -> View:
        """Where x is in memory."""
        view = self.view(x)
        self.wanted.add(view.root)
        return view

    def ready(self, x: Any) -> int:
        """The statement after which x can be read from memory."""
        return self.made.get(self.view(x).root, -1)

    def lower(self, op: Op) -> None:
        if any(0 in v.shape for v in (*values(op.inputs), *op.outputs)) or op.many:
            raise unsupported(op, op.out)
        if is_view(op) and type(op.inputs[0]) is Value:
            self._view(op)
        elif op.prim in STATEMENTS:
            STATEMENTS[op.prim](self, op)
        elif op.prim.kind == "elementwise" or op.prim in (structural._astype, structural._cast):
            self.elementwise(op)
        else:
            raise unsupported(op, op.out)

    # ---- views ----

    def _view(self, op: Op) -> None:
        source = self.view(op.inputs[0])
        dummy = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), source.shape, source.strides)
        start = dummy.__array_interface__["data"][0]
        try:
            y = _viewed(dummy, op)
        except ValueError:
            self.copy(source, View(op.out, 0, source.shape, steps(source.shape)))
            return
        offset = source.offset + y.__array_interface__["data"][0] - start
        self.views[op.out] = View(
            source.root, offset, y.shape, tuple(0 if n == 1 else s for n, s in zip(y.shape, y.strides, strict=True))
        )

    def sliced(self, x: View, index: Any) -> View:
        """x[index], of a basic index."""
        dummy = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), x.shape, x.strides)
        y = part_of(dummy, index)
        offset = y.__array_interface__["data"][0] - dummy.__array_interface__["data"][0]
        return View(x.root, x.offset + offset, y.shape, y.strides)

    def copy(self, source: View, to: View) -> None:
        self.wanted.add(source.root)
        loop = Loop(source.shape, closed=True)
        loop.loads[source] = register = loop.register()
        loop.stores.append((register, to))
        self.append(loop, to.root)

    def fill(self, to: View, number: Any) -> None:
        loop = Loop(to.shape, closed=True)
        register = loop.register()
        loop.code.append((register, Op(IDENTITY, (number,), {}, outputs=(Value((), to.root.dtype),)), ((number,),)))
        loop.stores.append((register, to))
        self.append(loop, to.root)

    def multiply(self, a: View, b: View, c: Value, op: Op) -> None:
        self.wanted.add(c)
        self.append(Product(a, b, contiguous(c), op), c)

    def append(self, statement: Statement, *made: Value) -> None:
        self.statements.append(statement)
        for v in made:
            self.made[v] = len(self.statements) - 1

    # ---- elementwise ops and sums ----

    def elementwise(self, op: Op) -> None:
        loop, at = self._loop(op.out.shape, values(op.inputs), self._has_room)
        arguments = tuple(self._load(loop, x) if type(x) is Value else (x,) for x in op.inputs)
        register = loop.register()
        loop.code.append((register, op, arguments))
        loop.registers[op.out] = register
        self.made[op.out] = at

    def _has_room(self, loop: Loop) -> bool:
        return len(loop.code) < LARGEST

    def reduced(self, op: Op, kind: str, axes: tuple[int, ...], out: Value) -> None:
        x = op.inputs[0]
        loop, at = self._loop(x.shape, [x], lambda loop: not loop.sums or loop.sums[0].axes == axes)
        loop.sums.append(Sum(self._load(loop, x), kind, axes, out))
        self.made[out] = at
        self.wanted.add(out)

    def _loop(self, over: tuple[int, ...], inputs: list[Value], allows: Callable[[Loop], bool]) -> tuple[Loop, int]:
        """A loop over this shape that knows all inputs: one of the `_candidates`, or a new one."""
        first = 0
        for x in inputs:
            at = self.ready(x)
            maker = self.statements[at] if at >= 0 else None
            in_register = isinstance(maker, Loop) and maker.shape == over and x in maker.registers
            first = max(first, at if in_register else at + 1)
        for at in self._candidates(first):
            loop = self.statements[at]
            if isinstance(loop, Loop) and loop.shape == over and not loop.closed and allows(loop):
                return loop, at
        loop = Loop(over)
        self.append(loop)
        return loop, len(self.statements) - 1

    def _candidates(self, first: int) -> Sequence[int]:
        """Statements from the first one that knows the inputs: the one that computes the latest of them, and the last one."""
        end = len(self.statements)
        return (first, end - 1) if first < end else ()

    def _load(self, loop: Loop, x: Value) -> int:
        if x in loop.registers:
            return loop.registers[x]
        view = self.stored(x).broadcast(loop.shape)
        if view not in loop.loads:
            loop.loads[view] = loop.register()
        return loop.loads[view]


def _viewed(x: np.ndarray, op: Op) -> np.ndarray:
    """The op's view of x; ValueError if that needs a copy."""
    if op.prim is shape._reshape:
        return np.reshape(x, op.out.shape, copy=False)
    if op.prim is indexing._getitem:
        return part_of(x, **op.params)
    if not x.ndim:  # a single number, which NumPy's flip copies
        return np.broadcast_to(x, op.out.shape)
    return op.prim.forward(x, **op.params)


def _matmul(low: Lowering, op: Op) -> None:
    lead = op.out.shape[:-2]
    a, b = (_led(low.stored(x), lead) for x in of_result(low, op))
    low.multiply(a, b, op.out, op)


def of_result(low: Lowering, op: Op) -> list[Value]:
    """The operands of a product in its dtype, in which it reads memory: copies of those that have another."""
    if op.out.dtype.kind != "f":
        raise unsupported(op, op.out)
    return [_converted(low, x, op) for x in op.inputs]


def _converted(low: Lowering, x: Value, op: Op) -> Value:
    if x.dtype == op.out.dtype:
        return x
    cast = Op(structural._cast, (x,), {"dtype": op.out.dtype}, op.site)
    cast.outputs = (Value(x.shape, op.out.dtype, cast),)
    low.elementwise(cast)
    return cast.out


def _led(x: View, lead: tuple[int, ...]) -> View:
    """x with these leading axes, broadcast."""
    own, steps = x.shape[:-2], x.strides[:-2]
    padded = (0,) * (len(lead) - len(own)) + tuple(0 if n == 1 else s for n, s in zip(own, steps, strict=True))
    return View(x.root, x.offset, (*lead, *x.shape[-2:]), (*padded, *x.strides[-2:]))


def _reduction(kind: str) -> Callable:
    def lower(low: Lowering, op: Op) -> None:
        x = op.inputs[0]
        if op.out.dtype.kind == "b":  # one bit in a register, whose sign is the number
            raise unsupported(op, op.out)
        if op.prim is structural._sum_to_prim:
            axes = structural.summed_axes(x.shape, op.params["shape"])
        else:
            axes = positive_axes(op.params["axis"], x.ndim)
        low.reduced(op, kind, tuple(sorted(axes)), op.out)

    return lower


def _padded(low: Lowering, op: Op) -> None:
    low.fill(contiguous(op.out), op.out.dtype.type(0))
    whole, source = contiguous(op.out), low.stored(op.inputs[0])
    offset = sum(before * step for (before, _), step in zip(op.params["width"], whole.strides, strict=True))
    low.copy(source, View(op.out, offset, source.shape, whole.strides))


def _joined(low: Lowering, op: Op) -> None:
    whole, axis = contiguous(op.out), op.params["axis"] % op.out.ndim
    offset = 0
    for x in op.inputs:
        strides = whole.strides
        if op.prim is shape._stack:
            strides = whole.strides[:axis] + whole.strides[axis + 1 :]
        to = View(op.out, offset, np.shape(x), strides)
        if type(x) is Value:
            low.copy(low.stored(x), to)
        else:
            low.fill(to, op.out.dtype.type(x))
        offset += whole.strides[axis] * (1 if op.prim is shape._stack else x.shape[axis])
    low.wanted.add(op.out)


def _indexed(low: Lowering, op: Op) -> None:
    """x[arrays], of as many index arrays as x has axes."""
    x, arrays = op.inputs[0], op.inputs[1:]
    add = op.prim is indexing._put
    inside = op.params["shape"] if add else x.shape
    index = full_index(op.params["index"], len(inside))
    if add:
        low.fill(contiguous(op.out), op.out.dtype.type(0))
        low.wanted.add(op.out)
    if add and indexing._is_basic(op.params["index"]):
        _added_slice(low, op, index)
        return
    if (
        not arrays
        or not all(i is indexing.ARRAY for i in index)
        or len(arrays) != len(inside)
        or any(a.dtype.kind not in "iu" for a in arrays)
        or (add and op.out.dtype.kind == "b")  # whose sum is no addition
    ):
        raise unsupported(op, op.out)
    over = np.broadcast_shapes(*(a.shape for a in arrays))
    source = contiguous(op.out) if add else low.stored(x)
    to = low.stored(x).broadcast(over) if add else contiguous(op.out)
    low.append(Gather(source, [low.stored(a).broadcast(over) for a in arrays], to, add, op), op.out)
    low.wanted.add(op.out)


def _added_slice(low: Lowering, op: Op, index: tuple) -> None:
    low.copy(low.stored(op.inputs[0]), low.sliced(contiguous(op.out), index))


STATEMENTS: dict[Any, Callable[[Lowering, Op], None]] = {
    linalg._matmul: _matmul, reduce._sum: _reduction("sum"), reduce._mean: _reduction("mean"), reduce._max: _reduction("max"),
    reduce._min: _reduction("min"), structural._sum_to_prim: _reduction("sum"), shape._pad: _padded, shape._concatenate: _joined,
    shape._stack: _joined, indexing._getitem: _indexed, indexing._put: _indexed,
}  # fmt: skip
