"""The boundary of a derivative: plain arrays come in as leaves, and only what an enclosing derivative needs leaves as a Tensor."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from . import trees
from .batched import Batched, innermost, lift, raw
from .structural import astype
from .sweeps import Graph, pullback, pushforward
from .tensor import IDENTITY, THREAD, Tensor, describe, is_float, lock_all, unlock, value

WITH_ARGNUMS = ("grad", "jacobian", "hessian")
_READ_ONLY = (
    "tinymeta: an array that a derivative has captured, as this may be, cannot be written to until the derivative is done, "
    "for its rules will read it again: write to a copy, x.copy()"
)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """While a function of a derivative runs: derivatives inside it may be recorded, and captured arrays are read-only."""
    THREAD.depth += 1
    try:
        yield
    except ValueError as error:
        if THREAD.depth == 1 and THREAD.locked and "read-only" in str(error):
            error.add_note(_READ_ONLY)
        raise
    finally:
        THREAD.depth -= 1
        if THREAD.depth == 0:
            unlock()


class Traced:
    """One run of f on fresh leaves: its outputs, its graph, and whether an enclosing derivative is recording."""

    def __init__(
        self, f: Callable, args: Sequence, argnums: Sequence[int], kwargs: dict, name: str, seal: bool = False
    ) -> None:
        picked = [as_leaves(args[i], f"argument {i}", name) for i in argnums]
        call_args = list(args)
        for i, tree in zip(argnums, picked, strict=True):
            call_args[i] = trees.map(lambda x: x, tree)  # f may change its containers
        self.trees, self.name = picked, name
        self.leaves = [leaf for tree in picked for leaf in trees.leaves(tree)]
        outside = THREAD.maps[-1].depth if THREAD.maps else 0
        self.nested = THREAD.depth > outside  # in another derivative of the same vmap
        with running():
            lock_all(map(raw, self.leaves))
            output = f(*call_args, **kwargs)
            self.output = trees.map(lambda y: _own(y) if type(y) is Tensor else y, output) if THREAD.maps else output
            self.seals = [(a, _fingerprint(a)) for a in THREAD.locked.values()] if seal and THREAD.depth == 1 else []

    def graph(self) -> Graph:
        """From the leaves to all that f returned."""
        graph = Graph(self.leaves, trees.leaves(self.output))
        if not self.nested and graph.older():
            raise TypeError(
                f"{self.name}: the result depends on a Tensor of a derivative that has ended, or that runs in another thread, and "
                "would be taken for a constant there: return it from that derivative's function as an array, or use stop_gradient"
            )
        return graph

    def pull(self, graph: Graph, cotangents: Sequence) -> list:
        """One cotangent per leaf, as Tensors if an enclosing derivative depends on them and plain arrays otherwise."""
        self._check_seals()
        return release(pullback(graph, cotangents, self.nested and graph.outer), keep=cotangents)

    def push(self, graph: Graph, tangents: Sequence) -> list:
        self._check_seals()
        return release(pushforward(graph, tangents, self.nested and graph.outer), keep=tangents)

    def _check_seals(self) -> None:
        for array, fingerprint in self.seals:
            if _fingerprint(array) != fingerprint:
                raise ValueError(
                    f"an array {describe(array)} was changed in place after vjp or linearize had captured it: call them again"
                )

    def escape(self, graph: Graph, kept: bool = False) -> Any:
        """The output's values: Tensors stay Tensors only if an enclosing derivative's variables reach them. Where the graph is
        kept, for rules that read outputs, its arrays are its own."""
        recorded = self.nested and graph.outer
        values = [x if recorded else value(x) for x in graph.outputs]
        own = [w.data for w in self.leaves] + [value(x) for x in graph.outputs if kept and type(x) is Tensor]
        return trees.unflatten(self.output, release(values, keep=own))


def _fingerprint(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data)


def as_leaves(tree: Any, name: str, caller: str) -> Any:
    """The tree with every array as a fresh leaf of the value graph; refuses what has no derivative."""
    return trees.unflatten(tree, [_as_leaf(x, f"{name}{path}", caller) for path, x in trees.items(tree)])


def _as_leaf(x: Any, name: str, caller: str) -> Tensor:
    if isinstance(x, (float, np.floating)):
        x = np.asarray(x)
    if not is_float(x):
        instead = "x.astype(np.float64)" if hasattr(x, "dtype") else "a float"
        fixed = "leave it out of argnums" if caller in WITH_ARGNUMS else "hold it fixed by a lambda around the function"
        raise TypeError(f"{caller}: {name} is {describe(x)}, and a derivative needs floats: pass {instead}, or {fixed}")
    if type(x) is not np.ndarray and isinstance(x, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(
            f"{caller}: {name} is a {type(x).__name__}, whose arithmetic is its own, expected a plain array: pass np.asarray of it"
        )
    x = _own(x)
    return Tensor(x.data, IDENTITY, (x,)) if type(x) is Tensor else Tensor(x)


def _own(x: Any) -> Any:
    """x as a value of the vmap that is running, if any: the derivatives outside of that vmap see its values, not its Tensors."""
    return lift(x, innermost()) if THREAD.maps else x


def as_tangent(v: Any, x: Any, name: str) -> Any:
    """A tangent or cotangent for x: of its shape, in its dtype."""
    v = v if hasattr(v, "dtype") else np.asarray(v)
    if v.shape != x.shape:
        raise ValueError(f"{name} is {describe(v)}, but it belongs to a value {describe(x)}: the shapes must be equal")
    if v.dtype.kind not in "fiub":
        raise TypeError(f"{name} is {describe(v)}: expected real numbers like those of {describe(x)}")
    return astype(v, x.dtype) if v.dtype.kind == "f" else v.astype(x.dtype)


def release(values: list, keep: Sequence) -> list:
    """Plain arrays that the caller may write to: no views, nothing shared with another result or with what is in `keep`."""
    taken = {id(x) for x in keep}
    result = []
    for x in values:
        if type(x) is np.ndarray and (id(x) in taken or not (x.flags.owndata and x.flags.writeable)):
            x = x.copy()
        taken.add(id(x))
        result.append(x)
    return result


def constant(x: Any) -> Any:
    """The value of x with no gradient, safe from being changed in place."""
    data = value(x)
    if type(data) is Batched:
        return Batched(constant(data.array), data.level, data.mapped)
    if type(x) is not Tensor:
        return x
    if type(x.data) is not np.ndarray:
        return x.data if isinstance(x.data, np.generic) else x.data.copy()
    view = x.data.view()
    view.flags.writeable = False
    return view
