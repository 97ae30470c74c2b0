"""Σ_n φ(g_n), g_n the gradients of single samples and φ the square: a whole batch at once, and mostly without the g_n.

The net runs once, on one example of a vmap: each value has all samples along its first axis, and no sample can see another. In
z = a @ w the gradient for w is aᵀ d, with d the cotangent of z. For one row a that is an outer product, and the sum over n of its
square is (A∘A)ᵀ(D∘D). A weight that enters at several positions (rows, places of a kernel, times, layers that share it) has the sum
over them as its gradient, which is formed before it is squared. Any other leaf gets its per-sample gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..engine.batch import vmap
from ..engine.batched import Batched, innermost, raw
from ..engine.scope import Traced
from ..engine.sweeps import pullback
from ..engine.tensor import Tensor, value
from .backends import fisher as kernels
from .entries import GRADIENTS, PATCHES, POSITIONS, ROWS, Entry, entries, unviewed

Array = np.ndarray
COLUMNS = 16  # that go backward together; more would only take more memory


class Reduction(NamedTuple):
    """By rule Σ_v Σ_n φ(g) of one leaf, from what the rule knows of g; sizes as in tinymeta.kernels.fisher."""

    rows: Callable[[Array, Array], tuple[Array, Array]]  # A (n, I), S (V, n, O) -> (I, O), and (O,) of a bias
    positions: Callable[[Array, Array], tuple[Array, Array]]  # A (n, T, I), D (n, T, O) -> (I, O), (O,)
    patches: Callable[[Array, Array], tuple[Array, Array]]  # U (n, K, L), D (n, O, L) -> (O, K), (O,)
    gradients: Callable[[Array], Array]  # g (n, ...) -> (...)
    joined: Callable[[Array], Array]  # D (n, V, T, O) -> (n, 1, T, O): of rows, one column that counts as these


SQUARES = Reduction(
    kernels.linear_exact,
    kernels.linear_time,
    kernels.conv,
    lambda g: np.add.reduce(np.square(g), axis=0, dtype=np.float64),
    lambda D: np.sqrt(np.sum(D * D, axis=1, keepdims=True)),
)


class Plan(NamedTuple):
    """Per leaf its rule, and how many numbers one sample needs: for each leaf, and for the values of the net."""

    rules: list[str]
    numbers: list[int]
    values: int
    outputs: Array


def add_reduced(
    totals: list[Array],
    net: Callable,
    params: Any,
    x: Array,
    columns_of: Callable[[Array], Array],
    reduction: Reduction = SQUARES,
) -> None:
    """To each leaf's total add Σ_v Σ_n φ(∂ Σ_c S[v, n, c] z[n, c] / ∂θ), z (n, C) the outputs for x (n, ...), S = columns_of(z)."""

    def run(one: Any) -> None:
        example = Example(net, params, one)
        example.add_reduced(totals, columns_of(_samples(example.output, len(x))), reduction)

    vmap(run)(x)


