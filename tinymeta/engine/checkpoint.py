"""Rematerialisation as a first-class op: the graph inside f is dropped, and built again when a sweep of either kind passes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import trees
from .rerun import Rerun
from .sweeps import Graph
from .tensor import Prim, Tensor, record


def checkpoint(f: Callable) -> Callable:
    """f with less memory: inside a derivative only its inputs are kept, and it runs once more per sweep.

    f must be pure: arrays and Tensors that it closes over are fine, randomness is not. Every order and mode is right.
    """

    @functools.wraps(f)
    def checkpointed(*args: Any) -> Any:
        flat = trees.leaves(args)
        inputs = [x for x in flat if type(x) is Tensor]
        start = Tensor(0.0)  # everything older than this comes from outside f

        def run(*given: Any) -> Any:
            supply = iter(given)
            return f(*trees.unflatten(args, [next(supply) if type(x) is Tensor else x for x in flat]))

        output = run(*(Tensor(x.data) for x in inputs))
        made = [y for y in trees.leaves(output) if type(y) is Tensor]
        closure = [t for t in Graph([start], made).outside if t.seq < start.seq]
        if not made or not (inputs or closure):
            return output
        prim = _prim(run, len(inputs), closure)
        fresh = iter(record(tuple(y.data for y in made), prim, (*inputs, *closure), {}))
        return trees.map(lambda y: next(fresh) if type(y) is Tensor else y, output)

    return checkpointed


def _prim(run: Callable, n: int, closure: list[Tensor]) -> Prim:
    def made(*given: Any) -> list[Tensor]:
        return [y for y in trees.leaves(run(*given)) if type(y) is Tensor]

    def again(args: tuple) -> Rerun:
        return Rerun(made, args[:n], closure)

    return Prim(
        "checkpoint",
        lambda *arrays: tuple(trees.leaves(run(*arrays[:n]))),
        vjp=lambda g, out, *args: again(args).pull(g),
        jvp=lambda tangents, out, *args: again(args).push(tangents),
    )
