"""Hypothesis strategies for arrays, shapes and trees, from which those of the ops are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

Shape = tuple[int, ...]
Domain = Sequence[tuple[float, float]]  # closed intervals

REAL: Domain = ((-2.0, 2.0),)
POSITIVE: Domain = ((0.2, 2.0),)
NONZERO: Domain = ((-2.0, -0.2), (0.2, 2.0))


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 0, max_side: int = 4) -> st.SearchStrategy[Shape]:
    """Array shapes, with scalars, axes of length 1 and empty axes unless the bounds exclude them."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


def float_arrays(
    shape: Shape | st.SearchStrategy[Shape] | None = None, domain: Domain = REAL
) -> st.SearchStrategy[np.ndarray]:
    """float64 arrays with elements in the intervals of `domain`."""
    elements = st.one_of(*(st.floats(low, high, allow_subnormal=False) for low, high in domain))
    return hnp.arrays(np.float64, shapes() if shape is None else shape, elements=elements)


def distinct_arrays(shape: Shape) -> st.SearchStrategy[np.ndarray]:
    """float64 arrays in [-2, 2] whose elements are all different, evenly spaced: no ties for a maximum to fall on."""
    values = np.linspace(-2, 2, int(np.prod(shape)))
    orders = st.integers(0, 2**16 - 1)
    return orders.map(lambda seed: np.random.default_rng(seed).permutation(values).reshape(shape))


def unequal_arrays(shape_a: Shape, shape_b: Shape) -> st.SearchStrategy[tuple[np.ndarray, np.ndarray]]:
    """Two arrays of which no element of one equals an element of the other: multiples of 1/4, and those plus 1/8."""
    grid = lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-8, 8))
    return st.tuples(
        grid(shape_a).map(lambda n: np.asarray(n / 4)), grid(shape_b).map(lambda n: np.asarray(n / 4 + 0.125))
    )


def broadcastable_pairs(
    max_dims: int = 3, min_side: int = 0, max_side: int = 3
) -> st.SearchStrategy[tuple[Shape, Shape]]:
    """Two shapes that NumPy broadcasts together."""
    return hnp.mutually_broadcastable_shapes(
        num_shapes=2, min_dims=0, max_dims=max_dims, min_side=min_side, max_side=max_side
    ).map(lambda found: (found.input_shapes[0], found.input_shapes[1]))


def axes(ndim: int) -> st.SearchStrategy[int | tuple[int, ...] | None]:
    """An axis argument for a reduction: None, an int or a tuple of different axes, from either end."""
    options: list[st.SearchStrategy] = [st.none()]
    if ndim:
        options += [one_axis(ndim), hnp.valid_tuple_axes(ndim)]
    return st.one_of(*options)


def one_axis(ndim: int) -> st.SearchStrategy[int]:
    """One axis of an array, from either end."""
    return st.integers(-ndim, ndim - 1)


class Pair(NamedTuple):
    """A NamedTuple node of the generated trees."""

    first: Any
    second: Any


@dataclass
class Layer:
    """A dataclass node of the generated trees."""

    weights: Any
    bias: Any


def trees(leaves: st.SearchStrategy[Any] | None = None, max_leaves: int = 6) -> st.SearchStrategy[Any]:
    """Nested dicts, lists, tuples, NamedTuples, dataclasses and None, with arrays (or the given leaves) at the ends."""
    ends = float_arrays(shapes(max_dims=2, max_side=2)) if leaves is None else leaves

    def nodes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.one_of(
            st.dictionaries(st.text("abcw", min_size=1, max_size=2), inner, max_size=3),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Pair, inner, inner),
            st.builds(Layer, inner, inner),
        )

    return st.recursive(ends | st.none(), nodes, max_leaves=max_leaves)
