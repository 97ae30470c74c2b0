"""The first replay against eager execution: what f computes must not depend on anything that a capture cannot see."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from numbers import Number
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import describe
from .capture import is_array
from .graph import Program, Value, line, values

EXACT = 1e-9
TOLERANCE = {2: 3e-2, 4: 1e-3, 8: EXACT}  # by bytes of a number, relative to the largest of its array
LAST_BITS, SHAKES = 4, 6  # units in the last place by which arguments are changed, and how often
SLACK = 16.0  # how much further than that results may move
FLOOR = 1e-3  # of the largest number of all results: where an array holds no more than this, it may be rounding alone


def verify(f: Callable, run: Callable, outputs: Any, expected: Any, args: tuple, kwargs: dict) -> tuple[Any, float]:
    """(run(args, kwargs), its largest relative difference from what f gave); ValueError, naming the op, if it is no rounding.

    `outputs` is the tree of the program's Values. A difference is rounding if it is small, or if arguments changed in their last
    bits move the result as far: there may be a ReLU at 0, or Adam's first step for a gradient of 0.
    """
    found = run(args, kwargs)
    pairs = list(zip(trees.items(outputs), trees.leaves(found), trees.leaves(expected), strict=True))
    largest = max((_largest(e) for _, _, e in pairs), default=0.0)
    gaps = _gaps(found, expected, largest)
    far = [k for k, (gap, ((_, v), _, e)) in enumerate(zip(gaps, pairs, strict=True)) if _is_far(gap, v, e)]
    if far:
        pure = not any(_gaps(f(*args, **kwargs), expected, largest))
        shaken = [_shaken(args, kwargs, seed) for seed in range(SHAKES if pure else 0)]
        moves = [_gaps(f(*changed, **named), expected, largest) for changed, named in shaken]
        for k in far:
            if not gaps[k] <= SLACK * max((move[k] for move in moves), default=0.0):
                (path, v), _, e = pairs[k]
                raise ValueError(_sentence(path, v, gaps[k], e))
    return found, max(gaps, default=0.0)


def verify_elsewhere(f: Callable, run: Callable, outputs: Any, args: tuple, kwargs: dict) -> None:
    """Of a function that uses `+=`, at other numbers: a bias of 0, added to what has a second name, shows nothing."""
    args, kwargs = _moved(args, kwargs)
    try:
        with np.errstate(all="ignore"):
            expected = f(*args, **kwargs)
    except Exception:  # where f is not defined it cannot be compared
        return
    verify(f, run, outputs, expected, args, kwargs)


def check_repeatable(program: Program, again: Program) -> None:
    """ValueError for what differs in two captures, however little it matters to the results: an op, or what is decided once."""
    for one, two in itertools.zip_longest(_steps(program), _steps(again)):
        if one is None or two is None or one[:1] != two[:1]:
            at = line((one or two)[1])
            raise ValueError(f"tm.compile: f takes other steps in each execution, the first at {at}: is it random?")
        _, site, decided = one
        for x, y in itertools.zip_longest(decided, two[2]):
            if not _alike(x, y):
                where = f"used at {line(site)}" if site else "returned"
                raise ValueError(
                    f"tm.compile: {_what(x)}, {where}, differs each time: is it random? pass it as an argument"
                )


def _steps(program: Program) -> Iterator[tuple[str, Any, list]]:
    """Of every op, and at last of the results: its name, its line, and the values, constants and numbers that it takes."""
    made = itertools.chain(program.inputs, *(op.outputs for op in program.ops))
    places = {v: f"value {k}" for k, v in enumerate(made)}
    for op in program.ops:
        yield op.prim.name, op.site, list(_parts((op.inputs, tuple(op.params.values())), places))
    yield "return", None, list(_parts(program.outputs, places))


def _parts(x: Any, places: dict[Value, str]) -> Iterator[Any]:
    if isinstance(x, (tuple, list)):
        for part in x:
            yield from _parts(part, places)
    elif isinstance(x, slice):
        yield from _parts((x.start, x.stop, x.step), places)
    elif type(x) is Value:
        yield places[x] if x.constant is None else x.constant
    elif isinstance(x, (Number, str)) or is_array(x):
        yield x


def _alike(a: Any, b: Any) -> bool:
    if is_array(a) or is_array(b):
        return a is b or (is_array(a) and is_array(b) and a.shape == b.shape and bool(_equal(a, b).all()))
    return bool(_equal(a, b))


def _equal(a: Any, b: Any) -> Any:
    """Where two arrays of one shape, or two numbers, are the same to the last bit; NaN is NaN."""
    return (a == b) | (a != a) & (b != b)


def _what(x: Any) -> str:
    return describe(x) if is_array(x) and np.ndim(x) else str(x)


def _gaps(found: Any, expected: Any, largest: float) -> list[float]:
    """The relative difference of each leaf."""
    pairs = zip(trees.leaves(found), trees.leaves(expected), strict=True)
    return [_difference(r, e, largest) if is_array(e) else 0.0 if r is e or r == e else np.inf for r, e in pairs]


def _shaken(args: tuple, kwargs: dict, seed: int) -> tuple:
    """The arguments with the last bits of their floats changed."""
    rng = np.random.default_rng(seed)

    def factor(x: Any) -> Any:
        return 1 + rng.integers(-LAST_BITS, LAST_BITS + 1, x.shape) * np.finfo(x.dtype).eps

    return _changed(lambda x: x * _beside(factor(x), x), args, kwargs)


def _moved(args: tuple, kwargs: dict) -> tuple:
    """The arguments with something added to every float."""
    rng = np.random.default_rng(0)
    return _changed(lambda x: x + _beside(rng.uniform(0.01, 0.05, x.shape), x), args, kwargs)


def _changed(change: Callable, args: tuple, kwargs: dict) -> tuple:
    """The arguments with every array of floats changed, in its own dtype."""
    change_floats = lambda x: change(x).astype(x.dtype) if is_array(x) and x.dtype.kind == "f" else x
    return trees.map(change_floats, (args, kwargs))


def _beside(numbers: Any, x: Any) -> Any:
    """NumPy's numbers in an array of x's library."""
    return numbers if isinstance(x, (np.ndarray, np.generic)) else np.asarray(numbers, like=x)


def _is_far(gap: float, v: Any, e: Any) -> bool:
    """Whether the gap is more than rounding: of the array's own dtype, or of a narrower one on the way to it."""
    if gap <= _tolerance(e):
        return False
    return type(v) is not Value or all(gap > _tolerance(x) for x in _steps_to(v))


