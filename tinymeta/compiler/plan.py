"""Where the values live: buffers that are used again as soon as no later op reads them, and views of these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..engine import structural
from ..engine.tensor import IDENTITY
from ..ops import indexing, shape
from .graph import Op, Program, Value, values

VIEWS = {shape._reshape, shape._transpose, shape._flip, structural._broadcast, indexing._getitem, IDENTITY}


@dataclass
class Plan:
    """`arrays` hold the values that have a buffer or are views of one; all others are made anew in each run."""

    buffers: list[np.ndarray] = field(default_factory=list)
    buffer_of: dict[Value, int] = field(default_factory=dict)
    arrays: dict[Value, np.ndarray] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(b.nbytes for b in self.buffers)


def is_view(op: Op) -> bool:
    """Whether the op may return a view; advanced indexing does not."""
    if op.prim is indexing._getitem and not indexing._is_basic(op.params["index"]):
        return False
    return op.prim in VIEWS and len(op.inputs) == 1


def part_of(x: np.ndarray, index: Any) -> np.ndarray:
    """x[index], of a basic index, as a view: NumPy copies a single element unless the index has an ellipsis."""
    found = x[index]
    return found if isinstance(found, np.ndarray) else x[(*index, ...) if isinstance(index, tuple) else (index, ...)]


def plan(program: Program, owns: Any, in_place: Any) -> Plan:
    """`owns(op)`: the op writes into a buffer; `in_place(op)`: also into the one of an input that nobody else needs."""
    made = Plan()
    last = _last_uses(program, owns)
    free: list[int] = []
    roots: dict[Value, Value] = {}  # of what has a buffer or is a view of one
    for k, op in enumerate(program.ops):
        view = _view(op, made)
        dying = {r for r in (roots.get(x) for x in values(op.inputs)) if r is not None and last[r] == k}
        if view is not None:
            made.arrays[op.out], roots[op.out] = view, roots[op.inputs[0]]
        elif (owns(op) and not is_view(op)) or (is_view(op) and op.inputs[0] in made.arrays and owns(op)):
            taken = next((x for x in values(op.inputs) if in_place(op) and _fits(x, op.out, dying)), None)
            index = made.buffer_of[taken] if taken is not None else _buffer(op.out, made, free)
            made.buffer_of[op.out] = index
            made.arrays[op.out] = part(made.buffers[index], op.out.dtype, op.out.shape, op.out.order)
            roots[op.out] = op.out
            dying.discard(taken)
        free.extend(made.buffer_of[r] for r in dying)
        free.extend(made.buffer_of[y] for y in op.outputs if roots.get(y) is y and last[y] <= k)
    return made


def _last_uses(program: Program, owns: Any) -> dict[Value, int]:
    """The last op at which each value, or a view of it, is read; the end for results."""
    end = len(program.ops)
    last = {y: -1 for op in program.ops for y in op.outputs} | dict.fromkeys(program.results, end)
    for k, op in reversed(list(enumerate(program.ops))):
        for x in values(op.inputs):
            reach = max([k, *(last[y] for y in op.outputs)]) if is_view(op) or not (owns(op) or _is_ours(op)) else k
            last[x] = max(last.get(x, -1), reach)
    return last


def _is_ours(op: Op) -> bool:
    """Whether the op is known to return a new array: a user's may return a view."""
    return (getattr(op.prim.forward, "__module__", None) or "").startswith("tinymeta.")


def _view(op: Op, made: Plan) -> np.ndarray | None:
    if not is_view(op) or op.inputs[0] not in made.arrays:
        return None
    x = made.arrays[op.inputs[0]]
    y = op.prim.forward(x, **op.params)
    return y if np.may_share_memory(x, y) else None


def _fits(x: Value, out: Value, dying: set[Value]) -> bool:
    return x in dying and (x.shape, x.dtype, x.order) == (out.shape, out.dtype, out.order)


def _buffer(out: Value, made: Plan, free: list[int]) -> int:
    """A free buffer that is large enough and not twice as large, or a new one."""
    need = max(1, out.size * out.dtype.itemsize)
    fitting = [i for i in free if need <= made.buffers[i].nbytes <= 2 * need]
    if fitting:
        best = min(fitting, key=lambda i: made.buffers[i].nbytes)
        free.remove(best)
        return best
    made.buffers.append(np.zeros(need, np.uint8))
    return len(made.buffers) - 1


def part(buffer: np.ndarray, dtype: Any, shape: tuple[int, ...], order: tuple[int, ...] | None = None) -> np.ndarray:
    """The beginning of a buffer as an array whose axes lie in memory in this order (None: C order)."""
    kind, order = np.dtype(dtype), order or tuple(range(len(shape)))
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    return buffer[:size].view(kind).reshape([shape[a] for a in order]).transpose(np.argsort(order))
