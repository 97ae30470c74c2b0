"""Seeing a graph: a table of its ops with shapes, bytes and the user's lines, or Graphviz DOT."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .scope import Traced
from .sweeps import Graph
from .tensor import Tensor, describe, where_made


class Step(NamedTuple):
    """One op of a graph; inputs are names of other steps, or describe a constant."""

    name: str
    op: str
    inputs: tuple[str, ...]
    type: str
    bytes: int
    line: str
    source: str


class Listing:
    """The ops of one run of a function, oldest first: `print` it, or take `.steps` or `.dot`."""

    def __init__(self, graph: Graph) -> None:
        self._names: dict[Tensor, str] = {}
        for prefix, nodes in (("x", graph.leaves), ("t", graph.nodes)):
            self._names.update({t: f"{prefix}{i}" for i, t in enumerate(nodes)})
        self.steps = [self._step(t) for t in (*graph.leaves, *graph.nodes)]

    def _step(self, t: Tensor) -> Step:
        where, data = where_made(t), t.data if isinstance(t.data, tuple) else (t.data,)
        file, _, line = where.rpartition(":")
        op = t.prim.name if t.prim is not None else "input"
        inputs = tuple(self._names[x] if type(x) is Tensor and x in self._names else describe(x) for x in t.inputs)
        source = linecache.getline(file, int(line)).strip() if file else ""
        at = f"{Path(file).name}:{line}" if file else ""
        return Step(self._names[t], op, inputs, " ".join(map(describe, data)), sum(d.nbytes for d in data), at, source)

    @property
    def bytes(self) -> int:
        """Memory that the graph holds, in bytes (views are counted as if they were copies)."""
        return sum(step.bytes for step in self.steps)

    @property
    def dot(self) -> str:
        """The graph in Graphviz's language: `dot -Tsvg`."""
        known = {*self._names.values()}
        lines = ["digraph {", '  node [shape=box, fontname="monospace"]']
        for s in self.steps:
            lines.append(
                f'  {s.name} [label="{s.op}\\n{s.type}\\n{s.line}"{", style=bold" if s.op == "input" else ""}]'
            )
            lines += [f"  {x} -> {s.name}" for x in s.inputs if x in known]
        return "\n".join([*lines, "}"])

    def __str__(self) -> str:
        head = ("name", "op", "inputs", "type", "bytes", "line", "source")
        rows = [(s.name, s.op, ", ".join(s.inputs), s.type, f"{s.bytes:,}", s.line, s.source) for s in self.steps]
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
        table = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
            for row in (head, *rows)
        ]
        return "\n".join([*table, f"{len(self.steps)} values, {self.bytes:,} bytes"])

    __repr__ = __str__


def show(f: Callable, *xs: Any) -> Listing:
    """The graph of f at xs, derivatives inside f included: `print(tm.show(tm.grad(loss), w))` shows the gradient's own graph."""
    traced = Traced(f, xs, range(len(xs)), {}, "show")
    return Listing(traced.graph())
