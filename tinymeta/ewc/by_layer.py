"""Squared scores of a whole batch at once, for nets in which each weight enters by one x @ w or one + b.

In z = a @ w the score of sample n for w is the outer product of the row a_n and of d_n, the cotangent of z_n, so that the sum
over n of its square is (A∘A)ᵀ(D∘D); in z + b it is d_n. D comes from differentiating with respect to a zero probe added to
z. All this holds only if row n of every value depends on row n of x alone: that is read off the value graph of the net.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.rerun import Rerun
from ..engine.scope import Traced
from ..engine.sweeps import Graph
from ..engine.tensor import Tensor, bind, value
from ..kernels import fisher as kernels

Array = np.ndarray


def squares_by_layer(net: Callable, params: Any, x: Array, logits: Array, columns: Array) -> list[Array] | None:
    """Per leaf of `params` the sum over columns S (V, N, C) and samples x (N, ...) of squared scores, logits = net(params, x);
    None if the structure of the net is not as above."""
    try:
        traced = Traced(net, (params, x), (0, 1), {}, "fisher_diagonal")
    except (TypeError, AttributeError):  # integer samples, or a net that needs a plain array: it cannot be looked into
        return None
    if not np.array_equal(value(traced.output), logits):
        return None
    *weights, rows = traced.leaves
    graph = traced.graph()
    entries = _entries(graph, weights, rows)
    if entries is None:
        return None
    nodes = list(entries.values())
    probed = Rerun(_with_probes(graph, nodes), [np.zeros_like(node.data) for node in nodes])
    pulled = zip(*(probed.pull([column]) for column in columns), strict=True)
    cotangents = dict(zip(nodes, map(np.stack, pulled), strict=True))
    return [
        _SQUARES[entries[w].prim.name](entries[w], cotangents[entries[w]]) if w in entries else np.zeros_like(w.data)
        for w in weights
    ]


def _squares_of_matmul(node: Tensor, S: Array) -> Array:
    return kernels.linear_exact(value(node.inputs[0]).astype(S.dtype, copy=False), S)[0]


def _squares_of_add(node: Tensor, S: Array) -> Array:
    return np.square(S).sum(axis=(0, 1))


_SQUARES = {"matmul": _squares_of_matmul, "add": _squares_of_add}


def _entries(graph: Graph, weights: list[Tensor], x: Tensor) -> dict[Tensor, Tensor] | None:
    """The node at which each weight enters; None unless every value of the net is made of rows, one per sample."""
    rows, absent = {x}, set(weights)
    entries: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        entering = {v for v in node.inputs if type(v) is Tensor} & absent
        if len(entering) > 1 or not _makes_rows(node, rows, entering):
            return None
        absent -= entering  # a weight that is used again is then neither absent nor made of rows
        entries |= dict.fromkeys(entering, node)
        rows.add(node)
    return entries if graph.nodes else None


def _makes_rows(node: Tensor, rows: set[Tensor], entering: set[Tensor]) -> bool:
    """Whether row n of the node depends on row n of its inputs alone, and a weight enters as w in a @ w or b in z + b."""
    name, elementwise = node.prim.name, node.prim.kind == "elementwise"
    if not elementwise and name not in ("matmul", "reshape"):
        return False
    tensors = [v for v in node.inputs if type(v) is Tensor and v not in entering]
    if not tensors or not all(v in rows and v.shape[:1] == node.shape[:1] for v in tensors):
        return False
    if name == "matmul":
        return len(tensors) == 1 and tensors[0] is node.inputs[0] and node.inputs[1].ndim == tensors[0].ndim == 2
    if name == "reshape":
        return True  # in C order and with the same number of rows, each keeps its own
    if entering:
        return name == "add" and node.ndim == 2 and {w.shape for w in entering} == {node.shape[1:]}
    return all(v.ndim == node.ndim for v in tensors)


def _with_probes(graph: Graph, nodes: list[Tensor]) -> Callable:
    """The net run again, as a function of arrays that are added to the values of `nodes`."""

    def run(*probes: Any) -> Any:
        added = dict(zip(nodes, probes, strict=True))
        values: dict[Tensor, Any] = {}
        for node in graph.nodes:
            inputs = [values.get(v, v.data) if type(v) is Tensor else v for v in node.inputs]
            y = bind(node.prim, *inputs, **node.params)
            values[node] = y + added[node] if node in added else y
        return values[graph.outputs[0]]

    return run
