"""What both GPU twins do on the host: check arguments, and divide the backward pass into segments.

Works on any array type that NumPy's functions accept.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from .blocks import LANES, as_weights, check, flat_weights, gathered, hidden_sizes
from .reference import Weights, _checked


class Sizes(NamedTuple):
    """Of one call: n coordinates, T steps, the layers' hidden sizes, and 2 features or 1 (p = None)."""

    hidden: tuple[int, ...]
    features: int
    T: int
    n: int

    @property
    def tiles(self) -> int:
        return math.ceil(self.n / LANES)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the input of each layer, then of the output."""
        return (self.features, *self.hidden)

    @property
    def weights(self) -> int:
        layers = zip(self.widths, self.hidden, strict=False)
        return sum(4 * H * (d + H + 1) for d, H in layers) + self.widths[-1] + 1

    @property
    def state_bytes(self) -> int:
        """Of one tile's state."""
        return 2 * sum(self.hidden) * LANES * 4


def sizes_of(operation: str, weights: Weights, blocks: Any, gradients: Any, p: float | None) -> Sizes:
    """The sizes of a call; TypeError or ValueError unless all is float32 and fits together."""
    check(operation, weights, blocks, gradients, p)
    if gradients.dtype != np.float32:
        raise TypeError(
            f"{operation}: the arrays are {gradients.dtype}, expected float32, all that the GPU kernels compute in; "
            "use .astype(numpy.float32), or tinymeta.kernels.lstm.portable"
        )
    return Sizes(hidden_sizes(weights), 1 if p is None else 2, *gradients.shape)


def check_contiguous(after: Any) -> None:
    """ValueError for a next state that a kernel cannot write into."""
    if not after.flags.c_contiguous:
        raise ValueError(f"step: after of shape {after.shape} has strides, expected a C-contiguous array to write into")


def preprocessing(p: float | None) -> tuple[np.float32, np.float32, np.float32]:
    """(p, e^-p, e^p) of (1); zeros, which no kernel reads, for p = None."""
    if p is None:
        return np.float32(0), np.float32(0), np.float32(0)
    p = _checked(p, np.dtype(np.float32))
    return np.float32(p), np.float32(math.exp(-p)), np.float32(math.exp(p))


def flatten(weights: Weights) -> Any:
    """All weights in one row: W_1, b_1, W_2, ..., W_out, b_out."""
    return gathered(flat_weights(weights))


def unflatten(row: Any, like: Weights) -> Weights:
    """The weights that such a row holds, shaped as `like`."""
    arrays = flat_weights(like)
    ends = np.cumsum([array.size for array in arrays]).tolist()
    return as_weights([row[end - x.size : end].reshape(x.shape) for x, end in zip(arrays, ends, strict=True)])


class Plan(NamedTuple):
    """How a backward pass runs: thread blocks at once, steps of a segment, and states that each thread block holds."""

    blocks: int
    segment: int
    states: int


def plan(sizes: Sizes, resident: int, memory: int | None) -> Plan:
    """The plan for `memory` bytes of states and T > 0: all steps in one segment if they fit, else segments, run twice.

    A thread block holds one tile's state at the start of each segment and after each step of one. `resident` blocks
    run on the GPU at once; fewer are used only where not even the leanest segments of so many fit. ValueError where
    they do not fit for a single block.
    """
    blocks = min(sizes.tiles, resident)
    states = {segment: math.ceil(sizes.T / segment) + segment for segment in range(sizes.T, 0, -1)}
    for segment, held in states.items():
        if memory is None or blocks * held * sizes.state_bytes <= memory:
            return Plan(blocks, segment, held)
    assert memory is not None  # without a limit the longest segment has been taken
    leanest = min(states, key=states.__getitem__)
    least = states[leanest] * sizes.state_bytes
    if memory < least:
        raise ValueError(f"unroll_backward: memory is {memory} bytes, expected {least} or more for {sizes.T} steps")
    return Plan(memory // least, leanest, states[leanest])
