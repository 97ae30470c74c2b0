"""One step of SGD or Adam on a loss plus a penalty, in place: the kernels of tinymeta.kernels.penalty, (3) and (4), leaf by leaf.

The experiments' networks have up to two million weights, for which new arrays cost more than Adam does. With Numba nothing is
allocated; without it the same numbers, bit for bit, are copied back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinymeta.engine import trees
from tinymeta.engine.backend import choose
from tinymeta.ewc import Penalty
from tinymeta.ewc.backends import table


def sgd_(params: Any, grads: Any, penalty: Penalty, lr: float) -> None:
    """params -= lr (grads + the gradient of the penalty)."""
    lam, leaves = _terms(penalty, params, grads)
    for theta, grad, anchor, fisher in leaves:
        _into([theta], "sgd_step", [theta, grad, anchor, fisher], {"lam": lam, "lr": lr})


def adam_(params: Any, grads: Any, penalty: Penalty, lr: float, m: Any, v: Any, t: int) -> None:
    """Adam's step number t = 1, 2, ... on loss + penalty; params, m and v change."""
    lam, leaves = _terms(penalty, params, grads, m, v)
    for theta, grad, m_, v_, anchor, fisher in leaves:
        options = {"lam": lam, "lr": lr, "m": m_, "v": v_, "t": t}
        _into([theta, m_, v_], "adam_step", [theta, grad, anchor, fisher], options)


def squares_(grads: Any, v: Any, decay: float = 0.999) -> None:
    """v ← decay v + (1 - decay) grads²: Adam's second moment, for an optimizer that has none."""
    for leaf, grad in zip(trees.leaves(v), trees.leaves(grads), strict=True):
        leaf *= np.float32(decay)
        leaf += np.float32(1 - decay) * np.square(grad)


def _terms(penalty: Penalty, params: Any, grads: Any, *moments: Any) -> tuple[float, list[tuple[NDArray, ...]]]:
    """λ, and matching leaves of all trees and of the penalty's anchor and Fisher.

    Where there is no penalty yet, λ is 0 and the gradients stand for both: finite, and not written to as the parameters are,
    for a loop that reads what it changes under another name is not vectorised.
    """
    if penalty.lam > 0 and penalty.fisher is not None:
        lam, quadratic = penalty.lam, (penalty.anchor, penalty.fisher)
    else:
        lam, quadratic = 0.0, (grads, grads)
    return lam, list(zip(*map(trees.leaves, (params, grads, *moments, *quadratic)), strict=True))


def _into(outs: Sequence[NDArray], name: str, arrays: Sequence[NDArray], options: dict[str, Any]) -> None:
    """The step's results, written over `outs`."""
    steps = table("penalty", name)
    step = choose(name, steps, arrays)
    if step is steps["numba"]:
        step(*arrays, **options, out=outs[0] if len(outs) == 1 else tuple(outs))
        return
    results = step(*arrays, **options)
    for out, result in zip(outs, [results] if len(outs) == 1 else results, strict=True):
        out[...] = result
