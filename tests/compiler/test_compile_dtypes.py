"""Dtypes beside one float: mixed operands, integers and masks give NumPy's numbers and dtypes, by machine code or without it."""

from __future__ import annotations

import numpy as np
import pytest
from compiler.machine_code import assert_close, check
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.ops import indexing

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")
pytestmark = pytest.mark.usefixtures("machine_code")
NAMES = ("bool", "int32", "int64", "float32", "float64")


def drawn(rng, shape, dtype):
    return (4 * rng.normal(size=shape)).astype(dtype)


def check_numbers(f, *args, factor=64.0):
    """f compiled, by whatever backend, against f."""
    compiled, expected = tm.compile(f), f(*args)
    for _ in range(2):
        assert_close(compiled(*args), expected, factor)
    return compiled


@given(
    dtypes=st.tuples(*[st.sampled_from(NAMES)] * 2), sizes=st.tuples(*[st.integers(1, 9)] * 3),
    lead=st.sampled_from([(), (3,)]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_products_of_any_two_dtypes(dtypes, sizes, lead, seed):
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    a, b = drawn(rng, (*lead, m, k), dtypes[0]), drawn(rng, (k, n), dtypes[1])
    compiled = check_numbers(lambda a, b: a @ b, a, b)
    assert compiled.backend == ("llvm" if (a @ b).dtype.kind == "f" else "numpy")


def test_a_product_whose_first_numbers_hide_that_they_are_misread():
    compiled, b = tm.compile(lambda a, b: a @ b), np.ones((3, 2))
    compiled(np.zeros((2, 3), int), b)
    np.testing.assert_array_equal(compiled(np.ones((2, 3), int), b), np.full((2, 2), 3.0))


def test_the_gradient_of_a_product_of_two_dtypes():
    check(tm.grad(lambda w: ops.mean(ops.square(np.ones((4, 3)) @ w))), np.ones((3, 2), np.float32))


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32"), ("int64", "float32")])
def test_convolutions_of_two_dtypes_and_their_gradients(dtypes):
    rng = np.random.default_rng(0)
    x, w = drawn(rng, (2, 3, 6, 6), dtypes[0]), drawn(rng, (4, 3, 3, 3), dtypes[1])
    check(lambda x, w: ops.conv2d(x, w, padding=1), x, w)
    check(tm.grad(lambda w, x: ops.sum(ops.square(ops.conv2d(x, w))), (0, 1) if x.dtype.kind == "f" else 0), w, x)


OTHERS = {
    "max of a mask": lambda a, i: (np.max(a > 0), np.min(a > 0, axis=0)),
    "integers added at indices": lambda a, i: ops.scatter_add(np.zeros(5, int), i, 1) + 0 * a,
    "masks added at indices": lambda a, i: indexing.put((a > 0), (i,), (5,)),
    "a mask put into a slice": lambda a, i: indexing.put((a > 0), slice(1, 6), (7,)),
    "compared with a number that int32 lacks": lambda a, i: ops.where(a.astype(np.int32) > 2**40, 1.0, 2.0),
    "sum of a mask": lambda a, i: (np.sum(a > 0), np.mean(a > 0)),
}


@pytest.mark.parametrize("what", OTHERS)
def test_integers_and_masks(what):
    check_numbers(OTHERS[what], np.array([1, 0, 2, -3, 0]), np.array([0, 3, 1, 1, 4]))


@pytest.mark.parametrize("narrow", [np.float16, np.float32])
def test_a_result_is_as_exact_as_the_narrowest_floats_on_the_way_to_it(narrow):
    x = np.random.default_rng(0).normal(size=50)
    through = lambda x: np.tanh(np.exp(x.astype(narrow)))
    for f in (lambda x: through(x).astype(np.float64), tm.grad(lambda x: np.sum(through(x)))):
        assert tm.compile(f)(x).dtype == np.float64
    wide = tm.compile(lambda x: (np.exp(x), x.astype(narrow)))
    np.testing.assert_allclose(wide(x)[0], np.exp(x), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64"])
def test_the_source_of_a_maximum_runs(dtype):
    x = drawn(np.random.default_rng(0), (3, 4), dtype) - drawn(np.random.default_rng(1), (3, 4), dtype) * 9
    check(lambda x: (ops.max(x, axis=1), ops.min(x), ops.sum(x, axis=0), ops.max(-x * x - 1)), x)
