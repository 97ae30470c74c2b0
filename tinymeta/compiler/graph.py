"""What a captured function is: inputs, a list of ops in the order in which they ran, outputs, and checks of values."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..engine.tensor import Prim, describe

Site = tuple[Any, int]  # a code object and the instruction in it: a line of the user's, worked out when it is asked for


class Value:
    """An array of the program: an input, a baked constant (`constant` is its array), or what an op computes."""

    __slots__ = ("constant", "dtype", "fixed", "op", "order", "shape", "site")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, op: Op | None = None, constant: Any = None) -> None:
        self.shape, self.dtype, self.op, self.constant = shape, dtype, op, constant
        self.site: Site | None = None
        self.fixed = False  # a constant that the program alone holds, so that its numbers stay
        self.order = tuple(range(len(shape)))  # the axes from the slowest in memory to the fastest, as f made it

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape, dtype=np.int64)))
    __repr__ = lambda self: describe(self)


@dataclass(eq=False)
class Op:
    """outputs = prim(*inputs, **params); an input is a Value or a Python or NumPy number."""

    prim: Prim
    inputs: tuple[Any, ...]
    params: dict[str, Any]
    site: Site | None = None
    outputs: tuple[Value, ...] = ()
    many: bool = False  # the primitive returns a tuple

    @property
    def out(self) -> Value:
        return self.outputs[0]


class Check(NamedTuple):
    """check(*values), which raises: a look at numbers that f took while it was captured, repeated after each run."""

    check: Callable[..., None]
    values: tuple[Any, ...]


@dataclass(eq=False)
class Program:
    """outputs may be Values or plain numbers; the checks' values are computed as outputs are. `in_place`: f has used `+=`."""

    inputs: list[Value]
    ops: list[Op]
    outputs: list[Any]
    checks: list[Check] = field(default_factory=list)
    in_place: bool = False

    @property
    def results(self) -> list[Value]:
        """Every Value that must be known at the end: of the outputs and of the checks, each once."""
        looked_at = [c.values for c in self.checks if not set(self.inputs) >= set(c.values)]
        return list(dict.fromkeys(v for v in (*self.outputs, *itertools.chain(*looked_at)) if type(v) is Value))

    @property
    def constants(self) -> list[Value]:
        """The baked arrays, in the order in which they are used."""
        found = [v for op in self.ops for v in values(op.inputs)] + self.results
        return list(dict.fromkeys(v for v in found if v.constant is not None))


def values(inputs: Iterable[Any]) -> list[Value]:
    return [x for x in inputs if type(x) is Value]


def line(site: Site | None) -> str:
    """`file.py:12` of a site, empty for none."""
    if site is None:
        return ""
    code, at = site
    number = next((n for start, end, n in code.co_lines() if start <= at < end and n), code.co_firstlineno)
    return f"{code.co_filename}:{number}"


def short_line(site: Site | None) -> str:
    return Path(line(site)).name if site else ""


def text_of_line(site: Site | None) -> str:
    file, _, number = line(site).rpartition(":")
    return linecache.getline(file, int(number)).strip() if file else ""
