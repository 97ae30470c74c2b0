"""Arguments for the ops on matrices and for the layers of networks: matched shapes, index letters, diagonals, windows, labels."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from .arrays import broadcastable_pairs, distinct_arrays, float_arrays, one_axis, shapes

Case = tuple[tuple, dict[str, Any]]
Cases = st.SearchStrategy[Case]
OFFSETS = st.integers(-5, 5)
LEADS: list[list[tuple[int, ...]]] = [[()], [(2,)], [(2,), (1,)], [(2, 3), (3,), (2, 1)]]  # each broadcasts together


def _arrays(shapes_drawn: st.SearchStrategy[tuple]) -> Cases:
    return shapes_drawn.flatmap(lambda found: st.tuples(st.tuples(*map(float_arrays, found)), st.just({})))


def _matmul() -> Cases:
    """Vectors, matrices and stacks of matrices whose leading axes broadcast, with empty axes too."""
    found = hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=0, max_side=3)
    return _arrays(found.map(lambda drawn: drawn.input_shapes))


@st.composite
def _vdot(draw: st.DrawFn) -> Case:
    """Two shapes with as many elements."""
    shape = draw(shapes(max_side=3))
    other = draw(st.permutations(shape)) if draw(st.booleans()) else [int(np.prod(shape))]
    return (draw(float_arrays(shape)), draw(float_arrays(tuple(other)))), {}


@st.composite
def _inner(draw: st.DrawFn) -> Case:
    n, lead = draw(st.integers(0, 3)), shapes(max_dims=2, max_side=3)
    a, b = (draw(st.sampled_from([(n,), (*draw(lead), n), ()])) for _ in range(2))
    return (draw(float_arrays(a)), draw(float_arrays(b))), {}


@st.composite
def _vecdot(draw: st.DrawFn) -> Case:
    """Leading axes that broadcast, the summed axis moved among them from either end."""
    drawn = hnp.mutually_broadcastable_shapes(signature=np.vecdot.signature, max_dims=2, min_side=0, max_side=3)
    found = draw(drawn).input_shapes
    axis = draw(one_axis(min(map(len, found))))
    arrays = [np.moveaxis(draw(float_arrays(shape)), -1, axis) for shape in found]
    return tuple(arrays), draw(st.sampled_from([{"axis": axis}, {}])) if axis == -1 else {"axis": axis}


@st.composite
def _diagonal(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=2)))
    axis1, axis2 = draw(hnp.valid_tuple_axes(x.ndim, min_size=2, max_size=2))
    return (x,), {"offset": draw(OFFSETS), "axis1": axis1, "axis2": axis2}


def _of_rank(min_dims: int, max_dims: int) -> Cases:
    return st.tuples(
        st.tuples(float_arrays(shapes(min_dims=min_dims, max_dims=max_dims))), st.fixed_dictionaries({"k": OFFSETS})
    )


@st.composite
def _dot(draw: st.DrawFn) -> Case:
    n = draw(st.integers(0, 3))
    lead = shapes(max_dims=2, max_side=3)
    a = draw(st.sampled_from([(n,), (*draw(lead), n), ()]))
    b = draw(st.sampled_from([(n,), (*draw(lead), n, draw(st.integers(0, 3))), ()]))
    return (draw(float_arrays(a)), draw(float_arrays(b))), {}


@st.composite
def _tensordot(draw: st.DrawFn) -> Case:
    shared = draw(shapes(max_dims=2, max_side=3))
    a, b = draw(shapes(max_dims=2, max_side=2)) + shared, shared + draw(shapes(max_dims=2, max_side=2))
    k = len(shared)
    pairs = (list(range(len(a) - k, len(a))), [i - len(b) for i in range(k)])
    return (draw(float_arrays(a)), draw(float_arrays(b))), {"axes": draw(st.sampled_from([k, pairs]))}


@st.composite
def _einsum(draw: st.DrawFn) -> Case:
    """Up to three operands with letters that may repeat (diagonals), leading axes by `...` that broadcast, any output or none."""
    sizes = {letter: draw(st.integers(0, 3)) for letter in "abc"}
    terms = draw(st.lists(st.text("abc", max_size=3), min_size=1, max_size=3))
    leads = st.sampled_from(draw(st.sampled_from(LEADS)))
    dotted = [draw(st.booleans()) for _ in terms]
    operands = [
        draw(float_arrays((draw(leads) if dots else ()) + tuple(sizes[c] for c in term)))
        for term, dots in zip(terms, dotted, strict=True)
    ]
    left = ",".join(("..." if dots else "") + term for term, dots in zip(terms, dotted, strict=True))
    used = sorted(set("".join(terms)))
    output = draw(st.permutations(used))[: draw(st.integers(0, len(used)))]
    arrow = "->" + ("..." if any(dotted) else "") + "".join(output)
    return (left + draw(st.sampled_from(["", arrow])), *operands), {}


@st.composite
def _solve(draw: st.DrawFn) -> Case:
    """Diagonally dominant a (..., n, n), and b (n,) or (..., n, k)."""
    n = draw(st.integers(1, 3))
    leads = draw(broadcastable_pairs(max_dims=1, max_side=2))
    a = draw(float_arrays((*leads[0], n, n))) + 7 * np.eye(n)
    return (a, draw(float_arrays(draw(st.sampled_from([(n,), (*leads[1], n, 2)]))))), {}


@st.composite
def _cholesky(draw: st.DrawFn) -> Case:
    """Symmetric positive definite (..., n, n)."""
    n = draw(st.integers(1, 3))
    m = draw(float_arrays((*draw(shapes(max_dims=1, max_side=2)), n, n)))
    return (m @ np.swapaxes(m, -1, -2) + np.eye(n),), {}


def _pair(low: int, high: int) -> st.SearchStrategy[int | tuple[int, int]]:
    return st.integers(low, high) | st.tuples(st.integers(low, high), st.integers(low, high))


def _both(pair: int | tuple[int, int]) -> tuple[int, int]:
    return pair if isinstance(pair, tuple) else (pair, pair)


@st.composite
def _conv2d(draw: st.DrawFn) -> Case:
    """x (..., N, C, H, W), w (..., O, C, kh, kw), with leading task axes on either, strides and paddings."""
    channels, padding = draw(st.integers(1, 2)), draw(_pair(0, 1))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    image = [draw(st.integers(max(k - 2 * p, 1), 4)) for k, p in zip(kernel, _both(padding), strict=True)]
    tasks = draw(st.sampled_from([((), ()), ((2,), (2,)), ((), (2,)), ((2,), ()), ((1,), (2,))]))
    x = (*tasks[0], draw(st.integers(0, 2)), channels, *image)
    w = (*tasks[1], draw(st.integers(1, 2)), channels, *kernel)
    kwargs = {"stride": draw(_pair(1, 2)), "padding": padding}
    return (draw(float_arrays(x)), draw(float_arrays(w))), kwargs


@st.composite
def _pool(draw: st.DrawFn, distinct: bool) -> Case:
    size = draw(_pair(1, 2))
    image = tuple(draw(st.integers(k, 4)) for k in _both(size))
    shape = draw(shapes(max_dims=2, min_side=1, max_side=2)) + image
    make = distinct_arrays if distinct else float_arrays
    return (draw(make(shape)), size), {"stride": draw(st.none() | _pair(1, 2))}


@st.composite
def _batch_norm(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=2, max_dims=4, min_side=2, max_side=3))
    axis = draw(hnp.valid_tuple_axes(len(shape), min_size=1, max_size=len(shape) - 1))
    kept = tuple(n for i, n in enumerate(shape) if i not in {a % len(shape) for a in axis})
    form = draw(st.sampled_from([axis, *axis[: 1 if len(axis) == 1 else 0]]))
    x, gamma, beta = draw(distinct_arrays(shape)), draw(float_arrays(kept)), draw(float_arrays(kept))
    return (x, gamma, beta), {"axis": form, "eps": draw(st.sampled_from([1e-5, 1e-1]))}


def _softmax() -> Cases:
    return shapes(min_dims=1, min_side=1).flatmap(
        lambda shape: st.tuples(st.tuples(float_arrays(shape)), st.fixed_dictionaries({"axis": one_axis(len(shape))}))
    )


@st.composite
def _cross_entropy(draw: st.DrawFn) -> Case:
    shape, classes = draw(shapes(max_dims=2, max_side=3)), draw(st.integers(1, 4))
    labels = draw(hnp.arrays(draw(st.sampled_from([np.int64, np.uint8])), shape, elements=st.integers(0, classes - 1)))
    return (draw(float_arrays((*shape, classes))), labels), {}


PRODUCTS: dict[str, Cases] = {
    "matmul": _matmul(),
    "dot": _dot(),
    "vdot": _vdot(),
    "inner": _inner(),
    "vecdot": _vecdot(),
    "outer": _arrays(st.tuples(shapes(max_dims=2, max_side=3), shapes(max_dims=2, max_side=3))),
    "tensordot": _tensordot(),
    "einsum": _einsum(),
    "solve": _solve(),
    "cholesky": _cholesky(),
    "diagonal": _diagonal(),
    "trace": _diagonal(),
    "diag": _of_rank(1, 2),
    "tril": _of_rank(1, 3),
    "triu": _of_rank(1, 3),
    "conv2d": _conv2d(),
    "max_pool2d": _pool(distinct=True),
    "mean_pool2d": _pool(distinct=False),
    "batch_norm": _batch_norm(),
    "softmax": _softmax(),
    "log_softmax": _softmax(),
    "softmax_cross_entropy": _cross_entropy(),
}
