"""How each leaf of a net gets its Fisher: what the user is told of it, and how many samples fit into memory at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from . import arguments
from .by_layer import GRADIENTS, Plan, plan

Array = np.ndarray
ONE_BY_ONE = "one gradient per sample and label"
BLOCK_BYTES = 24_000_000
MOST_SAMPLES = 1024  # at a time: more would not be faster


class SlowFisher(UserWarning):
    """Leaves whose Fisher takes a gradient per sample, where that is more work than the rest of the net."""


def fisher_rules(net: Callable[[Any, Any], Any], params: Any, x: Array) -> Any:
    """By which rule fisher_diagonal serves each leaf, as text in a tree like `params`; x (N, ...) as there, of which it runs one.

    linear, convolution        from the layer's inputs and output cotangents; "summed over positions" inside the square
    per-sample gradients       formed for a block of samples at once: fast for vectors, slow for matrices (a SlowFisher warning)
    one gradient per sample and label   for all leaves of a net that does not run inside tm.vmap (a SlowFisher warning)
    unused                     F = 0
    """
    arguments.check(params, x, "exact", ("exact",), 1)
    found = _plan(net, params, x[:1])
    rules = found.rules if isinstance(found, Plan) else [ONE_BY_ONE for _ in trees.leaves(params)]
    return trees.unflatten(params, rules)


def blocks(net: Callable, params: Any, x: Array) -> tuple[int, bool]:
    """(samples at a time, whether they go together), with a SlowFisher warning for what is slow."""
    found = _plan(net, params, x[:1])
    if not isinstance(found, Plan):
        _warn(f"takes one gradient per sample and label, because the net does not run inside tm.vmap: {found}")
        return MOST_SAMPLES, False
    leaves = zip(trees.items(params), found.rules, strict=True)
    slow = [f"params{path}" for (path, w), rule in leaves if rule == GRADIENTS and w.size > found.values]
    if slow:
        _warn(
            f"forms a gradient per sample for {', '.join(slow)}, which takes longer than the rest of the net; let them enter as w "
            "in x @ w or conv2d(x, w), once or several times in the same way"
        )
    itemsize = max((w.dtype.itemsize for w in trees.leaves(params)), default=8)
    return max(1, min(MOST_SAMPLES, BLOCK_BYTES // (itemsize * max(1, found.values + sum(found.numbers))))), True


def _plan(net: Callable, params: Any, one: Array) -> Plan | str:
    """The plan, or in a sentence why the net cannot be looked into."""
    try:
        found = plan(net, params, one)
    except Exception as error:  # whatever a function of plain arrays raises when it is given something else
        return f"{type(error).__name__}: {error}"
    alone = net(params, one)
    tolerance = float(np.cbrt(np.finfo(found.outputs.dtype).eps))
    same = np.allclose(found.outputs, alone, rtol=tolerance, atol=tolerance)
    return found if same else "there its outputs are others"


def _warn(sentence: str) -> None:
    warnings.warn(f"fisher_diagonal {sentence} (see ewc.fisher_rules)", SlowFisher, stacklevel=4)
