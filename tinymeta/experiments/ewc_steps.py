"""One step of SGD or Adam on a loss plus a penalty, in place, over blocks that stay in the cache.

The kernels of tinymeta.kernels.penalty say what is computed, (3) and (4); here nothing is allocated, for a network of two
million weights spends more time on temporaries than on Adam.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinymeta.engine import trees
from tinymeta.ewc import Penalty

BLOCK = 32_768  # entries: six float32 arrays of them fit into L2
_scratch = np.empty((2, BLOCK), np.float32)


def sgd_(params: Any, grads: Any, penalty: Penalty, lr: float) -> None:
    """params -= lr (grads + the gradient of the penalty); grads are used up."""
    for (theta, grad), pull in _blocks(penalty, params, grads):
        _add_pull(theta, grad, pull)
        grad *= np.float32(lr)
        theta -= grad


def adam_(
    params: Any,
    grads: Any,
    penalty: Penalty,
    lr: float,
    m: Any,
    v: Any,
    t: int,
    path: Any = None,
    b1: float = 0.9,
    b2: float = 0.999,
) -> None:
    """Adam's step number t = 1, 2, ... on loss + penalty; params, m, v and path change in place, grads are used up.

    path -= grads Δθ, the gradients those of the loss alone: what PathIntegral.step does.
    """
    scale, correction = np.float32(lr / (1 - b1**t)), np.float32((1 - b2**t) ** -0.5)
    given = (params, grads, m, v) if path is None else (params, grads, m, v, path)
    for (theta, grad, m_, v_, *way), pull in _blocks(penalty, *given):
        work, alone = _scratch[:, : len(theta)]
        if way:
            alone[...] = grad
        _add_pull(theta, grad, pull)
        m_ *= np.float32(b1)
        m_ += np.multiply(grad, np.float32(1 - b1), out=work)
        v_ *= np.float32(b2)
        np.multiply(grad, grad, out=work)
        work *= np.float32(1 - b2)
        v_ += work
        np.sqrt(v_, out=work)
        work *= correction
        work += np.float32(1e-8)
        np.divide(m_, work, out=work)
        work *= scale
        theta -= work
        if way:
            work *= alone
            way[0] += work


def _add_pull(theta: NDArray, grad: NDArray, pull: tuple[NDArray, NDArray, float] | None) -> None:
    """grad += lam F (theta - anchor)."""
    if pull is None:
        return
    fisher, anchor, lam = pull
    work = _scratch[0, : len(theta)]
    np.subtract(theta, anchor, out=work)
    work *= fisher
    work *= np.float32(lam)
    grad += work


def _blocks(penalty: Penalty, *given: Any) -> Iterator[tuple[list[NDArray], tuple[NDArray, NDArray, float] | None]]:
    """Blocks of the leaves of the trees, and (fisher, anchor, lam) of the same entries, None where there is no penalty."""
    pulled = penalty.lam > 0 and penalty.fisher is not None
    all_trees = (*given, penalty.fisher, penalty.anchor) if pulled else given
    for arrays in zip(*map(trees.leaves, all_trees), strict=True):
        flat = [array.reshape(-1) for array in arrays]
        for start in range(0, flat[0].size, BLOCK):
            parts = [array[start : start + BLOCK] for array in flat]
            yield parts[: len(given)], (parts[-2], parts[-1], penalty.lam) if pulled else None


def squares_(grads: Any, v: Any, decay: float = 0.999) -> None:
    """v ← decay v + (1 - decay) grads², in place: Adam's second moment, for an optimizer that has none."""
    for leaf, grad in zip(trees.leaves(v), trees.leaves(grads), strict=True):
        leaf *= np.float32(decay)
        leaf += np.float32(1 - decay) * np.square(grad)
