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
LAST_BITS, SLACK = (
    4,
    16.0,
)  # units in the last place by which arguments are changed; how much further than that results may move
FLOOR = 1e-3  # of the largest number of all results: where an array holds no more than this, it may be rounding alone


def verify(f: Callable, values: Any, found: Any, expected: Any, args: tuple, kwargs: dict) -> float:
    """The largest relative difference between two trees of results; ValueError, naming the op, if it is no rounding.

    `values` is the same tree with the program's Values. A difference is rounding if it is small, or if f is so sensitive that
    arguments changed in their last bits make as large a one: a ReLU at 0, Adam's first step for a gradient of 0.
    """
    pairs = list(zip(trees.items(values), trees.leaves(found), trees.leaves(expected), strict=True))
    largest = max((_largest(e) for _, _, e in pairs), default=0.0)
    gaps = [_difference(r, e, largest) if is_array(e) else 0.0 if r is e or r == e else np.inf for _, r, e in pairs]
    far = [k for k, (gap, (_, _, e)) in enumerate(zip(gaps, pairs, strict=True)) if gap > _tolerance(e)]
    if far:
        sensitive = _sensitivity(f, expected, largest, args, kwargs)
        for k in far:
            if not gaps[k] <= SLACK * sensitive[k]:
                (path, v), _, e = pairs[k]
                raise ValueError(_sentence(f, path, v, gaps[k], e, args, kwargs))
    return max(gaps, default=0.0)


def _tolerance(e: Any) -> float:
    return TOLERANCE.get(getattr(getattr(e, "dtype", None), "itemsize", 8), 1e-9)


def _sensitivity(f: Callable, expected: Any, largest: float, args: tuple, kwargs: dict) -> list[float]:
    """How far each result moves when the arguments change in their last bits; zeros if f moves by itself."""
    if any(_moved(f, expected, largest, args, kwargs, 0)):
        return [0.0 for _ in trees.leaves(expected)]
    moves = [_moved(f, expected, largest, args, kwargs, seed) for seed in (1, 2, 3, 4)]
    return [max(of_one) for of_one in zip(*moves, strict=True)]


def _moved(f: Callable, expected: Any, largest: float, args: tuple, kwargs: dict, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)

    def shaken(x: Any) -> Any:
        if not seed or not is_array(x) or x.dtype.kind != "f" or not isinstance(x, (np.ndarray, np.generic)):
            return x
        bits = rng.integers(-LAST_BITS, LAST_BITS + 1, np.shape(x)) * np.finfo(x.dtype).eps
        return np.asarray(x * (1 + bits), x.dtype)

    given, named = trees.map(shaken, (args, kwargs))
    return [_difference(r, e, largest) if is_array(e) else 0.0
            for r, e in zip(trees.leaves(f(*given, **named)), trees.leaves(expected), strict=True)]  # fmt: skip


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
