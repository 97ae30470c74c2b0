"""Synaptic intelligence (Zenke, Poole, Ganguli 2017, arXiv 1703.04200): importance from the path of training, not from a Fisher.

si = PathIntegral.begin(params)
si = si.step(grads, before, after)      # at every step, with the gradients of the loss without the penalty
si = si.end_task(params)                # then si.penalty(c) for the next task
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..engine import trees
from .arguments import check_like
from .penalty import Penalty


class PathIntegral(NamedTuple):
    """A value, which a checkpoint holds: θ at the task's start, ω along its path so far, Ω of the tasks that have ended, ξ."""

    start: Any
    path: Any
    omega: Any
    xi: float = 0.1

    @classmethod
    def begin(cls, params: Any, xi: float = 0.1) -> PathIntegral:
        """Before the first task. `xi` (squared weights) keeps Ω finite where a weight has not moved; ValueError unless > 0."""
        if not 0 < xi < np.inf:
            raise ValueError(f"PathIntegral: xi is {xi}, expected a finite number above 0")
        zeros = lambda: trees.map(np.zeros_like, params)
        return cls(trees.map(np.copy, params), zeros(), zeros(), float(xi))

    def step(self, grads: Any, before: Any, after: Any) -> PathIntegral:
        """ω ← ω - g Δθ (there Eq. 3) after a step from `before` to `after`; `grads` are of the loss at `before`, without the
        penalty, for else what holds a weight would count as what it is needed for."""
        for name, tree in (("grads", grads), ("before", before), ("after", after)):
            check_like(self.path, tree, f"PathIntegral.step: {name}")
        return self._replace(path=trees.map(lambda p, g, a, b: p - g * (b - a), self.path, grads, before, after))

    def end_task(self, params: Any) -> PathIntegral:
        """Ω ← max(0, Ω + ω / (Δθ² + ξ)) (Eq. 5), Δθ over the whole task; ω begins again at `params`. The maximum is not in
        the paper but in its authors' code: Ω < 0 would push weights away."""
        check_like(self.start, params, "PathIntegral.end_task: params")

        def importance(omega: Any, path: Any, start: Any, end: Any) -> Any:
            return np.maximum(omega + path / ((end - start) ** 2 + self.xi), 0)

        omega = trees.map(importance, self.omega, self.path, self.start, params)
        return PathIntegral(trees.map(np.copy, params), trees.map(np.zeros_like, params), omega, self.xi)

    def penalty(self, c: float) -> Penalty:
        """c Σ Ω (θ - θ̃)² (Eq. 4), without ½: lam is 2 c. θ̃ is what the latest task ended with; to be asked between tasks."""
        return Penalty(2 * c, gamma=1.0).add_task(self.start, self.omega)
