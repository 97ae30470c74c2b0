"""The program as machine code for the CPU: three functions, before, for a run of tasks, and after; each a list of loops.

Memory is one table of addresses (arguments, constants, results) and two kinds of blocks: `shared` for values that all tasks see
and the partial sums of each run of tasks, and `own`, one for each thread, for the values of one task, which stay in a core's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from llvmlite import ir

from ..ops import reduce
from . import convolutions as convolutions  # puts its prims into the table of loops
from .arena import ALIGNMENT, arrange
from .graph import Op, Program, Value, values
from .loops import Lowering
from .nests import Nest, Place
from .products import Sizes, product, room
from .python_code import Text
from .statements import Gather, Loop, Product, Statement, View, contiguous, unsupported
from .tasks import Tasks, split
from .vectors import BYTES, INDEX, Code, address, combine, convert, index, load, loop, store, supported

RUNS = 8  # of tasks, each with its own partial sums: the same sums whatever the number of threads
IN_RUN = 128  # tasks whose partial sum loses few bits
SUMS_BYTES = 1 << 24  # room for the partial sums of more runs
_INT64 = np.dtype(np.int64)


class Machine:
    """The module of the three functions, and what the caller must know: the table's values and the sizes of the blocks in bytes."""

    def __init__(self, program: Program, vector_bytes: int, data_at: int | None = None) -> None:
        # Where an array's Python object has the address of its data; None: the table holds that itself.
        self.data_at = data_at
        self.tasks = split(program) or Tasks(0, after=program.ops)
        self.runs = _runs(self.tasks)
        self.module, self.vector_bytes = ir.Module("program"), vector_bytes
        self.outputs = computed(program)
        self.table = {v: i for i, v in enumerate([*program.inputs, *program.constants, *self.outputs])}
        self.shared: dict[Value, int] = {}
        # The ops that read or add at indices. After a run `shared` begins with the number, counted from 1, of one that found an
        # index out of range.
        self.indexing: list[Op] = []
        self.shared_bytes, self.own_bytes = ALIGNMENT, 0
        self.parts = self._parts()

    @property
    def source(self) -> str:
        """The three functions as Python."""
        return str(Text(self))

    @property
    def work(self) -> int:
        """About how many computations all tasks are."""
        return self.tasks.count * sum(_work(s) for s in self.parts[1].statements)

    def _parts(self) -> list[Part]:
        tasks = self.tasks
        partial = {one: Value((self.runs, *one.shape), one.dtype) for one in tasks.sums}
        for v in (*_crossing(tasks), *partial.values()):
            if v not in self.table:
                self.shared[v], self.shared_bytes = self.shared_bytes, self.shared_bytes + _bytes(v)
        before, after = _made(tasks.before), _made(tasks.after)
        kept = [v for v in (*self.outputs, *self.shared) if v in before]
        totals = [_sum_of_runs(tasks.sums[one], parts) for one, parts in partial.items()]
        return [
            Part("before", self, tasks.before, {v: v for v in kept}, {}),
            Part("tasks", self, tasks.ops, {one: whole for whole, one in tasks.stored.items()}, partial),
            Part("after", self, [*totals, *tasks.after], {v: v for v in self.outputs if v in after}, {}),
        ]


def computed(program: Program) -> list[Value]:
    """The results that are no argument or constant."""
    return [v for v in program.results if v.op is not None]


