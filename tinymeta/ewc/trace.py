"""The trace of a Fisher diagonal: its scale, which says less of a task than of how sure the network is of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import describe
from .arguments import NotFinite, check_fisher


def unit_trace(fisher: Any) -> Any:
    """F / tr F, a tree like it: with it each task of a penalty counts alike.

    Online EWC normalises each Fisher, since its norm tells how sure the network is and not how much the task matters (Schwarz et
    al. 2018, arXiv 1805.06370, section 4); that the norm is the trace is our choice. λ has to be larger by the factor tr F.
    ValueError if F has entries that are negative; NotFinite if they are not finite, or all 0, for 0 / 0 is neither.
    """
    for path, F in trees.items(fisher):
        if F.dtype.kind != "f":
            raise TypeError(f"unit_trace: fisher{path} is {describe(F)}, expected an array of floats; use .astype")
    check_fisher(fisher, "unit_trace: fisher")
    whole = trace(fisher)
    if whole == 0:
        raise NotFinite("unit_trace: fisher is 0 throughout, so its trace cannot be 1; it says nothing of a task")
    # in float64, for the sum need not fit into the dtype of its terms
    return trees.map(lambda F: np.divide(F, whole, dtype=np.float64).astype(F.dtype), fisher)


def trace(fisher: Any) -> float:
    """Σ_i F_i, summed in float64."""
    return float(sum(np.sum(F, dtype=np.float64) for F in trees.leaves(fisher)))