def plan(net: Callable, params: Any, one: Array) -> Plan:
    """What `add_reduced` will do, from one sample x (1, ...)."""
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
        self.sample = one[None]
        traced = Traced(lambda p: net(p, self.sample)[0], (params,), (0,), {}, "fisher_diagonal")
        self.output, self.weights, self.graph = traced.output, traced.leaves, traced.graph()
        self.entries = entries(self.graph, self.weights)
        formed = [e.rule == GRADIENTS for e in self.entries]
        self.graph.leaves = list(itertools.compress(self.weights, formed))
        for entry, w, form in zip(self.entries, self.weights, formed, strict=True):
            if not form:  # its gradient is made of the cotangents of other nodes
                self.graph.live -= {w, *itertools.chain(*entry.views)}

    def add_reduced(self, totals: list[Array], columns: Array, reduction: Reduction) -> None:
        """To each leaf's total add the sum of φ over samples and columns (V, n, C)."""
        n = columns.shape[1]
        inputs: list[Any] = [_inputs(e, n) if e.nodes else None for e in self.entries]
        # of the columns that have gone one that counts as they do, so that there is one product of rows for all
        before: dict[int, Array] = {}
        for v in range(0, len(columns), COLUMNS):
            formed, cotangents = self._pull(np.swapaxes(columns[v : v + COLUMNS], 0, 1))
            for i, entry in enumerate(self.entries):
                if entry.rule == GRADIENTS:
                    g = _samples(next(formed), n)
                    totals[i] += reduction.gradients(g.reshape(-1, *g.shape[2:]))
                elif entry.nodes:
                    D = _cotangents(entry, cotangents, n)
                    D = np.concatenate([before[i], D], axis=1) if i in before else D
                    if entry.rule == ROWS and v + COLUMNS < len(columns):
                        before[i] = reduction.joined(D)
                    else:
                        _add(totals, i, entry, _reduced(entry, inputs[i], D, reduction))

    def _pull(self, columns: Array) -> tuple[Iterator, dict[Tensor, Any]]:
        """Cotangents (V, ...) of the leaves without a rule, and of the ops at which the others enter, for columns (n, V, C): they
        are examples of a second vmap, so that each op goes backward once for all of them."""
        nodes = dict.fromkeys(node for entry in self.entries for node in entry.nodes)

        def pull(column: Any) -> tuple[list, list]:
            found = dict(nodes)
            formed = pullback(self.graph, [column], False, found)
            return formed, [np.zeros_like(node.data) if g is None else g for node, g in found.items()]

        formed, found = vmap(pull)(Batched(columns, innermost(), True))
        return iter(formed), dict(zip(nodes, found, strict=True))


def _add(totals: list[Array], leaf: int, entry: Entry, sums: Iterator[tuple[Array, Array]]) -> None:
    for weight, bias in sums:
        totals[leaf] += unviewed(weight, entry)
        if entry.bias is not None:
            totals[entry.bias] += bias.reshape(totals[entry.bias].shape)


def _reduced(entry: Entry, inputs: Array, D: Array, reduction: Reduction) -> Iterator[tuple[Array, Array]]:
    """Sums of a weight and of its bias from `_inputs` and `_cotangents`: one for all columns of rows, else one for each."""
    if entry.rule == ROWS:
        yield reduction.rows(inputs[:, 0], np.swapaxes(D[:, :, 0], 0, 1))
    else:
        form = reduction.patches if entry.rule == PATCHES else reduction.positions
        yield from (form(inputs, D[:, v]) for v in range(D.shape[1]))


# ---- what the rules need, all samples along the first axis ----


def _inputs(entry: Entry, n: int) -> Array:
    """A (n, T, I), or U (n, K, L): the other operands of all uses, one after the other along the positions, in the dtype of
    what is made of them: integers, or narrower floats, count as what the weight makes them."""
    dtype = np.result_type(*(node.dtype for node in entry.nodes))
    others = [_samples(x, n).astype(dtype, copy=False) for x in entry.others]
    if entry.rule == PATCHES:
        return np.concatenate([_patches(x, node) for x, node in zip(others, entry.nodes, strict=True)], axis=2)
    return _joined(others, entry.left)


def _cotangents(entry: Entry, cotangents: dict[Tensor, Any], n: int) -> Array:
    """D (n, V, T, O), or (n, V, O, L) for patches."""
    parts = [_samples(cotangents[node], n) for node in entry.nodes]
    if entry.rule == PATCHES:
        return np.concatenate([np.moveaxis(d, 2, 3).reshape(*d.shape[:2], d.shape[3], -1) for d in parts], axis=-1)
    return _joined(parts, entry.left)


def _joined(parts: list[Array], left: bool) -> Array:
    parts = [np.swapaxes(part, -1, -2) for part in parts] if left else parts
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)


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
    together = min(columns, COLUMNS)
    if entry.rule == GRADIENTS:
        return together * w.size
    seen = sum(node.size for node in entry.nodes)
    numbers = (together + (columns > COLUMNS)) * seen
    if entry.rule == PATCHES:
        numbers += seen // w.shape[0] * (w.size // w.shape[0])
    if entry.rule in (PATCHES, POSITIONS) and type(raw(w)) is not np.ndarray:
        numbers += w.size  # NumPy's kernels form the gradients of a few samples at a time, others may form all
    return numbers