class Part:
    """One function: `results` are values and where they go, `sums` values and the partial sums to which they are added."""

    def __init__(self, name: str, machine: Machine, ops: list[Op], results: dict, sums: dict) -> None:
        for op in ops:
            for v in (*values(op.inputs), *op.outputs):
                if not supported(v.dtype):
                    raise unsupported(op, v)
        self.name, self.machine, self.sums = name, machine, sums
        self.one = {to: Value(v.shape, v.dtype) for v, to in sums.items()}  # the partial sum of one run
        self.lowering = Lowering(ops, results, {v: self.one[to] for v, to in sums.items()})
        self.statements = self.lowering.statements
        known = {*machine.table, *machine.shared, *machine.tasks.arguments, *self.lowering.same, *self.one.values()}
        rooms = {k: _room(s) for k, s in enumerate(self.statements) if isinstance(s, Product) and _room(s)}
        self.places, self.rooms, self.bytes = arrange(self.statements, known, rooms)
        if name == "tasks":
            machine.own_bytes, self.at = self.bytes, 0
        else:
            self.at, machine.shared_bytes = machine.shared_bytes, machine.shared_bytes + self.bytes
        self._emit()

    def _emit(self) -> None:
        """void name(table, shared, own, run): calls of one function for each statement, which LLVM compiles one by one."""
        kind = ir.FunctionType(ir.VoidType(), [BYTES.as_pointer(), BYTES, BYTES, INDEX, INDEX])
        zeros = [self._function(kind, partial(self._zero, to)) for to in self.one.values()]
        steps = [self._function(kind, partial(self._statement, k, s)) for k, s in enumerate(self.statements)]
        f = ir.Function(self.machine.module, ir.FunctionType(ir.VoidType(), kind.args[:4]), self.name)
        b = ir.IRBuilder(f.append_basic_block())
        for g in zeros:
            b.call(g, [*f.args, index(0)])
        if self.name != "tasks":
            for g in steps:
                b.call(g, [*f.args, index(0)])
        elif self.machine.tasks.count:
            self._loop_over_tasks(b, steps, f.args)
        b.ret_void()

    def _function(self, kind: ir.FunctionType, emit: Callable[[], None]) -> ir.Function:
        f = ir.Function(self.machine.module, kind, self.machine.module.get_unique_name(f"{self.name}_step"))
        f.linkage = "internal"
        self.b = ir.IRBuilder(f.append_basic_block())
        *self.arguments, self.task = f.args
        self.known: dict[Value, Code] = {}
        emit()
        self.b.ret_void()
        return f

    def _loop_over_tasks(self, b: ir.IRBuilder, steps: list[ir.Function], arguments: list[Code]) -> None:
        count, runs, run = self.machine.tasks.count, self.machine.runs, arguments[3]
        first, end = (b.sdiv(b.mul(k, index(count)), index(runs)) for k in (run, b.add(run, index(1))))
        before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
        b.branch(inside)
        b.position_at_end(inside)
        task = b.phi(INDEX)
        task.add_incoming(first, before)
        for g in steps:
            b.call(g, [*arguments, task])
        following = b.add(task, index(1))
        task.add_incoming(following, b.block)
        b.cbranch(b.icmp_signed("<", following, end), inside, after)
        b.position_at_end(after)

    # ---- places ----

    def place(self, v: Value) -> Place:
        b, machine = self.b, self.machine
        block = self.arguments[2 if self.name == "tasks" else 1]
        v = self.lowering.same.get(v, v)
        if v in self.places:
            return block, self.at + self.places[v]
        if v in machine.tasks.arguments:
            return self._slice(machine.tasks.arguments[v]), 0
        if v in machine.tasks.stored and self.name == "tasks":
            return self._slice(v), 0
        for to, one in self.one.items():
            if v is one:
                offset = b.add(b.mul(self.arguments[3], index(_bytes(v, 1))), index(machine.shared[to]))
                return b.gep(self.arguments[1], [offset]), 0
        return self._whole(v)

    def _slice(self, whole: Value) -> Code:
        base, offset = self._whole(whole)
        size = whole.size // whole.shape[0] * whole.dtype.itemsize
        return self.b.gep(base, [self.b.add(self.b.mul(self.task, index(size)), index(offset))])

    def _whole(self, v: Value) -> Place:
        if v in self.machine.shared:
            return self.arguments[1], self.machine.shared[v]
        if v not in self.known:
            with self.b.goto_entry_block():  # read once, whatever loop this is in
                slot = self.b.gep(self.arguments[0], [index(self.machine.table[v])])
                at = self.b.load(slot)
                if self.machine.data_at is not None:
                    at = self.b.load(self.b.bitcast(self.b.gep(at, [index(self.machine.data_at)]), BYTES.as_pointer()))
                self.known[v] = at
        return self.known[v], 0

    # ---- statements ----

    def _statement(self, k: int, statement: Statement) -> None:
        if isinstance(statement, Loop):
            Nest(self.b, statement, self.place, self.machine.vector_bytes)
        elif isinstance(statement, Product):
            self._product(k, statement)
        else:
            self._gather(statement)

    def _zero(self, to: Value) -> None:
        fill = Lowering([], {}, {})
        fill.fill(contiguous(to), 0)
        Nest(self.b, fill.statements[0], self.place, self.machine.vector_bytes)  # type: ignore[arg-type]

    def _product(self, k: int, p: Product) -> None:
        b, block = self.b, self.arguments[2 if self.name == "tasks" else 1]
        size, lead = p.c.root.dtype.itemsize, p.c.shape[:-2]
        space = b.gep(block, [index(self.at + self.rooms.get(k, 0))])
        places = [self.place(v.root) for v in (p.a, p.b, p.c)]

        def over(axes: list[int], indices: list[Code]) -> list:
            if axes:
                return loop(b, lead[axes[0]], [], lambda i, _: over(axes[1:], [*indices, i]))
            at = [
                address(b, base, v.offset + offset // size, list(zip(indices, v.strides, strict=False)), size)
                for (base, offset), v in zip(places, (p.a, p.b, p.c), strict=True)
            ]
            product(b, _sizes(p), p.c.root.dtype, self.machine.vector_bytes, at, space)
            return []

        over(list(range(len(lead))), [])

    def _gather(self, g: Gather) -> None:
        b = self.b
        dtype, over = g.source.root.dtype, g.to.shape
        self.machine.indexing.append(g.op)

        def step(axes: list[int], indices: list[Code]) -> list:
            if axes:
                return loop(b, over[axes[0]], [], lambda i, _: step(axes[1:], [*indices, i]))
            steps = []
            for view, stride, n in zip(g.indices, g.source.strides, g.source.shape, strict=True):
                own = view.root.dtype
                at = convert(b, load(b, self._at(view, indices), own, 1, 1), own, _INT64, 1)
                steps.append(
                    (self._within(b.select(b.icmp_signed("<", at, index(0)), b.add(at, index(n)), at), n), stride)
                )
            base, offset = self.place(g.source.root)
            source = address(b, base, g.source.offset + offset // dtype.itemsize, steps, dtype.itemsize)
            to = self._at(g.to, indices)
            if g.add:
                total = combine(b, "sum", load(b, source, dtype, 1, 1), load(b, to, dtype, 1, 1), dtype, 1)
                store(b, total, source, dtype, 1, 1)
            else:
                store(b, load(b, source, dtype, 1, 1), to, dtype, 1, 1)
            return []

        step(list(range(len(over))), [])

    def _within(self, at: Code, n: int) -> Code:
        """The index if it lies in 0 to n - 1; else 0, and the op is noted, by whichever thread."""
        b = self.b
        inside = b.icmp_unsigned("<", at, index(n))
        with b.if_then(b.not_(inside), likely=False):
            b.store(index(len(self.machine.indexing)), b.bitcast(self.arguments[1], INDEX.as_pointer()))
        return b.select(inside, at, index(0))

    def _at(self, view: View, indices: list[Code]) -> Code:
        base, offset = self.place(view.root)
        size = view.root.dtype.itemsize
        return address(self.b, base, view.offset + offset // size, list(zip(indices, view.strides, strict=True)), size)


def _runs(tasks: Tasks) -> int:
    size = sum(map(_bytes, tasks.sums))
    short = min(tasks.count // IN_RUN, SUMS_BYTES // size) if size else 0
    return min(max(RUNS, short), tasks.count)


def _crossing(tasks: Tasks) -> list[Value]:
    """Values that one part makes and a later one reads."""
    before = _made(tasks.before)
    read = [x for op in (*tasks.ops, *tasks.after) for x in values(op.inputs) if x in before]
    return list(dict.fromkeys([*read, *tasks.stored]))


def _made(ops: list[Op]) -> set[Value]:
    return {v for op in ops for v in op.outputs}


def _sum_of_runs(total: Value, parts: Value) -> Op:
    return Op(reduce._sum, (parts,), {"axis": (0,), "keepdims": False}, outputs=(total,))


def _bytes(v: Value, alignment: int = ALIGNMENT) -> int:
    return -(-v.size * v.dtype.itemsize // alignment) * alignment


def _work(s: Statement) -> int:
    if isinstance(s, Product):
        return math.prod(s.a.shape) * s.b.shape[-1]
    return math.prod(s.shape) * (len(s.code) + len(s.sums) + 1) if isinstance(s, Loop) else math.prod(s.to.shape)


def _room(p: Product) -> int:
    return room(_sizes(p), p.c.root.dtype)


def _sizes(p: Product) -> Sizes:
    """Steps along axes of length 1 are whatever suits."""
    (m, k), n = p.a.shape[-2:], p.b.shape[-1]
    return Sizes(
        m, k, n,
        p.a.strides[-2] if m > 1 else k, p.a.strides[-1] if k > 1 else 1,
        p.b.strides[-2] if k > 1 else n if n > 1 else 1, p.b.strides[-1] if n > 1 else 1, n,
    )  # fmt: skip
