"""The program as straight-line NumPy: one line per op, into buffers that are made once."""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from traceback import walk_tb
from typing import Any

import numpy as np

from ..engine import structural
from ..ops import elementwise as ew
from ..ops import linalg, reduce, shape
from ..ops.einsum import _einsum
from .graph import Op, Program, Value, short_line, text_of_line, values
from .plan import is_view, part, plan

Lines = list[str]
FILE = "<tm.compile>"
WIDTH = 60  # of the code on a line, before its comment
# names that the code has for other things
OURS = re.compile(rf"[a-z]\d*|np|out|build|buffer|replay|{'|'.join(keyword.kwlist)}")


class Code:
    """The text of a program and the names in it: `source` defines build(k, buffers), which returns replay(*inputs)."""

    def __init__(self, program: Program, buffers: bool = True) -> None:
        self.program = program
        owns = (lambda op: op.prim in OUT or _ufunc(op) is not None) if buffers else (lambda op: False)
        self.plan = plan(program, owns, lambda op: _ufunc(op) is not None)
        self.names: dict[Value, str] = {v: f"a{i}" for i, v in enumerate(program.inputs)}
        self.names |= {v: f"c{i}" for i, v in enumerate(program.constants)}
        self.names |= {y: f"t{i}" for i, y in enumerate(y for op in program.ops for y in op.outputs)}
        self.given: dict[str, Any] = {"np": np} | {self.names[v]: v.constant for v in program.constants}
        self.source = "\n".join(self._lines())

    def build(self) -> Callable:
        """replay(*inputs), which returns the program's results (Program.results) as fresh arrays."""
        names: dict[str, Any] = dict(self.given)
        exec(compile(self.source, FILE, "exec"), names)
        run = names["build"](lambda i, *kind: part(self.plan.buffers[i], *kind))

        def replay(*inputs: Any) -> list:
            with np.errstate(all="ignore"):
                try:
                    return list(map(_fresh, run(*inputs)))
                except Exception as error:
                    note_line(error, self.source)
                    raise

        return replay

    def name(self, x: Any) -> str:
        """How an input is written: its name, a Python number, or the name of a NumPy number."""
        if type(x) is Value:
            return self.names[x]
        if isinstance(x, (bool, int)) or (isinstance(x, float) and np.isfinite(x) and not isinstance(x, np.generic)):
            return repr(x)
        return self.let("k", x)

    def let(self, prefix: str, x: Any) -> str:
        """A name for a thing that the code needs."""
        for name, known in self.given.items():
            if known is x:
                return name
        name = prefix if len(prefix) > 1 and prefix not in self.given else f"{prefix}{len(self.given)}"
        self.given[name] = x
        return name

    def _lines(self) -> Lines:
        ops, views = self.program.ops, self._static()
        kept = {*self.program.results, *self.plan.arrays, *(op.out for op in ops if is_view(op))}
        dead = self._dead([(*op.outputs, *values(op.inputs)) for op in ops], kept)
        steps = [line for k, op in enumerate(ops) for line in (*self._step(op), *dead[k])]
        results = "".join(f"{self.names[v]}, " for v in self.program.results)
        parameters = ", ".join(self.names[v] for v in self.program.inputs)
        return [
            "def build(buffer):",
            *(f"    {line}" for line in views),
            f"    def replay({parameters}):",
            *(f"        {line}" for line in steps),
            f"        return ({results})",
            "    return replay",
        ]

    def _dead(self, touched: Iterable[Iterable[Value]], kept: set[Value]) -> dict[int, Lines]:
        """After which step which of its values are let go: none is kept to the end of a run for its name's sake."""
        dead = defaultdict[int, list[str]](list)
        for v, k in {v: k for k, step in enumerate(touched) for v in step}.items():
            if v.op is not None and v not in kept:
                dead[k].append(self.names[v])
        return defaultdict(list, {k: [f"del {', '.join(names)}"] for k, names in dead.items()})

    def _static(self) -> Lines:
        """The buffers, and the views of them that are the same in every run."""
        lines = []
        for op in self.program.ops:
            y = op.out
            if y in self.plan.buffer_of:
                order = "" if y.order == tuple(range(y.ndim)) else f", {y.order}"
                lines.append(f"{self.names[y]} = buffer({self.plan.buffer_of[y]}, {str(y.dtype)!r}, {y.shape}{order})")
            elif y in self.plan.arrays:
                lines.append(self._commented(f"{self.names[y]} = {self._call(op)}", op))
        return lines

    def _step(self, op: Op) -> Lines:
        if op.out in self.plan.arrays and op.out not in self.plan.buffer_of:
            return []
        if op.out not in self.plan.arrays:
            return [
                self._commented(f"{', '.join(self.names[y] for y in op.outputs)}{',' * op.many} = {self._call(op)}", op)
            ]
        inputs, out = [self.name(x) for x in op.inputs], self.names[op.out]
        ufunc = _ufunc(op)
        rule = OUT.get(op.prim)
        lines = rule(self, op, inputs, out) if rule else [f"{self._called(ufunc, op)}({', '.join(inputs)}, out={out})"]
        return [self._commented(lines[0], op), *lines[1:]]

    def _call(self, op: Op) -> str:
        """The primitive's own function."""
        inputs = [self.name(x) for x in op.inputs]
        function = op.prim.forward
        known = CALLS.get(op.prim)
        if known:
            return known.format(*inputs, **op.params)
        params = [f"{k}={self._param(v)}" for k, v in op.params.items()]
        return f"{self._called(function, op)}({', '.join([*inputs, *params])})"

    def _called(self, f: Callable, op: Op) -> str:
        """NumPy's by its own name, another by that of the primitive, if it can be one."""
        if (name := getattr(f, "__name__", None)) and getattr(np, name, None) is f:
            return f"np.{name}"
        return self.let("op" if not op.prim.name.isidentifier() or OURS.fullmatch(op.prim.name) else op.prim.name, f)

    def _param(self, x: Any) -> str:
        simple = (
            isinstance(x, (bool, int, str, slice))
            or x is None
            or (type(x) in (tuple, list) and all(isinstance(i, (int, tuple, slice)) for i in x))
        )
        return repr(x) if simple else self.let("k", x)

    def _commented(self, code: str, op: Op) -> str:
        comment = f"# {op.prim.name} {' '.join(map(repr, op.outputs))}  {short_line(op.site)}: {text_of_line(op.site)}"
        return f"{code:<{WIDTH}} {comment}"


