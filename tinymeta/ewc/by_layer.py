"""Σ_n φ(g_n), g_n the gradients of single samples and φ the square: a whole batch at once, and mostly without the g_n.

The net runs once, on one example of a vmap: each value has all samples along its first axis, and no sample can see another. In
z = a @ w the gradient for w is aᵀ d, with d the cotangent of z. For one row a that is an outer product, and the sum over n of its
square is (A∘A)ᵀ(D∘D). A weight that enters at several positions (rows, places of a kernel, times, layers that share it) has the sum
over them as its gradient, which is formed before it is squared. Any other leaf gets its per-sample gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine.batch import vmap
from ..engine.batched import Batched, innermost
from ..engine.scope import Traced
from ..engine.sweeps import Graph, pullback
from ..engine.tensor import Tensor, value
from ..kernels import fisher as kernels

Array = np.ndarray
ROWS, POSITIONS, PATCHES = "linear", "linear, summed over positions", "convolution, summed over positions"
GRADIENTS, UNUSED = "per-sample gradients", "unused"


class Reduction(NamedTuple):
    """By rule Σ_v Σ_n φ(g) of one leaf, from what the rule knows of g; sizes as in tinymeta.kernels.fisher."""

    rows: Callable[[Array, Array], Array]  # A (n, I), S (V, n, O) -> (I, O)
    positions: Callable[[Array, Array], Array]  # A (n, T, I), D (n, T, O) -> (I, O)
    patches: Callable[[Array, Array], Array]  # U (n, K, L), D (n, O, L) -> (O, K)
    gradients: Callable[[Array], Array]  # g (n, ...) -> (...)


SQUARES = Reduction(
    lambda A, S: kernels.linear_exact(A, S)[0],
    lambda A, D: kernels.linear_time(A, D)[0],
    lambda U, D: kernels.conv(U, D)[0],
    lambda g: np.add.reduce(np.square(g), axis=0, dtype=np.float64),
)


class Entry(NamedTuple):
    """How a weight enters the net: by one rule, in these ops, as these views of itself (chains of ops, one for each use)."""

    rule: str
    nodes: tuple[Tensor, ...] = ()
    others: tuple[Any, ...] = ()
    views: tuple[tuple[Tensor, ...], ...] = ()
    left: bool = False  # as w in w @ a


class Plan(NamedTuple):
    """Per leaf its rule, and how many numbers one sample needs: for each leaf, and for the values of the net."""

    rules: list[str]
    numbers: list[int]
    values: int
    outputs: Array


def reduced(
    net: Callable, params: Any, x: Array, columns_of: Callable[[Array], Array], reduction: Reduction = SQUARES
) -> list[Array]:
    """Per leaf of `params` Σ_v Σ_n φ(∂ Σ_c S[v, n, c] z[n, c] / ∂θ), z (n, C) the outputs for x (n, ...), S = columns_of(z)."""
    found: list[Array] = []

    def run(one: Any) -> None:
        example = Example(net, params, one)
        found.extend(example.reduced(columns_of(_samples(example.output, len(x))), reduction))

    vmap(run)(x)
    return found


def plan(net: Callable, params: Any, one: Array) -> Plan:
    """What `reduced` will do, from one sample x (1, ...)."""
    found: list[Plan] = []

    def run(one: Any) -> None:
        example = Example(net, params, one)
        values = sum(node.size for node in example.graph.nodes if _mapped(node))
        numbers = [
            _numbers(e, w, example.output.shape[-1]) for e, w in zip(example.entries, example.weights, strict=True)
        ]
        found.append(Plan([e.rule for e in example.entries], numbers, values, _samples(example.output, 1)))

    vmap(run)(one)
    return found[0]


class Example:
    """One run of the net on one example of a vmap, and where the weights enter it."""

    def __init__(self, net: Callable, params: Any, one: Any) -> None:
        traced = Traced(lambda p: net(p, one[None])[0], (params,), (0,), {}, "fisher_diagonal")
        self.output, self.weights, self.graph = traced.output, traced.leaves, traced.graph()
        self.entries = entries(self.graph, self.weights)
        for entry, w in zip(self.entries, self.weights, strict=True):
            if entry.nodes:  # its gradient is made of the cotangents of these, and need not be formed
                self.graph.live -= {w, *(node for chain in entry.views for node in chain)}

    def reduced(self, columns: Array, reduction: Reduction) -> list[Array]:
        n = columns.shape[1]
        inputs = [_inputs(e, n) for e in self.entries]
        totals: list[Any] = [np.zeros_like(w.data.array, dtype=np.float64) for w in self.weights]
        rows: list[list[Array]] = [[] for _ in self.weights]
        for column in columns:
            gradients, cotangents = self._pull(column)
            for i, (entry, g) in enumerate(zip(self.entries, gradients, strict=True)):
                if entry.rule == ROWS:  # one product serves all columns
                    rows[i].append(_cotangents(entry, cotangents, n)[:, 0])
                elif entry.rule == GRADIENTS:
                    totals[i] += reduction.gradients(_samples(g, n))
                elif entry.rule != UNUSED:
                    form = reduction.patches if entry.rule == PATCHES else reduction.positions
                    totals[i] += _unviewed(form(inputs[i], _cotangents(entry, cotangents, n)), entry)
        for total, entry, A, D in zip(totals, self.entries, inputs, rows, strict=True):
            if entry.rule == ROWS:
                total += _unviewed(reduction.rows(A[:, 0], np.stack(D)), entry)
        return totals

    def _pull(self, column: Array) -> tuple[list, dict[Tensor, Any]]:
        """Cotangents of the leaves without a rule, and of the ops at which the others enter."""
        cotangents = dict.fromkeys(node for entry in self.entries for node in entry.nodes)
        seed = Batched(column, innermost(), True)
        return pullback(self.graph, [seed], False, cotangents), cotangents


# ---- where the weights enter ----


def entries(graph: Graph, weights: list[Tensor]) -> list[Entry]:
    """Per weight how it enters: by a rule if that is always by the same op, as the same view of itself; else GRADIENTS."""
    chains: dict[Tensor, tuple[Tensor, ...]] = dict.fromkeys(weights, ())
    leaf = {w: w for w in weights}
    uses: dict[Tensor, list[tuple[Tensor, int]]] = {w: [] for w in weights}
    for node in graph.nodes:
        held = [i for i, v in enumerate(node.inputs) if type(v) is Tensor and v in leaf]
        if held and node.prim.name in _UNDO:
            chains[node], leaf[node] = (*chains[node.inputs[0]], node), leaf[node.inputs[0]]
            continue
        for i in held:
            uses[leaf[node.inputs[i]]].append((node, i))
    return [_entry(uses[w], chains) for w in weights]


def _entry(uses: list[tuple[Tensor, int]], chains: dict[Tensor, tuple[Tensor, ...]]) -> Entry:
    if not uses:
        return Entry(UNUSED)
    views = tuple(chains[node.inputs[i]] for node, i in uses)
    node, at = uses[0]
    rule = _RULES.get((node.prim.name, at, *(getattr(v, "ndim", 0) for v in node.inputs[:2])))
    same = all(other.prim is node.prim and i == at for other, i in uses) and len({_written(v) for v in views}) == 1
    if rule is None or not same:
        return Entry(GRADIENTS)
    nodes, others = tuple(n for n, _ in uses), tuple(n.inputs[1 - at] for n, _ in uses)
    if rule == POSITIONS and sum(n.shape[-1 if at == 0 else -2] for n in nodes) == 1:
        rule = ROWS
    return Entry(rule, nodes, others, views, left=at == 0)


# op, place of the weight in it, numbers of axes of both operands
_RULES: dict[tuple, str] = {
    ("matmul", 1, 2, 2): POSITIONS,
    ("matmul", 0, 2, 2): POSITIONS,
    ("correlate", 1, 4, 4): PATCHES,
}
_UNDO: dict[str, Callable[[Array, Tensor], Array]] = {
    "reshape": lambda F, node: F.reshape(node.inputs[0].shape),
    "transpose": lambda F, node: F.transpose(np.argsort(node.params["axes"])),
}


def _written(chain: tuple[Tensor, ...]) -> str:
    return repr([(node.prim.name, node.params) for node in chain])


def _unviewed(F: Array, entry: Entry) -> Array:
    """The sum in the shape of the weight, from that in the shape of its rule."""
    F = F.reshape(entry.nodes[0].inputs[1].shape) if entry.rule == PATCHES else F.T if entry.left else F
    for node in reversed(entry.views[0]):
        F = _UNDO[node.prim.name](F, node)
    return F


# ---- what the rules need, all samples along the first axis ----


def _inputs(entry: Entry, n: int) -> Any:
    """A (n, T, I), or U (n, K, L): the other operands of all uses, one after the other along the positions."""
    others = [_samples(x, n) for x in entry.others]
    if entry.rule == PATCHES:
        return np.concatenate([_patches(x, node) for x, node in zip(others, entry.nodes, strict=True)], axis=2)
    return _joined(others, entry.left) if entry.nodes else None


def _cotangents(entry: Entry, cotangents: dict[Tensor, Any], n: int) -> Array:
    """D (n, T, O), or (n, O, L) for patches."""
    parts = [
        _samples(np.zeros_like(node.data) if cotangents[node] is None else cotangents[node], n) for node in entry.nodes
    ]
    if entry.rule == PATCHES:
        return np.concatenate([np.moveaxis(d, 1, 2).reshape(n, d.shape[2], -1) for d in parts], axis=2)
    return _joined(parts, entry.left)


def _joined(parts: list[Array], left: bool) -> Array:
    parts = [np.swapaxes(part, 1, 2) for part in parts] if left else parts
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _patches(x: Array, node: Tensor) -> Array:
    """U (n, K, L) of images x (n, m, C, H, W): what each place of the kernel sees at all m H' W' positions."""
    windows = node.params["windows"]
    seen = np.stack([np.swapaxes(x[place], 1, 2) for place in windows.places()], axis=2)  # n C kk m H' W'
    return seen.reshape(len(x), seen.shape[1] * seen.shape[2], -1)


def _samples(x: Any, n: int) -> Array:
    """x of every sample (n, ...)."""
    x = value(x)
    if type(x) is not Batched:
        return np.broadcast_to(x, (n, *np.shape(x)))
    return x.array if x.mapped else np.broadcast_to(x.array, (n, *x.shape))


def _mapped(node: Tensor) -> bool:
    return type(node.data) is Batched and node.data.mapped


def _numbers(entry: Entry, w: Tensor, columns: int) -> int:
    """How many numbers the rule holds for one sample, beside the values of the net."""
    if entry.rule == ROWS:
        return columns * entry.nodes[0].size
    seen = sum(node.size for node in entry.nodes)
    if entry.rule == PATCHES:
        seen += seen // w.shape[0] * (w.size // w.shape[0])
    return 0 if entry.rule == UNUSED else w.size + seen
