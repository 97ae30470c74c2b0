"""What a generated program does, one statement after the other: loops over numbers, matrix products, and reads by index arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .graph import Op, Value, line


class Unsupported(Exception):
    """An op that has no loops; the program runs on NumPy."""


def unsupported(op: Op, of: Any) -> Unsupported:
    """The op, what it is of, and the line that asked for it."""
    return Unsupported(f"{op.prim.name} of {of}{f', at {line(op.site)}' if op.site else ''}")


class View(NamedTuple):
    """Some of the memory of a value: where it begins and its steps, counted in numbers."""

    root: Value
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def broadcast(self, over: tuple[int, ...]) -> View:
        """The same memory as an array of this shape."""
        lead = (0,) * (len(over) - len(self.shape))
        own = (0 if n == 1 else s for n, s in zip(self.shape, self.strides, strict=True))
        return View(self.root, self.offset, over, (*lead, *own))


class Sum(NamedTuple):
    """out = sum, maximum or minimum of a register over axes of the loop."""

    register: int
    kind: str
    axes: tuple[int, ...]
    out: Value


@dataclass(eq=False)
class Loop:
    """For each index of `shape`: load registers, compute, store. Registers are numbered."""

    shape: tuple[int, ...]
    loads: dict[View, int] = field(default_factory=dict)
    # register = op(registers as ints, or numbers in a 1-tuple)
    code: list[tuple[int, Op, tuple]] = field(default_factory=list)
    stores: list[tuple[int, View]] = field(default_factory=list)
    sums: list[Sum] = field(default_factory=list)
    registers: dict[Value, int] = field(default_factory=dict)
    closed: bool = False
    count: int = 0

    def register(self) -> int:
        self.count += 1
        return self.count - 1


@dataclass(eq=False)
class Product:
    """c[..., i, j] = sum over k of a[..., i, k] b[..., k, j], of equal leading axes."""

    a: View
    b: View
    c: View
    op: Op


@dataclass(eq=False)
class Gather:
    """to[i...] = source[indices[0][i...], ...], or with `add` the other way: source[...] += to[i...]."""

    source: View
    indices: list[View]
    to: View
    add: bool
    op: Op


Statement = Loop | Product | Gather


def contiguous(value: Value, offset: int = 0) -> View:
    return View(value, offset, value.shape, steps(value.shape))


def steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The steps of an array in C order."""
    return tuple(int(np.prod(shape[k + 1 :], dtype=np.int64)) for k in range(len(shape)))
