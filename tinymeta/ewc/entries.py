"""Where the weights enter a net, read off its value graph: which of them have a rule in `by_layer`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine.sweeps import Graph
from ..engine.tensor import Tensor

Array = np.ndarray
Chain = tuple[Tensor, ...]
ROWS, POSITIONS, PATCHES = "linear", "linear, summed over positions", "convolution, summed over positions"
BIAS, GRADIENTS, UNUSED = "bias of its layer", "per-sample gradients", "unused"

# op, place of the weight in it, numbers of axes of both operands
RULES: dict[tuple, str] = {
    ("matmul", 1, 2, 2): POSITIONS,
    ("matmul", 0, 2, 2): POSITIONS,
    ("correlate", 1, 4, 4): PATCHES,
}
# views of a weight, and how the sum for the view is that for what it is a view of
UNDO: dict[str, Callable[[Array, Tensor], Array]] = {
    "reshape": lambda F, node: F.reshape(node.inputs[0].shape),
    "transpose": lambda F, node: F.transpose(np.argsort(node.params["axes"])),
}


class Entry(NamedTuple):
    """How a weight enters the net: by one rule, in these ops, with these other operands, as these views of itself."""

    rule: str
    nodes: Chain = ()
    others: tuple[Any, ...] = ()
    views: tuple[Chain, ...] = ()
    left: bool = False  # as w in w @ a
    bias: int | None = None  # the leaf that is added to z = a @ w


def entries(graph: Graph, weights: list[Tensor]) -> list[Entry]:
    """Per weight its entry: by a rule if it enters always by the same op, as the same view of itself; else by GRADIENTS."""
    chains: dict[Tensor, Chain] = dict.fromkeys(weights, ())
    leaf = {w: i for i, w in enumerate(weights)}
    uses: list[list[tuple[Tensor, int]]] = [[] for _ in weights]
    for node in graph.nodes:
        held = [i for i, v in enumerate(node.inputs) if type(v) is Tensor and v in leaf]
        if held and node.prim.name in UNDO:
            chains[node], leaf[node] = (*chains[node.inputs[0]], node), leaf[node.inputs[0]]
        else:
            for i in held:
                uses[leaf[node.inputs[i]]].append((node, i))
    found = [_entry(use, chains) for use in uses]
    consumers = Counter(v for node in graph.nodes for v in node.inputs if type(v) is Tensor)
    owners = {e.nodes[0]: i for i, e in enumerate(found) if len(e.nodes) == 1 and not e.left}
    for i, use in enumerate(uses):
        owner = _layer(use, owners, consumers)
        if owner is not None:
            found[owner] = found[owner]._replace(bias=i)
            found[i] = Entry(BIAS, views=found[i].views)
    return found


def unviewed(F: Array, entry: Entry) -> Array:
    """A sum in the shape of the weight, from that in the shape of its rule."""
    F = F.reshape(entry.nodes[0].inputs[1].shape) if entry.rule == PATCHES else F.T if entry.left else F
    for node in reversed(entry.views[0]):
        F = UNDO[node.prim.name](F, node)
    return F


def _entry(uses: list[tuple[Tensor, int]], chains: dict[Tensor, Chain]) -> Entry:
    if not uses:
        return Entry(UNUSED)
    views = tuple(chains[node.inputs[i]] for node, i in uses)
    node, at = uses[0]
    rule = RULES.get((node.prim.name, at, *(getattr(v, "ndim", 0) for v in node.inputs[:2])))
    same = all(other.prim is node.prim and i == at for other, i in uses) and len(set(map(_written, views))) == 1
    if rule is None or not same:
        return Entry(GRADIENTS, views=views)
    nodes, others = tuple(n for n, _ in uses), tuple(n.inputs[1 - at] for n, _ in uses)
    if rule == POSITIONS and sum(n.shape[-1 if at == 0 else -2] for n in nodes) == 1:
        rule = ROWS
    return Entry(rule, nodes, others, views, left=at == 0)


def _written(chain: Chain) -> str:
    return repr([(node.prim.name, node.params) for node in chain])


def _layer(uses: list[tuple[Tensor, int]], owners: dict[Tensor, int], consumers: Counter) -> int | None:
    """The weight to whose product z, and to nothing else, a leaf is added, one entry for each output."""
    if len(uses) != 1 or uses[0][0].prim.name != "add":
        return None
    total, at = uses[0]
    z, b = total.inputs[1 - at], total.inputs[at]
    if type(z) is not Tensor or z.shape != total.shape:
        return None
    while z.prim is not None and z.prim.name == "reshape" and consumers[z] == 1:
        if z.shape[-1:] != z.inputs[0].shape[-1:]:
            return None
        z = z.inputs[0]
    if z not in owners or consumers[z] != 1:
        return None
    axis = -3 if z.prim.name == "correlate" else -1  # of the layer's outputs
    if axis == -3 and z is not total.inputs[1 - at]:
        return None  # another shape may have other axes in that place
    return owners[z] if b.ndim >= -axis and b.shape[axis] == b.size == z.shape[axis] else None
