"""The first replay against eager execution: what f computes must not depend on anything that a capture cannot see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import describe
from .capture import capture, is_array
from .graph import Value, line

TOLERANCE = {2: 3e-2, 4: 1e-3, 8: 1e-9}  # by bytes of a number, relative to the largest of its array
FLOOR = 1e-3  # of the largest number of all results: where an array holds no more than this, it may be rounding alone


def verify(f: Callable, values: Any, found: Any, expected: Any, args: tuple, kwargs: dict) -> float:
    """The largest relative difference between two trees of results; ValueError, naming the op, if it is no rounding.

    `values` is the same tree with the program's Values.
    """
    pairs = list(zip(trees.items(values), trees.leaves(found), trees.leaves(expected), strict=True))
    largest = max((_largest(e) for _, _, e in pairs), default=0.0)
    worst = 0.0
    for (path, v), r, e in pairs:
        gap = _difference(r, e, largest) if is_array(e) else 0.0 if r is e or r == e else np.inf
        if gap > TOLERANCE.get(getattr(getattr(e, "dtype", None), "itemsize", 8), 1e-9):
            raise ValueError(_sentence(f, path, v, gap, e, args, kwargs))
        worst = max(worst, gap)
    return worst


def _largest(x: Any) -> float:
    if not is_array(x) or x.dtype.kind != "f":
        return 0.0
    x = np.asarray(x)
    return float(np.max(np.abs(x), where=np.isfinite(x), initial=0.0))


def _difference(r: Any, e: Any, largest: float) -> float:
    if not is_array(r) or r.shape != e.shape or r.dtype != e.dtype:
        return np.inf
    r, e = np.asarray(r), np.asarray(e)
    if e.dtype.kind != "f":
        return 0.0 if np.array_equal(r, e) else np.inf
    finite = np.isfinite(e)
    if not np.array_equal(r[~finite], e[~finite], equal_nan=True):
        return np.inf
    gap = float(np.max(np.abs(r[finite] - e[finite]), initial=0.0))
    scale = max(_largest(e), FLOOR * largest)
    return gap / scale if gap else 0.0


def _sentence(f: Callable, path: str, v: Any, gap: float, e: Any, args: tuple, kwargs: dict) -> str:
    made = f", made by {v.op.prim.name} at {line(v.op.site)}," if type(v) is Value and v.op else ""
    changing = _changing_constants(f, args, kwargs)
    why = (
        f"{changing[0]} differs each time: is it random? pass it as an argument"
        if changing
        else "f is not pure, or this is a bug"
    )
    return (
        f"tm.compile: result{path} {describe(e)}{made} differs by {gap:.1e} between the compiled program and eager "
        f"execution: {why}"
    )


def _changing_constants(f: Callable, args: tuple, kwargs: dict) -> list[str]:
    """Constants that two captures do not share."""
    first, second = (capture(f, args, kwargs)[0] for _ in range(2))
    named = []
    for p, q in zip(first.ops, second.ops, strict=False):
        for x, y in zip(p.inputs, q.inputs, strict=False):
            a, b = (i.constant if type(i) is Value else i for i in (x, y))
            if a is not None and not np.array_equal(a, b, equal_nan=True):
                named.append(f"{describe(x) if type(x) is Value else repr(x)}, used at {line(p.site)},")
    return named
