"""A loop nest as LLVM code: axes merged where memory allows, one axis by vectors, sums in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir

from .graph import Value
from .scalars import compute
from .statements import Loop, View
from .vectors import Code, across, address, combine, convert, index, load, loop, number, pieces, store, summed

Place = tuple[Code, int]  # a pointer and bytes after it


@dataclass
class Axis:
    """One axis of a nest: its length, each view's step along it, and whether sums run over it."""

    size: int
    steps: list[int]
    summed: bool


class Nest:
    """The code of one Loop; `place` says where the values are, `vector_bytes` how long a register is."""

    def __init__(self, b: ir.IRBuilder, statement: Loop, place: Callable[[Value], Place], vector_bytes: int) -> None:
        self.b, self.statement, self.place = b, statement, place
        self.outputs = [_output(s.out, statement.shape, s.axes) for s in statement.sums]
        self.views = [*statement.loads, *(view for _, view in statement.stores), *self.outputs]
        self.axes = _merged(self._axes())
        dtypes = [v.root.dtype for v in self.views] + [op.outputs[0].dtype for _, op, _ in statement.code]
        self.lanes = vector_bytes // max(d.itemsize for d in dtypes)
        self.vector = max(range(len(self.axes)), key=self._fitness, default=-1)
        self.indices: list[Any] = [index(0)] * len(self.axes)
        self._outer([k for k, a in enumerate(self.axes) if not a.summed and k != self.vector])

    def _axes(self) -> list[Axis]:
        summed = self.statement.sums[0].axes if self.statement.sums else ()
        return [Axis(n, [v.strides[k] for v in self.views], k in summed) for k, n in enumerate(self.statement.shape)]

    def _fitness(self, k: int) -> tuple[int, int]:
        """How well memory runs along the axis; the last of equals."""
        steps = self.axes[k].steps
        return sum(s == 1 for s in steps) - sum(s > 1 for s in steps), k

    # ---- the order of loops: kept axes, the vectors of a kept axis, summed axes, the vectors of a summed axis ----

    def _outer(self, axes: list[int]) -> None:
        if not axes:
            self._vectors()
            return

        def body(k: Code, _: list) -> list:
            self.indices[axes[0]] = k
            self._outer(axes[1:])
            return []

        loop(self.b, self.axes[axes[0]].size, [], body)

    def _vectors(self) -> None:
        axes = [k for k, a in enumerate(self.axes) if a.summed and k != self.vector]
        if self.vector < 0:
            self._finish(self._step(1, self._start(1)), 1)
            return
        axis = self.axes[self.vector]
        parts = pieces(axis.size, self.lanes)
        if not axis.summed:
            for first, count, width in parts:
                loop(self.b, count, [], self._along(first, width, partial(self._kept, axes, width)))
            return
        totals = self._all_rounds(axes, parts)
        n = len(self.statement.sums)
        joined: list[Code] = []
        for k, s in enumerate(self.statement.sums):
            how, dtype = _how(s.kind), s.out.dtype
            total, *others = (across(self.b, how, totals[p * n + k], dtype, w) for p, (_, _, w) in enumerate(parts))
            for other in others:
                total = combine(self.b, how, total, other, dtype, 1)
            joined.append(total)
        self.indices[self.vector] = index(0)
        self._finish(joined, 1)

    def _along(self, first: int, width: int, body: Callable[[list], list]) -> Callable[[Code, list], list]:
        """The body of a loop over vectors of this width, from index `first` on."""

        def step(k: Code, sums: list) -> list:
            at = k if width == 1 else self.b.mul(k, index(width))
            self.indices[self.vector] = self.b.add(at, index(first)) if first else at
            return body(sums)

        return step

    def _kept(self, axes: list[int], width: int, _: list) -> list:
        """One vector of an axis that is kept: all sums for it."""
        step = partial(self._step, width)
        self._finish(self._sums(axes, [width], step) if axes else step(self._start(width)), width)
        return []

    def _all_rounds(self, axes: list[int], parts: list) -> list:
        """The sums over all summed axes, the vector axis being one of them: those of each width."""
        widths = [width for _, _, width in parts]
        return (
            self._sums(axes, widths, lambda sums: self._added(widths, sums, self._round(parts)))
            if axes
            else self._round(parts)
        )

    def _round(self, parts: list) -> list:
        """The sums over the vector axis."""
        found = []
        for first, count, width in parts:
            step, add = self._along(first, width, partial(self._step, width)), partial(self._added, [width])
            found += summed(self.b, count, self._start(width), step, add)
        return found

    def _sums(self, axes: list[int], widths: list[int], onto: Callable[[list], list]) -> list:
        """The sums over these axes, where onto(sums) adds those of one index of them."""

        def body(k: Code, sums: list) -> list:
            self.indices[axes[0]] = k
            return self._added(widths, sums, self._sums(axes[1:], widths, onto)) if axes[1:] else onto(sums)

        starts = [x for width in widths for x in self._start(width)]
        return summed(self.b, self.axes[axes[0]].size, starts, body, partial(self._added, widths))

    def _added(self, widths: list[int], xs: list, ys: list) -> list:
        kinds = [(_how(s.kind), s.out.dtype, width) for width in widths for s in self.statement.sums]
        return [combine(self.b, how, x, y, t, w) for (how, t, w), x, y in zip(kinds, xs, ys, strict=True)]

    # ---- one index: load, compute, store, add to the sums ----

    def _step(self, width: int, carried: list) -> list:
        registers: dict[int, tuple[Code, np.dtype]] = {}
        for k, (view, register) in enumerate(self.statement.loads.items()):
            dtype = view.root.dtype
            registers[register] = load(self.b, self._at(k), dtype, width, self._step_of(k)), dtype
        for register, op, arguments in self.statement.code:
            given = [registers[a] if isinstance(a, int) else (a[0], None) for a in arguments]
            registers[register] = compute(self.b, op, given, width), op.outputs[0].dtype
        for k, (register, view) in enumerate(self.statement.stores, len(self.statement.loads)):
            value, dtype = registers[register]
            store(
                self.b,
                convert(self.b, value, dtype, view.root.dtype, width),
                self._at(k),
                view.root.dtype,
                width,
                self._step_of(k),
            )
        totals = []
        for s, total in zip(self.statement.sums, carried, strict=True):
            value, dtype = registers[s.register]
            value = convert(self.b, value, dtype, s.out.dtype, width)
            totals.append(combine(self.b, _how(s.kind), total, value, s.out.dtype, width))
        return totals

    def _start(self, width: int) -> list[Code]:
        return [number(first(s.kind, s.out.dtype), s.out.dtype, width) for s in self.statement.sums]

    def _finish(self, totals: list, width: int) -> None:
        first = len(self.views) - len(self.outputs)
        for k, (s, total) in enumerate(zip(self.statement.sums, totals, strict=True), first):
            if s.kind == "mean":
                count = int(np.prod([self.statement.shape[a] for a in s.axes], dtype=np.int64))
                total = self.b.fdiv(total, number(count, s.out.dtype, width))
            store(self.b, total, self._at(k), s.out.dtype, width, self._step_of(k))

    def _at(self, k: int) -> Code:
        view = self.views[k]
        base, offset = self.place(view.root)
        size = view.root.dtype.itemsize
        steps = [(i, axis.steps[k]) for i, axis in zip(self.indices, self.axes, strict=True)]
        return address(self.b, base, view.offset + offset // size, steps, size)

    def _step_of(self, k: int) -> int:
        return self.axes[self.vector].steps[k] if self.vector >= 0 else 0


def _how(kind: str) -> str:
    return "sum" if kind == "mean" else kind


def first(kind: str, dtype: np.dtype) -> Any:
    """What a sum, maximum or minimum begins with."""
    if kind in ("sum", "mean"):
        return 0
    lowest = -np.inf if dtype.kind == "f" else np.iinfo(dtype).min
    return lowest if kind == "max" else np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _output(out: Value, over: tuple[int, ...], summed: tuple[int, ...]) -> View:
    """The result of a sum as a view over the whole nest: no step along the summed axes."""
    strides, step = [0] * len(over), 1
    for k in reversed(range(len(over))):
        if k not in summed:
            strides[k], step = step, step * over[k]
    return View(out, 0, over, tuple(strides))


def _merged(axes: list[Axis]) -> list[Axis]:
    """Axes of length 1 dropped, and neighbours made one where every view runs through both evenly."""
    merged: list[Axis] = []
    for axis in axes:
        if axis.size == 1:
            continue
        before = merged[-1] if merged else None
        if before and before.summed == axis.summed and before.steps == [axis.size * s for s in axis.steps]:
            merged[-1] = Axis(before.size * axis.size, axis.steps, axis.summed)
        else:
            merged.append(axis)
    return merged
