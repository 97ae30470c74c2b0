"""A value inside tm.vmap, and how a primitive is applied to it.

A `Batched` value is to f what one example is: its shape is an example's. It is an array type like NumPy's or CuPy's, so the engine
runs on it unchanged: a derivative inside a vmap makes Tensors of Batched data, one outside makes Batched values of Tensors, and
`bind` takes off the layer of the latest vmap or derivative first. The rules, one per family of primitives, compute on the whole
arrays with the public ops: what encloses the vmap sees ordinary ops, and every order of derivative is right.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from sys import _getframe
from typing import Any, NamedTuple, NoReturn

from .tensor import OPEN, THREAD, Prim, Tensor, as_array, bind, describe, explain, line_of_user, lock_all, record

Rule = Callable[[Callable, list, list[bool], dict], Any]
# by primitive or kind: rule(prim, arrays, which of them are mapped, params) -> the result, its examples along axis 0
RULES: dict[Prim | str, Rule] = {}
COMPOSED: dict[Prim, Callable] = {}  # kernel ops: the composition of public ops that stands for them inside a vmap


class Map(NamedTuple):
    """A vmap that is running: later ones have a higher level; `depth` derivatives were running when it began."""

    level: int
    depth: int


class Batched:
    """One value per example of a vmap: along the first axis of `array`, or the same for all of them if not `mapped`."""

    __slots__ = ("array", "level", "mapped")
    __hash__ = object.__hash__
    __array_priority__ = 2000

    def __init__(self, array: Any, level: int, mapped: bool) -> None:
        self.array, self.level, self.mapped = array, level, mapped

    shape = property(lambda self: self.array.shape[1:] if self.mapped else self.array.shape)
    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: self.array.ndim - self.mapped)
    size = property(lambda self: math.prod(self.shape))
    nbytes = property(lambda self: raw(self).nbytes)

    def __repr__(self) -> str:
        return f"<{'mapped' if self.mapped else 'unmapped'} {self.dtype}{list(self.shape)} in a vmap: {self.array}>"


def mapping(level: int) -> contextlib.AbstractContextManager[None]:
    """While the function of a vmap runs."""
    return within((*THREAD.maps, Map(level, THREAD.depth)))


@contextlib.contextmanager
def within(maps: tuple[Map, ...]) -> Iterator[None]:
    """As if these were the vmaps that are running."""
    outer, THREAD.maps = THREAD.maps, maps
    OPEN.append(len(maps))
    try:
        yield
    finally:
        OPEN.pop()
        THREAD.maps = outer


def innermost() -> int:
    """The level of the vmap that is running; 0 for none."""
    return THREAD.maps[-1].level if THREAD.maps else 0


def level_of(x: Any) -> int:
    """The latest vmap whose value x is, or of whose values it is a Tensor; 0 for none."""
    data = x.data if type(x) is Tensor else x
    return data.level if type(data) is Batched else 0


def lift(x: Any, level: int) -> Any:
    """x as a value of that vmap, unmapped if it was not one: a Tensor of an enclosing derivative becomes its constant."""
    return x if level_of(x) >= level else Batched(as_array(x), level, False)


def raw(x: Any) -> Any:
    """The array under all layers: every example, derivatives forgotten."""
    while type(x) in (Tensor, Batched):
        x = x.data if type(x) is Tensor else x.array
    return x


def alive(x: Batched) -> Batched:
    if not any(m.level == x.level for m in THREAD.maps):
        raise TypeError(f"a mapped value {describe(x)} is used after its vmap has ended; return it from the function")
    return x


def bind_batched(prim: Prim, inputs: Sequence, params: dict) -> Any:
    """`bind` when an input is Batched or a Tensor of Batched data."""
    if prim in COMPOSED:
        return COMPOSED[prim](*inputs, **params)
    level = max(map(level_of, inputs))
    tracked = [type(x) is Tensor and level_of(x) == level for x in inputs]
    if not any(tracked):
        return apply(prim, RULES.get(prim) or RULES.get(prim.kind, _no_rule), inputs, params, prim.name)
    data = bind(prim, *[x.data if t else x for x, t in zip(inputs, tracked, strict=True)], **params)
    if not prim.differentiable:
        return data
    lock_all(map(raw, inputs))
    constants = [lift(x, level) if type(x) in (Tensor, list) else x for x in inputs]
    return record(data, prim, tuple(constants), params)


def apply(f: Callable, rule: Rule, inputs: Sequence, params: dict, name: str) -> Any:
    """f by its rule, on the arrays of the latest vmap among the inputs; as it is where none of them is mapped."""
    level = max(map(level_of, inputs))
    own = [alive(x) if type(x) is Batched and x.level == level else None for x in inputs]
    arrays = [x if b is None else b.array for x, b in zip(inputs, own, strict=True)]
    mapped = [b is not None and b.mapped for b in own]
    try:
        result = rule(f, arrays, mapped, params) if any(mapped) else f(*arrays, **params)
    except Exception as error:
        raise explain(_root(error), name, inputs, line_of_user(_getframe(1))) from error
    if type(result) is tuple:  # of a NumPy function with several results
        return tuple(Batched(y, level, any(mapped)) for y in result)
    return Batched(result, level, any(mapped))


def _no_rule(*_: Any) -> NoReturn:
    raise TypeError("this op has no batching rule; compose it of tm.ops, or call it on each example in a loop")


def _root(error: BaseException) -> Any:
    """What went wrong in the first place: the sentences in between speak of whole arrays, which are not the user's."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
