"""What the twins share: the operands of a call, its leading axes as loops over offsets, and the backward pass.

Works on any array type that NumPy's functions accept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import product as indices
from typing import Any, NamedTuple

import numpy as np

from .. import one_dtype
from .reference import _check_shape, _op, _sum_to


def operands(operation: str, a: Any, b: Any, transpose_a: bool, transpose_b: bool, **result: Any) -> tuple[Any, Any]:
    """(op(a), op(b)); TypeError or ValueError unless all is of one dtype and fits together."""
    one_dtype(operation, a=a, b=b, **{name: array for name, array in result.items() if array is not None})
    op_a, op_b = _op(a, transpose_a), _op(b, transpose_b)
    _check_shape(operation, op_a, op_b, **result)
    return op_a, op_b


def result_shape(op_a: Any, op_b: Any) -> tuple[int, ...]:
    return (*np.broadcast_shapes(op_a.shape[:-2], op_b.shape[:-2]), op_a.shape[-2], op_b.shape[-1])


def backward(
    matmul: Callable, d_c: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Any, Any]:
    """(d_a, d_b) of (2) as two products by `matmul`, each already in its operand's layout."""
    operands("matmul_vjp", a, b, transpose_a, transpose_b, d_c=d_c)
    d_a = matmul(b, d_c, transpose_b, True) if transpose_a else matmul(d_c, b, False, not transpose_b)
    d_b = matmul(d_c, a, True, transpose_a) if transpose_b else matmul(a, d_c, not transpose_a)
    return _sum_to(d_a, a.shape), _sum_to(d_b, b.shape)


class Loops(NamedTuple):
    """`outer` times `inner` products: the first entries of a, b, c, and their steps in each loop, counted in entries."""

    outer: int
    inner: int
    first: tuple[int, ...]
    outer_steps: tuple[int, ...]
    inner_steps: tuple[int, ...]


def loops(*arrays: Any) -> tuple[Loops, ...]:
    """The leading axes, which broadcast, of arrays (..., rows, columns): nearly always one pair of loops, since axes that
    follow each other evenly in all arrays are one; else one pair for each index of the axes before the last two.
    """
    return _loops(tuple((x.shape[:-2], tuple(step // x.itemsize for step in x.strides[:-2])) for x in arrays))


@functools.lru_cache(1024)
def _loops(axes_of: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]) -> tuple[Loops, ...]:
    lead = np.broadcast_shapes(*(shape for shape, _ in axes_of))
    if 0 in lead:
        return ()
    steps = [_aligned(shape, own, len(lead)) for shape, own in axes_of]
    axes = _merged([(size, step) for size, step in zip(lead, zip(*steps, strict=True), strict=True) if size > 1])
    still = (1, (0,) * len(axes_of))
    *before, (outer, outer_steps), (inner, inner_steps) = [still, still, *axes]
    found = []
    for index in indices(*(range(size) for size, _ in before)):
        first = [sum(i * step[x] for i, (_, step) in zip(index, before, strict=True)) for x in range(len(axes_of))]
        found.append(Loops(outer, inner, tuple(first), outer_steps, inner_steps))
    return tuple(found)


def _aligned(shape: tuple[int, ...], steps: tuple[int, ...], axes: int) -> list[int]:
    """The steps of broadcast axes: 0 where there is one entry, or none."""
    return [0] * (axes - len(shape)) + [0 if size == 1 else step for size, step in zip(shape, steps, strict=True)]


def _merged(axes: Sequence[tuple[int, tuple[int, ...]]]) -> list[tuple[int, tuple[int, ...]]]:
    merged: list[tuple[int, tuple[int, ...]]] = []
    for size, steps in axes:
        if merged and merged[-1][1] == tuple(size * step for step in steps):
            merged[-1] = (merged[-1][0] * size, steps)
        else:
            merged.append((size, steps))
    return merged


def matrix_steps(array: Any) -> tuple[int, int]:
    """(row, column) in entries."""
    row, column = array.strides[-2:]
    return row // array.itemsize, column // array.itemsize


def flops(lead: Sequence[int], m: int, k: int, n: int) -> int:
    return 2 * math.prod(lead) * m * k * n
