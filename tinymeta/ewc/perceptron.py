"""A net that is a multilayer perceptron, however it is written, has a kernel for the whole of it (kernels.fisher.mlp_fisher)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.batch import vmap
from ..engine.tensor import Tensor
from . import arguments
from .backends import fisher as kernels
from .by_layer import Example

Array = np.ndarray
ACTIVATIONS: dict[str, Callable] = {"relu": ops.relu, "tanh": ops.tanh}


class Perceptron(NamedTuple):
    """act(... act(x @ W_0 + b_0) ...) @ W_k + b_k, each W and b by the number of its leaf."""

    layers: list[tuple[int, int]]
    activation: str


def fisher_of_perceptron(net: Callable, params: Any, x: Array, first: Array, kind: str, given: Array) -> Any:
    """The Fisher as fisher_diagonal gives it, or None if the net is no perceptron or something is not finite; `first` are
    the outputs of the first samples, `given` labels or uniforms per sample, as the kind needs them."""
    leaves = trees.leaves(params)
    if not all(type(a) is np.ndarray and a.dtype == leaves[0].dtype for a in (x, *leaves)) or x.ndim != 2:
        return None
    found = _recognised(net, params, x[:1])
    if found is None or not x.size or not np.isfinite([x.min(), x.max()]).all():  # without an array of the size of x
        return None
    layers = [(leaves[w], leaves[b]) for w, b in found.layers]
    again = _forward(layers, x[: len(first)], ACTIVATIONS[found.activation])
    if again.shape != first.shape or not arguments.unmixed(again, first):  # in a vmap the net does something else
        return None
    per_sample = {"sampled": {"uniforms": given}, "empirical": {"labels": given}}.get(kind, {})
    squares = kernels.mlp_fisher(layers, x, activation=found.activation, kind=kind, **per_sample)
    ours = {i: F for pair, Fs in zip(found.layers, squares, strict=True) for i, F in zip(pair, Fs, strict=True)}
    result = [ours[i].copy() if i in ours else np.zeros_like(w) for i, w in enumerate(leaves)]
    return trees.unflatten(params, result) if all(np.isfinite(F).all() for F in result) else None


def _forward(layers: list[tuple[Array, Array]], x: Array, activation: Callable) -> Array:
    for k, (W, b) in enumerate(layers):
        x = (activation(x) if k else x) @ W + b
    return x


def _recognised(net: Callable, params: Any, one: Array) -> Perceptron | None:
    found: list[Perceptron | None] = []

    def run(one: Any) -> None:
        found.append(_read(Example(net, params, one)))

    try:
        vmap(run)(one)
    except Exception:  # a net that cannot be looked into; `sums` says why
        return None
    return found[0]


def _read(example: Example) -> Perceptron | None:
    """From the logits backward: + b, @ W, and an activation or the samples themselves."""
    leaf, activations = {id(w): i for i, w in enumerate(example.weights)}, set()
    layers: list[tuple[int, int]] = []
    z: Any
    b: Any
    at: Any = example.output.inputs[0] if _is(example.output, "getitem") else None
    while at is not example.sample:
        if layers:
            if not (_is(at, "relu") or _is(at, "tanh")):
                return None
            activations.add(at.prim.name)
            at = at.inputs[0]
        z, b = at.inputs if _is(at, "add") else (None, None)
        if not _is(z, "matmul") or not {id(z.inputs[1]), id(b)} <= leaf.keys() or b.shape != z.shape[1:]:
            return None
        layers.append((leaf[id(z.inputs[1])], leaf[id(b)]))
        at = z.inputs[0]
    numbers = [i for pair in layers for i in pair]
    if len(set(numbers)) < len(numbers) or len(activations) > 1:
        return None  # a weight that is used twice, or activations of two kinds
    return Perceptron(layers[::-1], next(iter(activations), "relu"))


def _is(x: Any, name: str) -> bool:
    return type(x) is Tensor and x.prim is not None and x.prim.name == name
