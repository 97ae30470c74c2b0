"""What the machine code does, in Python: the same loops over the same numbers, slow but readable, and it runs.

Arrays are flat. Each line says which op it is, of what shape, and which line of the user's asked for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .graph import Op, Value, short_line, text_of_line
from .nests import first
from .statements import Gather, Loop, Product, Statement, View, steps

if TYPE_CHECKING:
    from .llvm_code import Machine, Part

INDICES = "ijklmnpq"
WIDTH = 72  # of the code on a line, before its comment
FUNCTIONS = (
    "exp",
    "log",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "sinh",
    "cosh",
    "tanh",
    "sign",
    "floor",
    "ceil",
    "rint",
    "isnan",
    "isfinite",
)
NAMES = {name: getattr(np, name) for name in FUNCTIONS} | {
    "np": np,
    "max": np.maximum,
    "min": np.minimum,
    "atan": np.arctan,
    "inf": np.inf,
    "nan": np.nan,
}


class Text:
    """The lines of program(a0, a1, ..., c0, ...), which returns its results as flat arrays."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.lines = machine, list[str]()
        n = len(machine.table) - len(machine.outputs)
        self.names = {v: f"a{i}" if v.constant is None else f"c{i}" for i, v in enumerate(machine.table) if i < n}
        self.names |= {v: f"r{i}" for i, v in enumerate(machine.outputs)}
        arguments = ", ".join(list(self.names.values())[:n])
        self._line(0, f"def program({arguments}):")
        for v in (*machine.outputs, *machine.shared):
            self._array(1, v)
        before, tasks, after = machine.parts
        self._part(1, before)
        if machine.tasks.count:
            for one, total in zip(tasks.sums.values(), tasks.one.values(), strict=True):
                self.names[total] = self._name(one)  # there is one run here, so one partial sum
            for v in self._own(tasks):
                self._array(1, v)
            self._line(1, f"for t in range({machine.tasks.count}):", f"in {machine.runs} runs, shared by the threads")
            self._part(2, tasks)
        for v in self._own(after):
            self._array(1, v)
        self._part(1, after)
        self._line(1, f"return [{', '.join(self.names[v] for v in machine.outputs)}]")

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"

    def _own(self, part: Part) -> list[Value]:
        return [v for v in part.places if v not in self.names]

    def _line(self, depth: int, code: str, comment: str = "") -> None:
        text = "    " * depth + code
        self.lines.append(f"{text:<{WIDTH}} # {comment}" if comment else text)

    def _name(self, v: Value) -> str:
        if v not in self.names:
            self.names[v] = f"t{len(self.names)}"
        return self.names[v]

    def _array(self, depth: int, v: Value) -> None:
        self._line(depth, f"{self._name(v)} = np.zeros({v.size}, np.{v.dtype.name})", repr(v))

    # ---- statements ----

    def _part(self, depth: int, part: Part) -> None:
        self.same = part.lowering.same
        for v in self._own(part):
            self._array(depth, v)
        for statement in part.statements:
            self._statement(depth, statement)

    def _statement(self, depth: int, s: Statement) -> None:
        if isinstance(s, Loop):
            self._loop(depth, s)
        elif isinstance(s, Product):
            a, b, c = (self._strided(v) for v in (s.a, s.b, s.c))
            self._line(depth, f"{c}[...] = {a} @ {b}", _comment(s.op, s.op.out))
        else:
            self._gather(depth, s)

    def _loop(self, depth: int, s: Loop) -> None:
        kept = [k for k in range(len(s.shape)) if not s.sums or k not in s.sums[0].axes]
        for total in s.sums:
            name, start = self._base(total.out)
            size = int(np.prod([s.shape[k] for k in kept], dtype=np.int64))
            self._line(
                depth, f"{name}[{start}:{f'{start} + {size}' if start else ''}] = {first(total.kind, total.out.dtype)}"
            )
        inner, indices = self._for(depth, s.shape)
        for view, register in s.loads.items():
            self._line(inner, f"v{register} = {self._flat(view, indices)}")
        for register, op, arguments in s.code:
            given = [f"v{a}" if isinstance(a, int) else _number(a[0]) for a in arguments]
            self._line(inner, f"v{register} = {_expression(op, given)}", _comment(op, op.outputs[0]))
        for register, view in s.stores:
            self._line(inner, f"{self._flat(view, indices)} = v{register}")
        outer = [indices[k] for k in kept]
        for total in s.sums:
            whole = View(total.out, 0, tuple(s.shape[k] for k in kept), steps(tuple(s.shape[k] for k in kept)))
            place, value = self._flat(whole, outer), f"v{total.register}"
            count = int(np.prod([s.shape[k] for k in total.axes], dtype=np.int64))
            more = {"sum": f"{place} + {value}", "mean": f"{place} + {value} / {count}"}
            self._line(
                inner,
                f"{place} = {more.get(total.kind, f'np.{total.kind}imum({place}, {value})')}",
                f"{total.kind} {total.out!r}{_asked(total.out.op)}",
            )

    def _gather(self, depth: int, g: Gather) -> None:
        inner, indices = self._for(depth, g.to.shape)
        at = [f"{self._flat(view, indices)} % {n}" for view, n in zip(g.indices, g.source.shape, strict=True)]
        source, to = self._flat(g.source, [f"({a})" for a in at]), self._flat(g.to, indices)
        self._line(inner, f"{source} += {to}" if g.add else f"{to} = {source}", _comment(g.op, g.op.out))

    def _for(self, depth: int, over: tuple[int, ...]) -> tuple[int, list[str]]:
        """Loops over all axes longer than 1; an index for every axis."""
        indices = []
        for k, n in enumerate(over):
            indices.append((INDICES[k] if k < len(INDICES) else f"i{k}") if n > 1 else "0")
            if n > 1:
                self._line(depth, f"for {indices[-1]} in range({n}):")
                depth += 1
        return depth, indices

    # ---- memory ----

    def _base(self, v: Value) -> tuple[str, str]:
        """The flat array that holds v, and where v begins in it, if not at 0."""
        tasks = self.machine.tasks
        v = self.same.get(v, v)
        if v in tasks.arguments:
            return self.names[tasks.arguments[v]], f"{v.size} * t"
        if v in tasks.stored and self.same is self.machine.parts[1].lowering.same:
            return self.names[v], f"{v.size // v.shape[0]} * t"
        return self._name(v), ""

    def _flat(self, view: View, indices: list[str]) -> str:
        name, start = self._base(view.root)
        terms = [start] * bool(start) + [str(view.offset)] * bool(view.offset)
        terms += [
            i if step == 1 else f"{step} * {i}"
            for i, step in zip(indices, view.strides, strict=True)
            if step and i != "0"
        ]
        return f"{name}[{' + '.join(terms) or '0'}]"

    def _strided(self, view: View) -> str:
        name, start = self._base(view.root)
        offset = " + ".join([start] * bool(start) + [str(view.offset)] * bool(view.offset))
        size = view.root.dtype.itemsize
        return (f"np.lib.stride_tricks.as_strided({name}{f'[{offset}:]' if offset else ''}, {view.shape}, "
                f"{tuple(size * step for step in view.strides)})")  # fmt: skip


def _number(x: Any) -> str:
    """With a sign of its own only in brackets: -2.0 ** x is another number."""
    return f"({x!r})" if repr(x).startswith("-") else repr(x)


def _expression(op: Op, given: list[str]) -> str:
    out = op.outputs[0].dtype
    if op.prim.expr is None or op.prim.name in ("astype", "identity"):
        known = op.prim.name in ("astype", "identity")
        return (
            f"np.{out.name if out.kind != 'b' else 'bool_'}({given[0]})"
            if known
            else f"np.{op.prim.name}({', '.join(given)})"
        )
    return op.prim.expr.format(*given)


def _comment(op: Op, out: Value) -> str:
    return f"{op.prim.name} {out!r}{_asked(op)}"


def _asked(op: Op | None) -> str:
    """The user's line."""
    return f"  {short_line(op.site)}: {text_of_line(op.site)}" if op and op.site else ""
