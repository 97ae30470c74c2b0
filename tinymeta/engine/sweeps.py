"""The two sweeps over the value graph: `pullback` carries cotangents back, `pushforward` carries tangents forward.

Both evaluate the same rules, made of public ops. A rule is given plain arrays when nobody will differentiate the result, and
Tensors (`record=True`) when an enclosing derivative is going to: the only difference between a first-order gradient at
NumPy's speed and a gradient that can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from .structural import astype, broadcast_to, sum_to
from .tensor import CAPTURES, PICK, THREAD, Tensor, describe, explain, parts, value, where_made

_by_creation = attrgetter("seq")


class Graph:
    """The nodes between `leaves` and `outputs`, oldest first: creation order is a topological order.

    `outer` says that the outputs also depend on Tensors from outside these leaves (an enclosing derivative's variables,
    even if they came in by closure), so that the sweeps must be recorded. Nodes older than the leaves cannot depend on
    them: the walk stops there, so a derivative costs no more than its own function.
    """

    def __init__(self, leaves: Sequence[Tensor], outputs: Sequence[Any]) -> None:
        self.leaves, self.outputs = leaves, outputs
        self.first = min((w.seq for w in leaves), default=0)
        found, self.outside = _walk(leaves, outputs, self.first)
        self.outer = bool(self.outside) or any(w.prim is not None for w in leaves)
        self.live = live = set(leaves)
        self.nodes: list[Tensor] = []
        found.sort(key=_by_creation)
        for node in found:
            for x in node.inputs:
                if type(x) is Tensor and x in live:
                    live.add(node)
                    self.nodes.append(node)
                    break

    def older(self) -> bool:
        """Whether the outputs depend on Tensors that were there before the leaves."""
        return any(node.seq < self.first for node in self.outside)


def _walk(leaves: Sequence[Tensor], outputs: Sequence[Any], first: int) -> tuple[list[Tensor], list[Tensor]]:
    """The nodes that the outputs reach without passing a leaf, and the Tensors from outside at which the walk stopped."""
    seen = set(leaves)
    found, outside = [], []
    stack = [y for y in outputs if type(y) is Tensor]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.seq < first or node.prim is None:
            outside.append(node)
            continue
        found.append(node)
        for x in node.inputs:
            if type(x) is Tensor:
                stack.append(x)  # noqa: PERF401  (a comprehension costs more here)
    return found, outside


def pullback(
    graph: Graph, cotangents: Sequence[Any], record: bool, wanted: dict[Tensor, Any] | None = None
) -> list[Any]:
    """Cotangents of graph.leaves from those of graph.outputs (None: no cotangent), zeros where there is no path.

    Nodes that are keys of `wanted` get their cotangents there."""
    totals: dict[Tensor, Any] = {}
    for y, g in zip(graph.outputs, cotangents, strict=True):
        if g is not None and type(y) is Tensor and y in graph.live:
            _accumulate(totals, y, g)
    site, recorded = THREAD.site, record or THREAD.maps or CAPTURES
    try:
        for node in reversed(graph.nodes):
            g = totals.pop(node, None)
            if g is not None:
                if wanted is not None and node in wanted:
                    wanted[node] = g
                if recorded:
                    THREAD.site = (node.code, node.lasti)
                _pull_one(node, g, graph.live, totals, record)
    finally:
        THREAD.site = site
    return [totals[w] if w in totals else np.zeros_like(w.data) for w in graph.leaves]


def _pull_one(node: Tensor, g: Any, live: set[Tensor], totals: dict[Tensor, Any], record: bool) -> None:
    prim, out = node.prim, node.data
    args: Sequence[Any] = node.inputs
    if type(out) is tuple:
        g, out = _fill(g, out), parts(node) if record else out
    elif record:
        out = node
    if not record:
        args = [x.data if type(x) is Tensor else x for x in args]  # value(x), without a call: this is the hot path
    i = 0
    try:
        if prim.vjps:
            for x in node.inputs:
                if type(x) is Tensor and x in live and prim.vjps[i] is not None:
                    gx = prim.vjps[i](g, out, *args, **node.params)
                    if gx.shape != x.data.shape or gx.dtype is not x.data.dtype:
                        gx = _fit(gx, x, prim.broadcasts)
                    totals[x] = totals[x] + gx if x in totals else gx
                i += 1
        elif prim is PICK:
            _accumulate_part(totals, node.inputs[0], node.params["index"], g)
        else:
            for x, gx in zip(node.inputs, prim.vjp(g, out, *args, **node.params), strict=True):
                if type(x) is Tensor and x in live and gx is not None:
                    _accumulate(totals, x, _fit(gx, x, prim.broadcasts))
                i += 1
    except Exception as error:
        raise explain(error, f"VJP of {prim.name}, argument {i}, ", node.inputs, where_made(node)) from error


def _accumulate(totals: dict[Tensor, Any], x: Tensor, g: Any) -> None:
    totals[x] = totals[x] + g if x in totals else g


def _accumulate_part(totals: dict[Tensor, Any], node: Tensor, index: int, g: Any) -> None:
    held = totals.setdefault(node, [None] * len(node.data))
    held[index] = g if held[index] is None else held[index] + g


def _fill(cotangents: list, data: tuple) -> tuple:
    return tuple(np.zeros_like(d) if g is None else g for g, d in zip(cotangents, data, strict=True))


def _fit(gx: Any, x: Tensor, broadcasts: bool) -> Any:
    """The cotangent in the shape and dtype of its input: summed where the op broadcast, refused where it did not."""
    if gx.shape != x.shape:
        if not broadcasts:
            raise ValueError(f"the rule gave a cotangent {describe(gx)} for an input {describe(x)}")
        gx = sum_to(gx, x.shape)
    return _as_real(gx, x.dtype)


def _as_real(g: Any, dtype: Any) -> Any:
    """g in the dtype of its value; complex only where f went through complex numbers, for which no rule is right."""
    if "c" in (g.dtype.kind, dtype.kind):
        raise TypeError(f"a derivative {describe(g)} of a value of {dtype}, expected real numbers: use real constants")
    return astype(g, dtype)


def pushforward(graph: Graph, tangents: Sequence[Any], record: bool) -> list[Any]:
    """Tangents of graph.outputs from those of graph.leaves (None: no tangent), zeros where there is no path."""
    totals: dict[Tensor, Any] = {w: v for w, v in zip(graph.leaves, tangents, strict=True) if v is not None}
    site = THREAD.site
    try:
        for node in graph.nodes:
            dot = _push_one(node, totals, record)
            if dot is not None:
                totals[node] = dot
    finally:
        THREAD.site = site
    return [totals[y] if type(y) is Tensor and y in totals else np.zeros_like(value(y)) for y in graph.outputs]


def _push_one(node: Tensor, totals: dict[Tensor, Any], record: bool) -> Any:
    prim = node.prim
    dots: list[Any] = [totals.get(x) if type(x) is Tensor else None for x in node.inputs]
    if all(d is None for d in dots):
        return None
    if prim is PICK:
        return dots[0][node.params["index"]]
    if record or THREAD.maps or CAPTURES:
        THREAD.site = (node.code, node.lasti)
    args = node.inputs if record else tuple(map(value, node.inputs))
    try:
        dot = _tangent(node, dots, args, record)
        return dot if dot is None or type(node.data) is tuple else _fit_forward(dot, node)
    except Exception as error:
        raise explain(error, f"JVP of {prim.name} ", node.inputs, where_made(node)) from error


def _fit_forward(dot: Any, node: Tensor) -> Any:
    """The tangent in the shape and dtype of its value: broadcast as the op did, refused where it did not."""
    if dot.shape != node.shape and not node.prim.broadcasts:
        raise ValueError(f"the rule gave a tangent {describe(dot)} for an output {describe(node)}")
    return _as_real(broadcast_to(dot, node.shape), node.dtype)


def _tangent(node: Tensor, dots: list, args: Sequence, record: bool) -> Any:
    prim, params = node.prim, node.params
    out = node.data if not record else parts(node) if type(node.data) is tuple else node
    given = [i for i, d in enumerate(dots) if d is not None]
    if prim.jvp is not None:
        return prim.jvp(dots, out, *args, **params)
    if prim.kind == "elementwise":
        return _sum([prim.vjps[i](dots[i], out, *args, **params) for i in given if prim.vjps[i] is not None])
    if prim.kind == "joint":
        filled = [np.zeros_like(x) if d is None else d for d, x in zip(dots, map(value, node.inputs), strict=True)]
        return prim(*filled, **params)
    if prim.kind == "linear":
        return _sum([prim(*[dots[i] if j == i else x for j, x in enumerate(args)], **params) for i in given])
    return _transpose_of_vjp(node, dots, given, args, out, record)


def _transpose_of_vjp(node: Tensor, dots: list, given: list[int], args: Sequence, out: Any, record: bool) -> Any:
    """J v without a JVP rule: the VJP g -> Jᵀ g is linear in g, so pulling v back through it gives J v."""
    many = type(node.data) is tuple
    gs = [Tensor(np.zeros_like(d)) for d in (node.data if many else (node.data,))]
    g = tuple(gs) if many else gs[0]
    if node.prim.vjp is not None:
        pulled = node.prim.vjp(g, out, *args, **node.params)
    else:
        pulled = [rule and rule(g, out, *args, **node.params) for rule in node.prim.vjps]
    used = [i for i in given if type(pulled[i]) is Tensor]
    fitted = [_fit(pulled[i], node.inputs[i], node.prim.broadcasts) for i in used]
    result = pullback(Graph(gs, fitted), [dots[i] for i in used], record)
    return tuple(result) if many else result[0]


def _sum(terms: list) -> Any:
    total = terms[0] if terms else None
    for term in terms[1:]:
        total = total + term
    return total
