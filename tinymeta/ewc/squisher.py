"""A Fisher diagonal that costs nothing: Adam's second moment, rescaled ("squisher", arXiv 2507.18807)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import trees
from ..optim import State
from .arguments import checked_result, is_count


def squisher(state: State, batch_size: int, b2: float = 0.999) -> Any:
    """B v / (1 - b2^t), an approximation of the empirical Fisher from the state of tm.optim.adam, a tree like the params.

    v averages squared gradients of mini-batch *means* over about 1 / (1 - b2) steps. E[ḡ²] = E[g²]/B + (1 - 1/B) E[g]², so B
    (`batch_size`) times it is the mean squared score where the mean gradient is near 0, at weights that moved meanwhile. The
    gradients must be those of the mean cross-entropy alone. ValueError for a state without steps or without v.
    """
    if state.v is None or state.step < 1:
        raise ValueError(
            f"squisher: a state after {state.step} steps{'' if state.v is not None else ' without a second moment v'}, expected "
            "that of tm.optim.adam after at least one"
        )
    if not is_count(batch_size) or not 0 <= b2 < 1:
        raise ValueError(
            f"squisher: batch_size is {batch_size} and b2 {b2}, expected an int, 1 or more, and 0 <= b2 < 1"
        )
    factor = float(batch_size / (1 - b2**state.step))
    with np.errstate(over="ignore"):  # what is not finite is refused, with a sentence
        return checked_result(trees.map(lambda v: np.asarray(factor * v, like=v), state.v), "squisher")
