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
LAST_BITS, SHAKES = 4, 6  # units in the last place by which arguments are changed, and how often
SLACK = 16.0  # how much further than that results may move
_RANDOM = "differs each time: is it random? pass it as an argument"
FLOOR = 1e-3  # of the largest number of all results: where an array holds no more than this, it may be rounding alone


def verify(f: Callable, run: Callable, values: Any, expected: Any, args: tuple, kwargs: dict) -> tuple[Any, float]:
    """(run(args, kwargs), its largest relative difference from what f gave); ValueError, naming the op, if it is no rounding.

    `values` is the tree of the program's Values. A difference is rounding if it is small, or if arguments changed in their last
    bits move the result as far: there may be a ReLU at 0, or Adam's first step for a gradient of 0.
    """
    found = run(args, kwargs)
    pairs = list(zip(trees.items(values), trees.leaves(found), trees.leaves(expected), strict=True))
    largest = max((_largest(e) for _, _, e in pairs), default=0.0)
    gaps = _gaps(found, expected, largest)
    far = [k for k, (gap, (_, _, e)) in enumerate(zip(gaps, pairs, strict=True)) if gap > _tolerance(e)]
    if far:
        pure = not any(_gaps(f(*args, **kwargs), expected, largest))
        shaken = [_shaken(args, kwargs, seed) for seed in range(SHAKES if pure else 0)]
        moves = [_gaps(f(*changed, **named), expected, largest) for changed, named in shaken]
        for k in far:
            if not gaps[k] <= SLACK * max((move[k] for move in moves), default=0.0):
                (path, v), _, e = pairs[k]
                raise ValueError(_sentence(f, path, v, gaps[k], e, args, kwargs))
    return found, max(gaps, default=0.0)


def check_repeatable(f: Callable, captured: list, expected: Any, args: tuple, kwargs: dict) -> None:
    """ValueError, naming it, for a constant that differs each time, however little it matters.

    The run that was captured took the same steps as f by itself, so it has the same bits, unless a library sums as it likes: that
    makes no constants.
    """
    if all(map(_is_same, captured, trees.leaves(expected))):
        return
    if changing := _changing_constants(f, args, kwargs):
        raise ValueError(f"tm.compile: the results are others in each execution: {changing[0]} {_RANDOM}")


def _is_same(a: Any, b: Any) -> bool:
    return not is_array(b) or (np.shape(a) == b.shape and bool(((a == b) | (a != a) & (b != b)).all()))


def _gaps(found: Any, expected: Any, largest: float) -> list[float]:
    """The relative difference of each leaf."""
    pairs = zip(trees.leaves(found), trees.leaves(expected), strict=True)
    return [_difference(r, e, largest) if is_array(e) else 0.0 if r is e or r == e else np.inf for r, e in pairs]


def _shaken(args: tuple, kwargs: dict, seed: int) -> tuple:
    """The arguments with the last bits of their floats changed."""
    rng = np.random.default_rng(seed)

    def shake(x: Any) -> Any:
        if not is_array(x) or x.dtype.kind != "f":
            return x
        factor = 1 + rng.integers(-LAST_BITS, LAST_BITS + 1, x.shape) * np.finfo(x.dtype).eps
        on_host = isinstance(x, (np.ndarray, np.generic))
        return (x * (factor if on_host else np.asarray(factor, like=x))).astype(x.dtype)

    return trees.map(shake, (args, kwargs))


def _tolerance(e: Any) -> float:
    return TOLERANCE.get(getattr(getattr(e, "dtype", None), "itemsize", 8), 1e-9)


def _largest(x: Any) -> float:
    if not is_array(x) or x.dtype.kind != "f" or not x.size:
        return 0.0
    return float(np.max(np.where(np.isfinite(x), np.abs(x), 0)))


def _difference(r: Any, e: Any, largest: float) -> float:
    """The largest gap, relative to the largest number; of infinities and NaN too, and of arrays of any library."""
    if not is_array(r) or r.shape != e.shape or r.dtype != e.dtype:
        return np.inf
    equal = (r == e) | (r != r) & (e != e)
    if bool(equal.all()) or not e.size:
        return 0.0
    if e.dtype.kind != "f":
        return np.inf
    with np.errstate(invalid="ignore"):
        gap = float(np.max(np.where(equal, 0, np.abs(r - e))))
    scale = max(_largest(e), FLOOR * largest)
    return gap / scale if gap < np.inf and scale else np.inf


def _sentence(f: Callable, path: str, v: Any, gap: float, e: Any, args: tuple, kwargs: dict) -> str:
    made = f", made by {v.op.prim.name} at {line(v.op.site)}," if type(v) is Value and v.op else ""
    changing = _changing_constants(f, args, kwargs)
    why = f"{changing[0]} {_RANDOM}" if changing else "f is not pure, or this is a bug"
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
