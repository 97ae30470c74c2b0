"""Which examples each training step sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def minibatch_indices(rng: np.random.Generator, n: int, batch_size: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """Yield for each step the indices, int64 (batch_size,), of its examples among `n`.

    The batches are cut from an endless row of shuffled epochs, so each epoch shows each example once and none is left
    out; a batch across the end of an epoch may show one twice. To resume, start anew from the same seed and skip.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n is {n} and batch_size {batch_size}, expected 1 or more of both")
    order = rng.permutation(n)
    for _ in range(steps):
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:batch_size]
        order = order[batch_size:]
