"""What machine code is made of, as text: the cleaned program, and who writes it. Equal texts give equal code, in any process.

The lines of f are no part of it, nor are the numbers in its arguments and in arrays that are only read in each run. The integers of
constants that nobody can change are, since the loop over tasks looks at indices.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .graph import Op, Program, Value

SIMPLE = (type(None), type(...), bool, int, float, str, np.generic, np.dtype)  # their repr tells all about them


def text_of(program: Program) -> str | None:
    """One line per array and op; None if a parameter cannot be written down."""
    names = {v: f"a{k}" for k, v in enumerate(program.inputs)}
    names |= {v: f"c{k}" for k, v in enumerate(program.constants) if v not in names}
    lines = [f"{name} = {_array(v)}" for v, name in names.items()]
    try:
        for op in program.ops:
            given = [names[x] if type(x) is Value else _written(x) for x in op.inputs]
            names |= {v: f"t{len(names) + k}" for k, v in enumerate(op.outputs)}
            made = [f"{names[v]} {v.dtype.str}{v.shape}" for v in op.outputs]
            lines.append(f"{made} = {_prim(op)}({given}, {_written(op.params)})")
    except TypeError:
        return None
    return "\n".join([*lines, *(names[v] for v in program.results)])


def _array(v: Value) -> str:
    numbers = ""
    if v.fixed and v.dtype.kind != "f":
        numbers = hashlib.sha256(np.ascontiguousarray(v.constant).tobytes()).hexdigest()
    return f"{v.dtype.str}{v.shape} {numbers}"


def _prim(op: Op) -> str:
    """Rules are found by the primitive itself, or by its name and kind."""
    f = op.prim.forward
    return f"{op.prim.name} {op.prim.kind} {getattr(f, '__module__', None)}.{getattr(f, '__qualname__', f)} {op.many}"


def _written(x: Any) -> str:
    if isinstance(x, SIMPLE):
        return f"{type(x).__name__}:{x!r}"
    if isinstance(x, slice):
        return _written((x.start, x.stop, x.step))
    if isinstance(x, dict):
        return f"{{{_joined([k, v] for k, v in sorted(x.items()))}}}"
    if isinstance(x, (tuple, list)):
        return f"{type(x).__name__}({_joined(x)})"
    raise TypeError(f"{type(x).__name__} has no text")


def _joined(items: Iterable) -> str:
    return ", ".join(map(_written, items))


@functools.cache
def generator() -> str:
    """A digest of the sources of the compiler and of the ops and the engine that it asks."""
    rooms = Path(__file__).parent, *(Path(__file__).parent.parent / room for room in ("ops", "engine"))
    digest = hashlib.sha256()
    for file in sorted(file for room in rooms for file in room.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{digest.hexdigest()}, numpy {np.__version__}"
