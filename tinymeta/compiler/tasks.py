"""The loop over tasks: the part of a program that acts on each index of a leading axis alone, rewritten for one index.

It is found by analysis of the graph, so that tm.vmap and code with a leading task axis give the same loop: an input with T entries
along its first axis may be taken task by task; an op stays in the loop as long as its result for task t needs no other task; a sum
over the tasks leaves it, as one partial sum per run of tasks, and these are added at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops import conv, indexing, linalg, reduce, shape
from .apart import PRODUCTS, apart
from .cleanup import DIVIDE
from .graph import Op, Program, Value, values

# (op, what its inputs are, T) -> (params of one task, how one task takes each input), or None
Rule = Callable[[Op, list[int], int], Any]
# What an input is: without a task axis, an argument that may be sliced, a value of each task.
SHARED, SLICEABLE, MAPPED = range(3)
SLICE, WHOLE, SQUEEZE, DROP = range(4)  # how one task takes it; SQUEEZE: without its first axis, which has length 1


@dataclass
class Tasks:
    """before: ops without a task axis that the loop needs; ops: of one task; after: all others.

    `arguments` maps a Value of one task to the whole array that it is a slice of; `stored` whole arrays that are written task by
    task to the Value of one task; `sums` Values of one task to their sums over all tasks.
    """

    count: int
    before: list[Op] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    after: list[Op] = field(default_factory=list)
    arguments: dict[Value, Value] = field(default_factory=dict)
    stored: dict[Value, Value] = field(default_factory=dict)
    sums: dict[Value, Value] = field(default_factory=dict)


def split(program: Program) -> Tasks | None:
    """The loop over the axis that holds the most work; None if there is none.

    An array of T numbers need not be one of each task, as the weights of T inner steps are not: it is tried both ways.
    """
    lengths = dict.fromkeys(v.shape[0] for v in program.inputs if v.ndim and v.shape[0] > 1)
    flat = {v.shape[0] for v in program.inputs if v.ndim == 1}
    found = [_best_for(program, n, least) for n in lengths for least in ((1, 2) if n in flat else (1,))]
    best = max(found, key=lambda t: sum(op.out.size for op in t.ops), default=None)
    return best if best is not None and any(map(_is_more_than_numbers, best.ops)) else None


def _is_more_than_numbers(op: Op) -> bool:
    """Whether op has an array: a loop nest does by vectors what is of one number for each task."""
    return any(v.size > 1 for v in (*values(op.inputs), *op.outputs))


def _best_for(program: Program, count: int, least: int) -> Tasks:
    """With the products of all tasks taken apart if that gains something: those of one row too, or else the others."""
    for rows in (1, 2):
        parted, products = apart(program, count, rows)
        made = _Split(parted, count, least) if products else None
        if made is not None and made.gains(parted, products):
            return made.tasks
    return _Split(program, count, least).tasks


class _Split:
    def __init__(self, program: Program, count: int, least: int) -> None:
        """`least`: the axes that an array must have to be taken task by task."""
        self.tasks = Tasks(count)
        self.one: dict[Value, Value] = {}  # of a whole array, the Value of one task
        self.late: set[Value] = set()  # known after the loop only
        self.slices: dict[Value, Value] = {}
        outside = set(program.inputs) | set(program.constants)
        self.sliceable = {v for v in outside if v.ndim >= least and v.shape[0] == count}
        self.early: dict[Value, Op] = {}
        for op in program.ops:
            self._place(op)
        self._store(program)
        self._fetch(program)

    def gains(self, program: Program, products: set[Value]) -> bool:
        """Whether the loop has all of these products, which by themselves are faster in one for all tasks, and more: one of two
        matrices that each task has of its own."""
        others = [op for op in program.ops if op.prim in PRODUCTS and op.out not in products]
        own = {*self.one, *self.slices}
        return products <= self.one.keys() and any(op.out in own and own.issuperset(op.inputs) for op in others)

    def _place(self, op: Op) -> None:
        if any(v in self.late for v in values(op.inputs)):
            self._after(op)
            return
        inputs = [self._input(x) for x in op.inputs]
        made = self._of_one_task(op, inputs)
        if made is not None:
            self.tasks.ops.append(made)
            self.one[op.out] = made.out
        elif any(v in self.one for v in values(op.inputs)):
            self._leave(op, inputs)
        else:
            self.early.update(dict.fromkeys(op.outputs, op))

    def _input(self, x: Any) -> Any:
        """(what one task sees of x, what kind of input it is)"""
        if type(x) is not Value:
            return x, SHARED
        return self.one.get(x, x), MAPPED if x in self.one else SLICEABLE if x in self.sliceable else SHARED

    def _of_one_task(self, op: Op, inputs: list) -> Op | None:
        rule = RULES.get(op.prim) or (ELEMENTWISE if op.prim.kind == "elementwise" else None)
        if rule is None or op.many or not op.out.ndim or op.out.shape[0] != self.tasks.count:
            return None
        taken = rule(op, [kind for _, kind in inputs], self.tasks.count)
        if taken is None:
            return None
        params, how = taken
        if SLICE not in how and op.prim is not structural._broadcast:
            return None
        given = [self._take(x, h, op) for (x, _), h in zip(inputs, how, strict=True) if h != DROP]
        return _op(op.prim, given, params, op, op.out.shape[1:])

    def _take(self, x: Any, how: int, op: Op) -> Any:
        if how != SQUEEZE:
            return self._slice(x) if how == SLICE else x
        squeezed = Op(shape._reshape, (x,), {"shape": x.shape[1:]}, op.site)
        squeezed.outputs = (Value(x.shape[1:], x.dtype, squeezed),)
        self.tasks.ops.append(squeezed)
        return squeezed.out

    def _slice(self, x: Any) -> Any:
        if x not in self.sliceable:
            return x
        if x not in self.slices:
            self.slices[x] = one = Value(x.shape[1:], x.dtype)
            self.tasks.arguments[one] = x
        return self.slices[x]

    def _leave(self, op: Op, inputs: list) -> None:
        """A sum over the tasks, or an op that needs whole arrays."""
        axes, divisor = _summed(op)
        x = inputs[0][0]
        if 0 not in axes or op.out.dtype != x.dtype:
            self._after(op)
            return
        kept = tuple(1 if a in axes else n for a, n in enumerate(op.inputs[0].shape))[1:]
        if kept != x.shape:
            self.tasks.ops.append(_op(structural._sum_to_prim, [x], {"shape": kept}, op, kept))
            x = self.tasks.ops[-1].out
        total = self.tasks.sums.setdefault(x, Value(kept, op.out.dtype))
        if divisor != 1:
            self.tasks.after.append(_op(DIVIDE, [total, divisor], {}, op, kept))
            total = self.tasks.after[-1].out
        last = Op(shape._reshape, (total,), {"shape": op.out.shape}, op.site, op.outputs)
        self.late.add(op.out)
        self.tasks.after.append(last)

    def _after(self, op: Op) -> None:
        self.late.update(op.outputs)
        self.tasks.after.append(op)

    def _store(self, program: Program) -> None:
        """Whole arrays for what is read after the loop."""
        read = [v for op in self.tasks.after for v in values(op.inputs)] + program.results
        self.tasks.stored = {v: self.one[v] for v in read if v in self.one}

    def _fetch(self, program: Program) -> None:
        """Ops without task axis: before the loop if it needs them, after it otherwise."""
        needed, before = {v for op in self.tasks.ops for v in values(op.inputs)}, []
        for op in reversed(list(dict.fromkeys(self.early.values()))):
            if needed.intersection(op.outputs):
                before.append(op)
                needed.update(values(op.inputs))
        self.tasks.before = before[::-1]
        rest = [op for op in dict.fromkeys(self.early.values()) if op not in before]
        self.tasks.after = rest + self.tasks.after


def _summed(op: Op) -> tuple[tuple[int, ...], int]:
    """The axes that op sums over, and the number by which it divides the sum."""
    if op.prim is structural._sum_to_prim:
        return structural.summed_axes(op.inputs[0].shape, op.params["shape"]), 1
    if op.prim in (reduce._sum, reduce._mean):
        axes = positive_axes(op.params["axis"], op.inputs[0].ndim)
        count = int(np.prod([op.inputs[0].shape[a] for a in axes], dtype=np.int64))
        return axes, count if op.prim is reduce._mean else 1
    return (), 1


def positive_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim)) if axis is None else tuple(a % ndim for a in structural.as_tuple(axis))


def _op(prim: Any, inputs: list, params: dict, like: Op, shape: tuple[int, ...]) -> Op:
    made = Op(prim, tuple(inputs), params, like.site)
    made.outputs = (Value(shape, like.out.dtype, made),)
    return made


# ---- the rules: params of one task, and how it takes each input; None if task t needs another ----


def _aligned(own: int) -> Rule:
    """Ops whose last `own` axes are their own and whose others broadcast; the task axis is the first of those."""

    def rule(op: Op, kinds: list[int], count: int) -> Any:
        rank = op.out.ndim
        how = [_broadcasting(x, kind, rank, own) for x, kind in zip(op.inputs, kinds, strict=True)]
        return None if None in how or rank <= own else (op.params, how)

    return rule


def _broadcasting(x: Any, kind: int, rank: int, own: int = 0) -> int | None:
    if type(x) is not Value or x.ndim < rank:
        return None if kind == MAPPED else WHOLE
    if x.shape[0] == 1 and kind != MAPPED:
        return SQUEEZE
    return None if kind == SHARED else SLICE


def _reduced(op: Op, kinds: list[int], count: int) -> Any:
    axes = positive_axes(op.params["axis"], op.inputs[0].ndim)
    return None if 0 in axes or not kinds[0] else (op.params | {"axis": tuple(a - 1 for a in axes)}, [SLICE])


def _summed_to(op: Op, kinds: list[int], count: int) -> Any:
    to = op.params["shape"]
    return ({"shape": to[1:]}, [SLICE]) if kinds[0] and op.inputs[0].ndim == len(to) else None


def _reshaped(op: Op, kinds: list[int], count: int) -> Any:
    return ({"shape": op.out.shape[1:]}, [SLICE]) if kinds[0] else None


def _broadcast(op: Op, kinds: list[int], count: int) -> Any:
    how = _broadcasting(op.inputs[0], kinds[0], op.out.ndim)
    return None if how is None else ({"shape": op.out.shape[1:]}, [how])


def _transposed(op: Op, kinds: list[int], count: int) -> Any:
    axes = op.params["axes"]
    return ({"axes": tuple(a - 1 for a in axes[1:])}, [SLICE]) if kinds[0] and axes[0] == 0 else None


def _padded(op: Op, kinds: list[int], count: int) -> Any:
    width = op.params["width"]
    return ({"width": width[1:]}, [SLICE]) if kinds[0] and width[0] == (0, 0) else None


def _joined(op: Op, kinds: list[int], count: int) -> Any:
    axis = op.params["axis"] % op.out.ndim
    return ({"axis": axis - 1}, [SLICE] * len(kinds)) if axis and all(kinds) else None


def _same(op: Op, kinds: list[int], count: int) -> Any:
    return (op.params, [SLICE]) if kinds[0] else None


def _indexed(op: Op, kinds: list[int], count: int) -> Any:
    """x[t, ...]: the first item is a whole slice, or the task's own number; or each task's own places in an x for all of them."""
    whole, arrays = op.params.get("shape", op.inputs[0].shape), op.inputs[1:]
    index = full_index(op.params["index"], len(whole))
    if not index:
        return None
    params = op.params | {"index": index[1:]} | ({"shape": whole[1:]} if "shape" in op.params else {})
    of_task = kinds[0] and whole[0] == count
    if of_task and isinstance(index[0], slice) and index[0].indices(count) == (0, count, 1) and not arrays:
        return params, [SLICE]
    if not all(i is indexing.ARRAY for i in index):
        return None
    if of_task and _own_number(arrays, count):
        how = [_broadcasting(a, kind, arrays[0].ndim) for a, kind in zip(arrays[1:], kinds[2:], strict=True)]
        return None if None in how or WHOLE in how else (params, [SLICE, DROP, *how])
    if kinds[0] != MAPPED and "shape" not in op.params:
        how = [_broadcasting(a, kind, op.out.ndim) for a, kind in zip(arrays, kinds[1:], strict=True)]
        return None if None in how else (op.params, [WHOLE, *how])
    return None


def full_index(index: Any, ndim: int) -> tuple:
    """The index as a tuple, with slices for `...`."""
    items = index if isinstance(index, tuple) else (index,)
    missing = [slice(None)] * (ndim - sum(i is not None and i is not ... for i in items))
    return tuple(j for i in items for j in (missing if i is ... else [i]))


def _own_number(arrays: Sequence[Value], count: int) -> bool:
    """Whether the first index is 0, 1, ... along the tasks' axis, the first one that all of them together have."""
    first = arrays[0]
    return (
        first.fixed
        and first.ndim == max(a.ndim for a in arrays) > 0
        and first.constant.shape[0] == first.constant.size == count
        and np.array_equal(first.constant.ravel(), range(count))
    )


ELEMENTWISE = _aligned(0)
RULES: dict[Any, Rule] = {
    conv._gather: _aligned(2), conv._scatter: _aligned(2), conv._max_pool: _aligned(2), linalg._matmul: _aligned(2),
    conv._correlate: _aligned(4), conv._spread: _aligned(4), conv._match: _aligned(4),
    reduce._sum: _reduced, reduce._mean: _reduced, reduce._max: _reduced, reduce._min: _reduced, reduce._cumsum: _reduced,
    shape._flip: _reduced, structural._sum_to_prim: _summed_to, shape._reshape: _reshaped, structural._broadcast: _broadcast,
    shape._transpose: _transposed, shape._pad: _padded, shape._concatenate: _joined, shape._stack: _joined,
    indexing._getitem: _indexed, indexing._put: _indexed,
    structural._astype: _same, structural._cast: _same, IDENTITY: _same,
}  # fmt: skip