def _tolerance(x: Any) -> float:
    return TOLERANCE.get(x.dtype.itemsize, EXACT) if is_array(x) and x.dtype.kind == "f" else EXACT


def _steps_to(v: Value) -> set[Value]:
    """v and what it is computed of, as far as that is computed itself."""
    found, new = set[Value](), [v]
    while new:
        x = new.pop()
        if x.op and x not in found:
            found.add(x)
            new += values(x.op.inputs)
    return found


def _largest(x: Any) -> float:
    if not is_array(x) or x.dtype.kind != "f" or not x.size:
        return 0.0
    return float(np.max(np.where(np.isfinite(x), np.abs(x), 0)))


def _difference(r: Any, e: Any, largest: float) -> float:
    """The largest gap, relative to the largest number; of infinities and NaN too, and of arrays of any library."""
    if not is_array(r) or r.shape != e.shape or r.dtype != e.dtype:
        return np.inf
    equal = _equal(r, e)
    if bool(equal.all()) or not e.size:
        return 0.0
    if e.dtype.kind != "f":
        return np.inf
    with np.errstate(invalid="ignore"):
        gap = float(np.max(np.where(equal, 0, np.abs(r - e))))
    scale = max(_largest(e), FLOOR * largest)
    return gap / scale if gap < np.inf and scale else np.inf


def _sentence(path: str, v: Any, gap: float, e: Any) -> str:
    if not is_array(e):
        return f"tm.compile: result{path} is a {describe(e)}, another one in each execution: return arrays, or equal values"
    made = f", made by {v.op.prim.name} at {line(v.op.site)}," if type(v) is Value and v.op else ""
    return (
        f"tm.compile: result{path} {describe(e)}{made} differs by {gap:.1e} between the compiled program and eager "
        "execution: f is not pure (`+=` on another name of an array counts), or this is a bug"
    )
