"""Which coordinates backpropagation through the LSTM runs on: all of them, or a sample of each parameter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.lstm.blocks import take


class Sample(NamedTuple):
    """At most `most` coordinates of each parameter, drawn uniformly without replacement.

    dL/dφ is a sum over coordinates, given the updates, so that a parameter of n coordinates of which m are drawn counts n / m
    times: the estimate is unbiased, and the thousands of weights that see alike gradients cost no more than they tell.
    """

    rng: np.random.Generator
    most: int

    def draw(self, sizes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(indices among all coordinates, how often each counts) for parameters of these sizes, one after the other."""
        if self.most < 1:
            raise ValueError(f"Sample: most is {self.most}, expected 1 or more")
        chosen, factors, start = [], [], 0
        for size in sizes:
            few = size <= self.most
            chosen.append(
                start + (np.arange(size) if few else np.sort(self.rng.choice(size, self.most, replace=False)))
            )
            factors.append(np.full(len(chosen[-1]), 1.0 if few else size / self.most))
            start += size
        return np.concatenate(chosen), np.concatenate(factors)

    def of(self, sizes: Sequence[int], blocks: Any, read: Any, d_read: Any) -> tuple[Any, Any, Any]:
        """Blocks, gradients (T, n) and dL/dg_t (T, n) of the coordinates drawn, the last times how often each counts."""
        chosen, factors = self.draw(sizes)
        return take(blocks, chosen), read[:, chosen], d_read[:, chosen] * factors.astype(d_read.dtype)
