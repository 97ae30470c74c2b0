"""That a loss compares each prediction with its own target: (K, 1) beside (K,) broadcasts to (K, K), which no error tells."""

from __future__ import annotations

from typing import Any

from ..engine import trees
from ..engine.sweeps import Graph
from ..engine.tensor import Tensor, describe, where_made
from .checks import Axes


def check_paired(name: str, losses: Any, params: Any, data: Any) -> None:
    """ValueError where predictions (..., K, 1) meet an array (..., K) of the data that has fewer axes, or (..., K) one of more.

    It is seen in the graph of the losses, if a derivative records it; predictions are what depends on parameters and on data.
    """
    leaves = [w for w in trees.leaves(params) if type(w) is Tensor]
    names = {id(x): path for path, x in trees.items(data)}
    for node in Graph(leaves, [losses]).nodes:
        for made, x in _operands(node):
            if id(x) in names and _all_with_all(made.shape, x.shape) and _reads(names, Graph(leaves, [made]).nodes):
                raise ValueError(
                    f"maml: {where_made(node)} meets {describe(made)} with {name}{names[id(x)]}, {describe(x)}, so that each of "
                    f"{max(x.shape[-2:])} points is compared with all: expected as many axes in both; y[..., None] adds one"
                )


def _operands(node: Tensor) -> list[tuple[Tensor, Any]]:
    """The inputs of an elementwise op of two, if one is a value of the graph and the other an array."""
    if node.prim.kind != "elementwise" or len(node.inputs) != 2:
        return []
    pairs = (node.inputs, node.inputs[::-1])
    return [(made, x) for made, x in pairs if type(made) is Tensor and type(x) is not Tensor and hasattr(x, "shape")]


def _all_with_all(a: Axes, b: Axes) -> bool:
    """Whether the last axis of the one that has fewer, K > 1 points, becomes a second axis of points."""
    few, many = sorted((a, b), key=len)
    return 0 < len(few) < len(many) and many[-2:] == (few[-1], 1) and few[-1] > 1


def _reads(names: dict[int, str], nodes: list[Tensor]) -> bool:
    return any(id(x) in names for node in nodes for x in node.inputs)
