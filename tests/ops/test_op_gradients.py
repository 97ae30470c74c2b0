"""Every differentiable op against finite differences at order two (some at three), the adjoint identity and linearity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import check, ops
from tinymeta.check import strategies, table
from tinymeta.check.cases import CASES


def symmetric_cholesky(a):
    """Only the symmetric part of cholesky's gradient is defined, so it is checked along symmetric directions."""
    return ops.cholesky((a + ops.swapaxes(a, -1, -2)) / 2)


FUNCTIONS = {"cholesky": symmetric_cholesky}


def function_of(name, case):
    return strategies.as_function(FUNCTIONS.get(name, getattr(ops, name)), *case)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10)
@given(data=st.data())
def test_second_order_in_every_nesting(name, data):
    f, xs = function_of(name, data.draw(strategies.arrays_for(name)))
    check.gradients(f, *xs, order=2, name=name)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=10)
@given(data=st.data())
def test_exact_laws(name, data):
    f, xs = function_of(name, data.draw(strategies.arrays_for(name)))
    check.adjoint(f, *xs, name=name)
    check.linearity(f, *xs, name=name)
    check.hvp_symmetry(lambda arrays: total_square(f(*arrays)), xs, name=name)


def total_square(outputs):
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return sum((ops.sum(ops.square(y)) for y in outputs), start=ops.sum(np.zeros(0)))


THIRD_ORDER = [
    "batch_norm",
    "conv2d",
    "max_pool2d",
    "softmax_cross_entropy",
    "matmul",
    "power",
    "prod",
    "solve",
    "einsum",
    "std",
]


@pytest.mark.parametrize("name", THIRD_ORDER)
def test_third_order_in_every_nesting(name):
    for row in table.ROWS:
        if row.op == name:
            report = check.gradients(row.function, *row.arrays(), order=3, name=row.name)
            assert len(report.errors) == 2 + 4 + 8


@pytest.mark.parametrize("name", ["batch_norm", "conv2d", "max_pool2d", "softmax_cross_entropy"])
@settings(max_examples=3)
@given(data=st.data())
def test_third_order_at_random_shapes(name, data):
    f, xs = function_of(name, data.draw(strategies.arrays_for(name)))
    check.gradients(f, *xs, order=3, name=name)


@settings(max_examples=15)
@given(program=strategies.compositions(), x=strategies.float_arrays((3, 3)))
def test_random_compositions(program, x):
    check.gradients(program, x, order=2)
    check.hvp_symmetry(program, x)
    check.adjoint(program, x)


BINARY = ["add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "logaddexp"]


@pytest.mark.parametrize("name", BINARY)
@given(data=st.data())
def test_the_cotangent_of_a_broadcast_input_is_the_sum_over_its_copies(name, data):
    (x, y), _ = data.draw(strategies.arrays_for(name).filter(lambda case: isinstance(case[0][1], np.ndarray)))
    shape = np.broadcast_shapes(x.shape, y.shape)
    g = data.draw(strategies.float_arrays(shape))
    op = getattr(ops, name)
    given_back = tm.vjp(op, x, y)[1](g)
    copies = tm.vjp(op, np.broadcast_to(x, shape), np.broadcast_to(y, shape))[1](g)
    for got, spread, original in zip(given_back, copies, (x, y), strict=True):
        assert got.shape == original.shape
        np.testing.assert_allclose(got, ops.sum_to(spread, original.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("...ij,...jk->...ik", [(1, 2, 3), (4, 3, 2)]),
        ("...i,...i", [(2, 1, 3), (4, 3)]),
        ("i...,...->i...", [(3, 1), (2,)]),
        ("...ii->...", [(2, 3, 3)]),
    ],
)
def test_leading_axes_of_einsum_broadcast(subscripts, shapes):
    rng = np.random.default_rng(0)
    check.gradients(lambda *xs: ops.einsum(subscripts, *xs), *(rng.normal(size=shape) for shape in shapes))


@pytest.mark.parametrize("shapes", [((2, 3, 0), (0, 5)), ((0, 3, 4), (4, 5)), ((2, 0, 4), (4,)), ((0,), (2, 0, 3))])
def test_matrix_products_over_empty_axes(shapes):
    report = check.gradients(ops.matmul, *map(np.ones, shapes))
    assert len(report.errors) == 6
