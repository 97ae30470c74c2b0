"""Running a function again inside a sweep: the derivative of a composite op is the derivative of what it is composed of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import trees
from .scope import running
from .sweeps import Graph, pullback, pushforward
from .tensor import IDENTITY, Tensor, is_float


class Rerun:
    """f run on fresh leaves for those of `args` that are floats; Tensors stay connected, so the sweeps can be recorded.

    `given` are the values of the closed-over Tensors, as the rule got them: Tensors again if its sweep is recorded.
    """

    def __init__(
        self, f: Callable, args: Sequence, closure: Sequence = (), given: Sequence = (), params: dict | None = None
    ) -> None:
        self.args = args
        self.record = any(type(a) is Tensor for a in (*args, *given))
        leaves = [_leaf(a) for a in args]
        with running():
            outputs = f(*leaves, **(params or {}))
        self.differentiable = [type(leaf) is Tensor for leaf in leaves]
        self.graph = Graph([leaf for leaf in leaves if type(leaf) is Tensor] + list(closure), trees.leaves(outputs))

    def pull(self, cotangents: Sequence[Any]) -> list[Any]:
        """One cotangent per argument (None for integers), then one per closed-over Tensor."""
        found = iter(pullback(self.graph, cotangents, self.record))
        return [next(found) if d else None for d in self.differentiable] + list(found)

    def push(self, tangents: Sequence[Any]) -> tuple:
        used = [t for t, d in zip(tangents, self.differentiable, strict=False) if d]
        return tuple(pushforward(self.graph, used + list(tangents[len(self.args) :]), self.record))


def _leaf(x: Any) -> Any:
    if type(x) is Tensor:
        return Tensor(x.data, IDENTITY, (x,))
    return Tensor(x) if is_float(x) else x
