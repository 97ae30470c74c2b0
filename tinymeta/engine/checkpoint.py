"""Rematerialisation as a first-class op: the graph inside f is dropped, and built again when a sweep of either kind passes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import trees
from .batched import Batched, innermost, level_of, lift, mapping, within
from .rerun import Rerun
from .sweeps import Graph
from .tensor import THREAD, Prim, Tensor, record


def checkpoint(f: Callable) -> Callable:
    """f with less memory: inside a derivative only its inputs are kept, and it runs once more per sweep.

    f must be pure: arrays and Tensors that it closes over are fine, randomness is not. Every order and mode is right.
    """

    @functools.wraps(f)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            return checkpoint(lambda args, kwargs: f(*args, **kwargs))(args, kwargs)
        maps, flat, level = THREAD.maps, trees.leaves(args), innermost()
        if maps and maps[-1].depth == THREAD.depth:
            return _inside_out(f, args, flat)

        def own(x: Any) -> bool:  # a Tensor of the innermost derivative
            return type(x) is Tensor and level_of(x) == level

        def run(*given: Any) -> Any:
            supply = iter(given)
            with within(maps):
                return f(*trees.unflatten(args, [next(supply) if own(x) else x for x in flat]))

        inputs = list(filter(own, flat))
        start = Tensor(0.0)  # everything older than this comes from outside f
        output = run(*(Tensor(x.data) for x in inputs))
        made = list(filter(own, trees.leaves(output)))
        closure = [t for t in Graph([start], made).outside if t.seq < start.seq]
        if not made or not (inputs or closure):
            return output
        prim = _prim(run, lambda *given: list(filter(own, trees.leaves(run(*given)))), len(inputs), closure)
        fresh = iter(record(tuple(y.data for y in made), prim, (*inputs, *closure), {}))
        return trees.map(lambda y: next(fresh) if own(y) else y, output)

    return checkpointed


def _inside_out(f: Callable, args: tuple, flat: list) -> Any:
    """vmap(checkpoint(f)) as checkpoint(vmap(f)), so that the derivatives outside of the vmap keep no more than the inputs."""
    level = innermost()
    own = [x if type(x) is Batched and x.level == level else None for x in flat]
    shape: list = []  # of the result: which of its leaves are mapped

    def run(*arrays: Any) -> list:
        with mapping(level):
            xs = [a if b is None else Batched(a, level, b.mapped) for a, b in zip(arrays, own, strict=True)]
            result = trees.map(lambda y: lift(y, level), f(*trees.unflatten(args, xs)))
        shape[:] = [trees.map(lambda y: y.mapped, result)]
        return [y.array for y in trees.leaves(result)]

    with within(THREAD.maps[:-1]):
        arrays = checkpoint(run)(*[x if b is None else b.array for x, b in zip(flat, own, strict=True)])
    made = [Batched(a, level, m) for a, m in zip(arrays, trees.leaves(shape[0]), strict=True)]
    return trees.unflatten(shape[0], made)


def _prim(run: Callable, made: Callable, n: int, closure: list[Tensor]) -> Prim:
    def again(args: tuple) -> Rerun:
        return Rerun(made, args[:n], closure, args[n:])

    return Prim(
        "checkpoint",
        lambda *arrays: tuple(trees.leaves(run(*arrays[:n]))),
        vjp=lambda g, out, *args: again(args).pull(g),
        jvp=lambda tangents, out, *args: again(args).push(tangents),
    )
