"""For each differentiable op the arguments at which it has a derivative: one line per op, `arrays_for` looks them up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st

from ..engine import trees
from .arrays import (
    NONZERO,
    POSITIVE,
    REAL,
    Domain,
    axes,
    broadcastable_pairs,
    distinct_arrays,
    float_arrays,
    one_axis,
    shapes,
    unequal_arrays,
)
from .product_cases import PRODUCTS

Case = tuple[tuple, dict[str, Any]]  # (args, kwargs)
Cases = st.SearchStrategy[Case]


def arrays_for(op_name: str, dtype: Any = np.float64) -> Cases:
    """(args, kwargs) for tinymeta.ops.<op_name>, with every float array in `dtype`; ValueError for an op without derivative."""
    if op_name not in CASES:
        raise ValueError(
            f"arrays_for({op_name!r}): no such differentiable op; expected one of {', '.join(sorted(CASES))}"
        )
    if np.dtype(dtype) == np.float64:
        return CASES[op_name]
    return CASES[op_name].map(lambda case: (trees.map(lambda x: _in_dtype(x, dtype), case[0]), case[1]))


def _in_dtype(x: Any, dtype: Any) -> Any:
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _with(*args: st.SearchStrategy, **kwargs: st.SearchStrategy) -> Cases:
    return st.tuples(st.tuples(*args), st.fixed_dictionaries(kwargs))


def _unary(domain: Domain = REAL) -> Cases:
    return _with(float_arrays(domain=domain))


def _binary(a: Domain = REAL, b: Domain = REAL) -> Cases:
    return broadcastable_pairs().flatmap(lambda pair: _with(float_arrays(pair[0], a), float_arrays(pair[1], b)))


def _unequal() -> Cases:
    return broadcastable_pairs().flatmap(lambda pair: st.tuples(unequal_arrays(*pair), st.just({})))


def _on_shapes(make: Callable[[tuple[int, ...]], Cases], **bounds: int) -> Cases:
    return shapes(**bounds).flatmap(make)


def _power() -> Cases:
    integers = _with(float_arrays(domain=NONZERO), st.integers(-2, 3))
    return st.one_of(_binary(POSITIVE, REAL), integers)


def _clip() -> Cases:
    limits = st.sampled_from([(-1.3, 1.1), (None, 0.9), (-0.7, None)])
    values = unequal_arrays((), (2, 3)).map(lambda pair: pair[1])
    return st.tuples(values, limits).map(lambda drawn: ((drawn[0], *drawn[1]), {}))


def _where() -> Cases:
    sides = hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3)
    return sides.flatmap(
        lambda found: _with(
            hnp.arrays(bool, found.input_shapes[0]),
            float_arrays(found.input_shapes[1]),
            float_arrays(found.input_shapes[2]),
        )
    )


def _reduction(x: Callable = float_arrays, **bounds: int) -> Cases:
    return _on_shapes(lambda shape: _with(x(shape), axis=axes(len(shape)), keepdims=st.booleans()), **bounds)


def _spread(shape: tuple[int, ...]) -> Cases:
    """For var and std: at least two elements on every axis, so that ddof = 1 is allowed and no deviation is zero."""
    nonempty = axes(len(shape)).filter(lambda axis: axis != ())
    return _with(distinct_arrays(shape), axis=nonempty, ddof=st.integers(0, 1), keepdims=st.booleans())


def _some_axis(*args: st.SearchStrategy, ndim: int, **kwargs: st.SearchStrategy) -> Cases:
    return _with(*args, axis=one_axis(ndim) if ndim else st.none(), **kwargs)


@st.composite
def _reshape(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    size = int(np.prod(shape))
    targets = [(size,), (1, size), (size, 1, 1), shape[::-1]] + ([(-1,), -1, (-1, size)] if size else [])
    return (draw(float_arrays(shape)), draw(st.sampled_from(targets))), {}


@st.composite
def _expanded(draw: st.DrawFn) -> Case:
    x = draw(float_arrays())
    several = hnp.valid_tuple_axes(x.ndim + 2, min_size=2, max_size=2)
    return (x, draw(st.one_of(one_axis(x.ndim + 1), several))), {}


@st.composite
def _squeezed(draw: st.DrawFn) -> Case:
    shape = draw(shapes(min_dims=1, max_side=2))
    ones = [i for i, n in enumerate(shape) if n == 1]
    axis = draw(st.one_of(st.none(), st.sampled_from(ones) if ones else st.none(), st.just(tuple(ones))))
    return (draw(float_arrays(shape)),), {"axis": axis}


@st.composite
def _moved(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=1)))
    count = draw(st.integers(1, x.ndim))
    some = hnp.valid_tuple_axes(x.ndim, min_size=count, max_size=count)
    single = st.tuples(one_axis(x.ndim), one_axis(x.ndim))
    return (x, *draw(st.one_of(single, st.tuples(some, some)))), {}


@st.composite
def _transposed(draw: st.DrawFn) -> Case:
    x = draw(float_arrays())
    order = st.permutations(range(x.ndim)).map(lambda axes: tuple(a - x.ndim if a % 2 else a for a in axes))
    return (x,), {"axes": draw(st.none() | order)}


@st.composite
def _joined(draw: st.DrawFn, new_axis: bool) -> Case:
    shape = draw(shapes(min_dims=0 if new_axis else 1, max_dims=2))
    axis = draw(one_axis(len(shape) + new_axis))
    lengths = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    if new_axis:
        return ([draw(float_arrays(shape)) for _ in lengths],), {"axis": axis}
    along = axis % len(shape)
    return ([draw(float_arrays((*shape[:along], n, *shape[along + 1 :]))) for n in lengths],), {"axis": axis}


@st.composite
def _stacked(draw: st.DrawFn, axis: int, flat: list[tuple[int, ...]]) -> Case:
    """For hstack and vstack: arrays that differ along one axis, or some of the shapes `flat`, which get axes in front."""
    shape = draw(shapes(min_dims=2))
    lengths = st.integers(0, 3).map(lambda n: (*shape[:axis], n, *shape[axis + 1 :]))
    found = draw(st.lists(draw(st.sampled_from([lengths, st.sampled_from(flat)])), min_size=1, max_size=3))
    return ([draw(float_arrays(shape)) for shape in found],), {}


@st.composite
def _repeated(draw: st.DrawFn) -> Case:
    x = draw(float_arrays())
    axis = draw(st.none() | one_axis(max(x.ndim, 1)))
    n = x.size if axis is None else (*x.shape, 1)[axis % max(x.ndim, 1)]
    each = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    counts = st.one_of(st.integers(0, 3), each.map(lambda counts: np.array(counts, np.int64)))
    return (x, draw(counts)), {"axis": axis}


@st.composite
def _tiled(draw: st.DrawFn) -> Case:
    count = st.integers(0, 3)
    return (draw(float_arrays(shapes(max_side=3))), draw(count | st.lists(count, max_size=4).map(tuple))), {}


@st.composite
def _split(draw: st.DrawFn) -> Case:
    shape = list(draw(shapes(min_dims=1)))
    axis = draw(one_axis(len(shape)))
    sections = draw(st.integers(1, 3))
    shape[axis] *= sections
    cuts = st.lists(st.integers(0, shape[axis]), max_size=3).map(sorted)
    return (draw(float_arrays(tuple(shape))), draw(st.one_of(st.just(sections), cuts))), {"axis": axis}


@st.composite
def _broadcast(draw: st.DrawFn, reverse: bool) -> Case:
    small = draw(shapes(max_dims=2, min_side=0, max_side=3))
    large = (*draw(shapes(max_dims=1, max_side=3)), *(n if n != 1 else draw(st.integers(0, 3)) for n in small))
    return (draw(float_arrays(large if reverse else small)), small if reverse else large), {}


@st.composite
def _padded(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=1)))
    pair = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return (x, draw(st.one_of(st.integers(0, 2), pair, st.lists(pair, min_size=x.ndim, max_size=x.ndim)))), {}


@st.composite
def _rolled(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=1)))
    axis = draw(axes(x.ndim))
    shift = st.integers(-4, 4)
    if isinstance(axis, tuple):
        return (x, draw(st.tuples(*(shift for _ in axis)))), {"axis": axis}
    return (x, draw(shift)), {"axis": axis}


@st.composite
def _index(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Basic, integer (with repeats), boolean and mixed indices."""
    kinds: list[st.SearchStrategy[Any]] = [hnp.basic_indices(shape, allow_newaxis=True), hnp.arrays(bool, shape)]
    if shape and min(shape) > 0:
        kinds.append(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
        rows: st.SearchStrategy[Any] = hnp.arrays(
            np.int64, st.integers(0, 4), elements=st.integers(-shape[0], shape[0] - 1)
        )
        kinds += [
            rows,
            rows.map(list),
            rows.map(lambda i: (i, Ellipsis)),
            rows.map(lambda i: (Ellipsis, None, i % shape[-1])),
        ]
    return draw(st.one_of(*kinds))


@st.composite
def _indexed(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    return (draw(float_arrays(shape)), draw(_index(shape))), {}


@st.composite
def _scattered(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    index = draw(_index(shape))
    found = np.zeros(shape)[index].shape
    return (draw(float_arrays(shape)), index, draw(float_arrays(draw(st.sampled_from([found, ()]))))), {}


@st.composite
def _taken(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=1, min_side=1)))
    axis = draw(st.none() | one_axis(x.ndim))
    n = x.size if axis is None else x.shape[axis]
    indices = hnp.arrays(np.int64, shapes(max_dims=2, max_side=3), elements=st.integers(-n, n - 1))
    return (x, draw(indices)), {"axis": axis}


@st.composite
def _taken_along(draw: st.DrawFn) -> Case:
    x = draw(float_arrays(shapes(min_dims=1, min_side=1)))
    axis = draw(one_axis(x.ndim))
    shape = [draw(st.sampled_from([1, n])) for n in x.shape]
    shape[axis] = draw(st.integers(0, 3))
    n = x.shape[axis]
    return (x, draw(hnp.arrays(np.int64, tuple(shape), elements=st.integers(-n, n - 1)))), {"axis": axis}


CASES: dict[str, Cases] = {
    "add": _binary(),
    "subtract": _binary(),
    "multiply": _binary(),
    "divide": _binary(b=NONZERO),
    "power": _power(),
    "maximum": _unequal(),
    "minimum": _unequal(),
    "logaddexp": _binary(),
    "negative": _unary(),
    "reciprocal": _unary(NONZERO),
    "exp": _unary(),
    "expm1": _unary(),
    "log": _unary(POSITIVE),
    "log1p": _unary([(-0.8, 2.0)]),
    "sqrt": _unary(POSITIVE),
    "square": _unary(),
    "abs": _unary(NONZERO),
    "absolute": _unary(NONZERO),
    "sin": _unary(),
    "cos": _unary(),
    "tan": _unary([(-1.2, 1.2)]),
    "arctan": _unary(),
    "sinh": _unary(),
    "cosh": _unary(),
    "tanh": _unary(),
    "sigmoid": _unary(),
    "relu": _unary(NONZERO),
    "softplus": _unary(),
    "clip": _clip(),
    "where": _where(),
    "sum": _reduction(),
    "mean": _reduction(min_side=1),
    "max": _reduction(distinct_arrays, min_side=1),
    "min": _reduction(distinct_arrays, min_side=1),
    "var": _on_shapes(_spread, min_dims=1, min_side=2, max_side=3),
    "std": _on_shapes(_spread, min_dims=1, min_side=2, max_side=3),
    "prod": _on_shapes(lambda shape: _some_axis(float_arrays(shape), ndim=len(shape), keepdims=st.booleans())),
    "cumsum": _on_shapes(lambda shape: _some_axis(float_arrays(shape), ndim=len(shape))),
    "logsumexp": _reduction(min_side=1),
    "norm": _reduction(lambda shape: float_arrays(shape, NONZERO), min_side=1),
    "reshape": _reshape(),
    "ravel": _unary(),
    "transpose": _transposed(),
    "moveaxis": _moved(),
    "swapaxes": _on_shapes(lambda s: _with(float_arrays(s), one_axis(len(s)), one_axis(len(s))), min_dims=1),
    "expand_dims": _expanded(),
    "squeeze": _squeezed(),
    "concatenate": _joined(new_axis=False),
    "stack": _joined(new_axis=True),
    "hstack": _stacked(axis=1, flat=[(), (1,), (3,)]),
    "vstack": _stacked(axis=0, flat=[(3,), (0, 3), (2, 3)]),
    "split": _split(),
    "broadcast_to": _broadcast(reverse=False),
    "sum_to": _broadcast(reverse=True),
    "pad": _padded(),
    "flip": _on_shapes(lambda shape: _with(float_arrays(shape), axis=axes(len(shape)))),
    "roll": _rolled(),
    "astype": _with(float_arrays(), st.sampled_from([np.float64, "float64"])),
    "getitem": _indexed(),
    "scatter_add": _scattered(),
    "take": _taken(),
    "repeat": _repeated(),
    "tile": _tiled(),
    "take_along_axis": _taken_along(),
    **PRODUCTS,
}
