"""Sums over samples of a function of each sample's gradient, for any net: by layer where that is possible, in bounded memory.

What is slow is never silent: `fisher_rules` tells how each leaf is served, and a SlowFisher warning names what takes a gradient per
sample where that is more work than the rest of the net.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.transforms import vjp
from . import arguments
from .by_layer import COLUMNS, SQUARES, Plan, Reduction, add_reduced, plan
from .entries import GRADIENTS

Array = np.ndarray
Columns = Callable[[Any, Array, int], Array]
"""Cotangents S (V, n, C) from the outputs of a block of samples, the samples (n, ...), and the number of the first."""

ONE_BY_ONE = "one gradient per sample and label"
BLOCK_BYTES = 32_000_000  # of the values and cotangents of a block; NumPy's temporaries come on top
MOST_SAMPLES = 1024  # at a time: more would not be faster
CHECKED = 8  # first samples, of all and of each block, whose outputs are compared with those in one another's company


class SlowFisher(UserWarning):
    """Leaves whose Fisher takes a gradient per sample, where that is more work than the rest of the net."""


def fisher_rules(net: Callable[[Any, Any], Any], params: Any, x: Array) -> Any:
    """By which rule fisher_diagonal serves each leaf, as text in a tree like `params`; x (N, ...) as there, of which it runs one.

    linear, convolution, bias  from the layer's inputs and output cotangents; "summed over positions" inside the square
    per-sample gradients       formed for a block of samples at once: fast for vectors, slow for matrices (a SlowFisher warning)
    one gradient per sample and label   for all leaves of a net that does not run inside tm.vmap (a SlowFisher warning)
    unused                     F = 0

    A multilayer perceptron (relu or tanh) has the rules of its layers, in one kernel for all of them.
    """
    arguments.check(net, params, x)
    found = _plan(net, params, x[:1])
    rules = found.rules if isinstance(found, Plan) else [ONE_BY_ONE for _ in trees.leaves(params)]
    return trees.unflatten(params, rules)


def mean_over_samples(
    who: str, net: Callable, params: Any, x: Array, first: Array, columns: Columns, reduction: Reduction = SQUARES
) -> Any:
    """mean_n Σ_v φ(∂ Σ_c S[v, n, c] z[n, c] / ∂θ), a tree like `params` in its dtypes; z (N, C) the outputs for x (N, ...), and
    `first` those that the net gives for x[:CHECKED] together."""
    rows, together = _blocks(who, net, params, x, columns(first[:1], x[:1], 0))
    totals = [np.zeros_like(w, dtype=np.float64) for w in trees.leaves(params)]
    for start in range(0, len(x), rows):
        block = x[start : start + rows]
        found = lambda z, block=block, start=start: columns(z, block, start)
        if together:
            # a block may hold one sample, which has no company there
            company = first[start : start + rows] if start < CHECKED else net(params, block[:CHECKED])
            _together(who, totals, net, params, block, company, found, reduction)
        else:
            _one_by_one(who, totals, net, params, block, found, reduction)
    return means(totals, len(x), params)


def means(totals: list[Array], n: int, params: Any) -> Any:
    """Totals per leaf as means over n samples, in the tree and the dtypes of `params`."""
    leaves = [(t / n).astype(w.dtype) for t, w in zip(totals, trees.leaves(params), strict=True)]
    return trees.unflatten(params, leaves)


def _together(
    who: str,
    totals: list[Array],
    net: Callable,
    params: Any,
    x: Array,
    company: Array,
    columns: Callable,
    reduction: Reduction,
) -> None:
    """All samples at once, each by itself in a vmap; `company` are the outputs of the first ones, that the net gives together."""

    def checked(outputs: Array) -> Array:
        found = columns(outputs)
        arguments.check_unmixed(company, outputs, who)
        return found

    add_reduced(totals, net, params, x, checked, reduction)


def _one_by_one(
    who: str, totals: list[Array], net: Callable, params: Any, x: Array, columns: Callable, reduction: Reduction
) -> None:
    """For nets that cannot be looked into."""
    outputs = net(params, x)
    found = columns(outputs)
    for n in range(len(x)):
        one = slice(n, n + 1)
        for total, g in zip(
            totals, gradients_of_sum(who, net, params, x[one], outputs[one], found[:, one]), strict=True
        ):
            total += reduction.gradients(g)


def gradients_of_sum(who: str, net: Callable, params: Any, x: Array, outputs: Array, columns: Array) -> list[Array]:
    """Per leaf (V, ...): for each column (V, n, C) one gradient, of the sum over the samples x."""
    again, pull = vjp(lambda p: net(p, x), params)
    arguments.check_unmixed(again, outputs, who)
    return [np.stack(leaf) for leaf in zip(*(trees.leaves(pull(column)[0]) for column in columns), strict=True)]


# ---- how it will go ----


def _blocks(who: str, net: Callable, params: Any, x: Array, scores: Array) -> tuple[int, bool]:
    """(samples at a time, whether they go together), with a SlowFisher warning for what is slow; `scores` are the columns (V, 1, C)
    of one sample."""
    found = _plan(net, params, x[:1])
    waiting = scores.size if len(scores) > COLUMNS else 0  # to go backward; so few are as nothing beside the values
    if not isinstance(found, Plan):
        _warn(who, f"takes one gradient per sample and label, because the net does not run inside tm.vmap: {found}")
        return max(1, min(MOST_SAMPLES, BLOCK_BYTES // (scores.itemsize * max(1, waiting)))), False
    leaves = zip(trees.items(params), found.rules, strict=True)
    slow = [f"params{path}" for (path, w), rule in leaves if rule == GRADIENTS and w.size > found.values]
    if slow:
        _warn(
            who,
            f"forms a gradient per sample for {', '.join(slow)}, which takes longer than the rest of the net; let them enter as "
            "w in x @ w or conv2d(x, w), once or several times in the same way",
        )
    itemsize = max((w.dtype.itemsize for w in trees.leaves(params)), default=8)
    numbers = found.values + sum(found.numbers) + waiting
    most = max(1, min(MOST_SAMPLES, BLOCK_BYTES // (itemsize * max(1, numbers))))
    return -(-len(x) // -(-len(x) // most)), True  # as few blocks, of equal size


def _plan(net: Callable, params: Any, one: Array) -> Plan | str:
    """The plan, or in a sentence why the net cannot be looked into."""
    try:
        found = plan(net, params, one)
    except Exception as error:  # whatever a function of plain arrays raises when it is given something else
        return f"{type(error).__name__}: {error}"
    tolerance = float(np.cbrt(np.finfo(found.outputs.dtype).eps))
    same = np.allclose(found.outputs, net(params, one), rtol=tolerance, atol=tolerance)
    return found if same else "there its outputs are others"


def _warn(who: str, sentence: str) -> None:
    warnings.warn(f"{who} {sentence} (see ewc.fisher_rules)", SlowFisher, stacklevel=5)
