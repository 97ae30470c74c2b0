"""Memory aware synapses (Aljundi et al. 2018, arXiv 1711.09601): how much each weight moves the outputs, whatever the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.batch import vmap
from ..engine.transforms import grad

Array = np.ndarray


def mas_importance(net: Callable[[Any, Any], Any], params: Any, x: Array, batch_size: int = 128) -> Any:
    """Ω = mean_n |∂ ‖net(params, x_n)‖² / ∂θ| (section 4.1), a tree like `params`; x (N, ...) needs no labels.

    The absolute value is per sample. Tasks add up: Penalty(2 lam, gamma=1.0).add_task(params, Ω) is the paper's λ Σ Ω (θ - θ*)².
    """
    norms = vmap(grad(lambda p, one: ops.sum(ops.square(net(p, one[None])))), (None, 0))
    totals = [np.zeros_like(w, dtype=np.float64) for w in trees.leaves(params)]
    for start in range(0, len(x), batch_size):
        for total, g in zip(totals, trees.leaves(norms(params, x[start : start + batch_size])), strict=True):
            total += np.abs(g).sum(axis=0, dtype=np.float64)
    leaves = [(t / len(x)).astype(w.dtype) for t, w in zip(totals, trees.leaves(params), strict=True)]
    return trees.unflatten(params, leaves)