def note_line(error: Exception, source: str) -> None:
    """Add the program's line that failed, which names the op and the user's line."""
    at = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == FILE]
    error.add_note(f"in the program of tm.compile: {' '.join(source.splitlines()[at[-1] - 1].split())}")


def _fresh(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return x.copy()
    return x[()] if x.ndim == 0 else x.copy("K")


def _ufunc(op: Op) -> Any:
    """The ufunc that computes the op into out=; None if it is something else."""
    f = op.prim.forward
    return (
        f
        if isinstance(f, np.ufunc) and f.nin == len(op.inputs) and f.nout == 1 and op.prim is not linalg._matmul
        else None
    )


# ---- how the others write into a buffer; the same arithmetic as the primitive's own function, in the same order ----


def _reduction(name: str) -> Callable:
    def lines(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
        given = "".join(f", {k}={v!r}" for k, v in op.params.items())
        if name == "mean" and op.out.dtype == np.float16:  # NumPy would write the sum, which need not fit, to out first
            return [f"np.copyto({out}, np.mean({inputs[0]}{given}))"]
        return [f"np.{name}({inputs[0]}{given}, out={out})"]

    return lines


def _sum_to(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
    x = op.inputs[0]
    axes = structural.summed_axes(x.shape, op.params["shape"])
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return [f"np.sum({inputs[0]}, axis={axes}, keepdims=True, out={out}.reshape({kept}))"]


def _where(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
    condition, x, y = inputs
    if type(op.inputs[0]) is not Value or op.inputs[0].dtype != bool:
        condition = f"({condition} != 0)"
    return [f"np.copyto({out}, {y})", f"np.copyto({out}, {x}, where={condition})"]


def _sigmoid(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
    return [f"np.negative({inputs[0]}, out={out})", f"np.exp({out}, out={out})", f"np.add(1, {out}, out={out})",
            f"np.divide(1, {out}, out={out})"]  # fmt: skip


def _copied(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
    return [f"np.copyto({out}.reshape({op.inputs[0].shape}), {inputs[0]})"]


def _joined(name: str) -> Callable:
    return lambda code, op, inputs, out: [f"np.{name}(({', '.join(inputs)},), axis={op.params['axis']}, out={out})"]


def _padded(code: Code, op: Op, inputs: list[str], out: str) -> Lines:
    inside = shape._inside(op.params["width"], op.inputs[0].shape)
    return [f"{out}[...] = 0", f"{out}[{inside}] = {inputs[0]}"]


OUT: dict[Any, Callable] = {
    linalg._matmul: lambda code, op, inputs, out: [f"np.matmul({', '.join(inputs)}, out={out})"],
    reduce._sum: _reduction("sum"), reduce._mean: _reduction("mean"), reduce._max: _reduction("max"),
    reduce._min: _reduction("min"), reduce._cumsum: _reduction("cumsum"), structural._sum_to_prim: _sum_to,
    ew._where: _where, ew.sigmoid.prim: _sigmoid,  # type: ignore[attr-defined]
    ew.relu.prim: lambda code, op, inputs, out: [f"np.maximum({inputs[0]}, 0, out={out})"],  # type: ignore[attr-defined]
    ew.softplus.prim: lambda code, op, inputs, out: [f"np.logaddexp({inputs[0]}, 0, out={out})"],  # type: ignore[attr-defined]
    structural._astype: lambda code, op, inputs, out: [f"np.copyto({out}, {inputs[0]}, casting='unsafe')"],
    structural._cast: lambda code, op, inputs, out: [f"np.copyto({out}, {inputs[0]}, casting='unsafe')"],
    shape._reshape: _copied, shape._concatenate: _joined("concatenate"), shape._stack: _joined("stack"), shape._pad: _padded,
    _einsum: lambda code, op, inputs, out: [
        f"np.einsum({op.params['spec']!r}, {', '.join(inputs)}, optimize=True, out={out})"],
}  # fmt: skip
CALLS: dict[Any, str] = {
    shape._reshape: "np.reshape({0}, {shape})", shape._transpose: "np.transpose({0}, {axes})",
    structural._broadcast: "np.broadcast_to({0}, {shape})",
}  # fmt: skip
