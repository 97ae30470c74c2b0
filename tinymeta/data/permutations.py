"""The permuted-MNIST tasks of EWC (Kirkpatrick et al. 2016, section 2.1): a fixed shuffling of the pixels each."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def permutations(
    rng: np.random.Generator, tasks: int, pixels: int = 784, first_identity: bool = False
) -> NDArray[np.int64]:
    """Different random permutations, int64 (tasks, pixels); with `first_identity` the first leaves all in place."""
    if tasks > math.factorial(pixels):
        raise ValueError(f"{tasks} different permutations of {pixels} pixels were asked for; there are not so many")
    identity = np.arange(pixels)
    found = {identity.tobytes(): identity} if first_identity else {}
    while len(found) < tasks:
        permutation = rng.permutation(pixels)
        found.setdefault(permutation.tobytes(), permutation)
    return np.array(list(found.values())[:tasks], np.int64).reshape(tasks, pixels)


def centre_permutation(rng: np.random.Generator, square: int, side: int = 28) -> NDArray[np.int64]:
    """A permutation, int64 (side * side,), of the pixels in the centred square only (Fig. 2C: 8 and 26 of 28)."""
    if not 0 <= square <= side:
        raise ValueError(f"square is {square}, expected 0 to {side}, the side of the image")
    grid, start = np.arange(side * side).reshape(side, side), (side - square) // 2
    block = grid[start : start + square, start : start + square]
    block[...] = rng.permutation(block.ravel()).reshape(square, square)
    return grid.ravel()


def permuted(x: NDArray[np.uint8], permutation: NDArray[np.int64]) -> NDArray[np.float32]:
    """Pixel i of the result is pixel permutation[i] of the uint8 images x (N, ...), over 255: float32 (N, pixels)."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    if x.dtype != np.uint8 or flat.shape[1:] != permutation.shape:
        raise ValueError(
            f"x is {x.dtype}{list(x.shape)}, expected uint8 images of the {len(permutation)} pixels of the permutation"
        )
    return flat[:, permutation].astype(np.float32) / np.float32(255)
