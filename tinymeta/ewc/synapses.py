"""Memory aware synapses (Aljundi et al. 2018, arXiv 1711.09601): how much each weight moves the outputs, whatever the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import arguments
from .by_layer import Reduction
from .sums import CHECKED, mean_over_samples

Array = np.ndarray
WHO = "mas_importance"
ABSOLUTES = Reduction(
    lambda A, S: (np.abs(A).T @ np.abs(S).sum(axis=0), np.abs(S).sum(axis=(0, 1))),
    lambda A, D: (sum(np.abs(a.T @ d) for a, d in zip(A, D, strict=True)), np.abs(D.sum(axis=1)).sum(axis=0)),
    lambda U, D: (sum(np.abs(d @ u.T) for u, d in zip(U, D, strict=True)), np.abs(D.sum(axis=2)).sum(axis=0)),
    lambda g: np.add.reduce(np.abs(g), axis=0, dtype=np.float64),
    lambda D: np.abs(D).sum(axis=1, keepdims=True),
)


def mas_importance(net: Callable[[Any, Any], Any], params: Any, x: Array) -> Any:
    """Ω = mean_n |∂ ‖net(params, x_n)‖² / ∂θ| (section 4.1), a tree like `params`; x (N, ...), any float outputs (N, C).

    The absolute value is per sample. Tasks add up: Penalty(2 lam, gamma=1.0).add_task(params, Ω) is the paper's λ Σ Ω (θ - θ*)².
    Errors and the SlowFisher warning as in fisher_diagonal.
    """
    arguments.check(net, params, x, WHO)

    def columns(outputs: Any, block: Array, start: int) -> Array:
        numbers = range(start, start + len(block))
        return 2 * arguments.checked_outputs(outputs, block, numbers, WHO)[None]  # ∂ ‖z‖² / ∂z

    with np.errstate(over="ignore", invalid="ignore"):
        first = arguments.checked_outputs(net(params, x[:CHECKED]), x[:CHECKED], range(CHECKED), WHO)
        return arguments.checked_result(mean_over_samples(WHO, net, params, x, first, columns, ABSOLUTES), WHO)
