"""How far two tasks use the same weights (Kirkpatrick et al. 2016, arXiv 1612.00796, section "Fisher Overlap"; Fig. 2C)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import trees
from .arguments import check_fisher, check_like
from .trace import trace


def overlap(fisher_1: Any, fisher_2: Any, unit_trace: str = "layer") -> Any:
    """1 - d² per layer, d the Fréchet distance of two Fisher diagonals of unit trace: Σ_i sqrt(F̂1_i F̂2_i).

    0: no weight in common, 1: proportional. A layer is an entry of the outermost list, tuple or dict: a tuple (dict) of
    floats for those, one float for a bare array. `unit_trace` is "layer", or "network": then the trace of the whole
    network is made 1 and the floats add up to its overlap. The paper does not say which. A layer that one of the tasks does
    not use, such as the head of another task, has no unit trace: its overlap is NaN, and 0 as a part of the network's.
    ValueError for trees that differ, for entries that are negative or not finite, and where F is 0 throughout.
    """
    if unit_trace not in ("layer", "network"):
        raise ValueError(f"overlap: unit_trace is {unit_trace!r}, expected 'layer' or 'network'")
    check_like(fisher_1, fisher_2, "overlap: fisher_2")
    check_fisher(fisher_1, "overlap: fisher_1")
    check_fisher(fisher_2, "overlap: fisher_2")
    found = {}
    whole = _scale(fisher_1, fisher_2)
    if whole == 0:
        raise ValueError("overlap: a Fisher is 0 throughout, so its trace cannot be 1; it says nothing of a task")
    for key, one, two in _layers(fisher_1, fisher_2):
        scale = _scale(one, two) if unit_trace == "layer" else whole
        found[key] = min(1.0, _common(one, two) / scale) if scale else np.nan  # 1 + rounding is 1
    if isinstance(fisher_1, dict):
        return found
    return tuple(found.values()) if isinstance(fisher_1, (list, tuple)) else found[0]


def _layers(fisher_1: Any, fisher_2: Any) -> list[tuple[Any, Any, Any]]:
    """(key, layer of the first, layer of the second) for each."""
    if isinstance(fisher_1, dict):
        return [(key, layer, fisher_2[key]) for key, layer in fisher_1.items()]
    one, two = (f if isinstance(f, (list, tuple)) else [f] for f in (fisher_1, fisher_2))
    return list(zip(range(len(one)), one, two, strict=True))


def _common(one: Any, two: Any) -> float:
    """Σ_i sqrt(F1_i F2_i), roots first so that products do not underflow."""
    products = trees.map(lambda a, b: np.sqrt(a, dtype=np.float64) * np.sqrt(b, dtype=np.float64), one, two)
    return trace(products)


def _scale(one: Any, two: Any) -> float:
    return float(np.sqrt(trace(one)) * np.sqrt(trace(two)))
