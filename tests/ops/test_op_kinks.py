"""The stated derivatives at kinks and ties: finite at order one and two, in float64 and float32."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops

DTYPES = [np.float64, np.float32]
ZERO = [0.0, 0.0]
# function, point, gradient of its sum, Hessian of its sum
KINKS = {
    "relu": (ops.relu, ZERO, ZERO, np.zeros((2, 2))),
    "abs": (ops.abs, ZERO, ZERO, np.zeros((2, 2))),
    "sqrt": (ops.sqrt, ZERO, ZERO, np.zeros((2, 2))),
    "norm": (ops.norm, ZERO, ZERO, np.zeros((2, 2))),
    "std": (ops.std, [1.5, 1.5], ZERO, np.zeros((2, 2))),
    "maximum tie": (lambda x: ops.maximum(x, x), [1.0, -2.0], [1.0, 1.0], np.zeros((2, 2))),
    "maximum with a constant": (lambda x: ops.maximum(x, 1.0), [1.0, 2.0], [0.5, 1.0], np.zeros((2, 2))),
    "minimum with a constant": (lambda x: ops.minimum(x, 1.0), [1.0, 2.0], [0.5, 0.0], np.zeros((2, 2))),
    "clip at its limits": (lambda x: ops.clip(x, 0.0, 1.0), [0.0, 1.0], [0.5, 0.5], np.zeros((2, 2))),
    "max of ties": (lambda x: ops.max(x), [3.0, 3.0], [0.5, 0.5], np.zeros((2, 2))),
    "min of ties": (lambda x: ops.min(x), [3.0, 3.0], [0.5, 0.5], np.zeros((2, 2))),
    "x ** 1": (lambda x: x**1, ZERO, [1.0, 1.0], np.zeros((2, 2))),
    "x ** 1 at infinity": (lambda x: x**1, [np.inf, np.inf], [1.0, 1.0], np.zeros((2, 2))),
    "x ** 0 at infinity": (lambda x: x**0, [np.inf, 0.0], ZERO, np.zeros((2, 2))),
    "x ** 2": (lambda x: x**2, ZERO, ZERO, 2 * np.eye(2)),
    "x ** 3": (lambda x: x**3, ZERO, ZERO, np.zeros((2, 2))),
    "x ** 0": (lambda x: x**0, ZERO, ZERO, np.zeros((2, 2))),
    "x ** array": (lambda x: x ** np.array([2.0, 3.0], x.dtype), ZERO, ZERO, np.diag([2.0, 0.0])),
    "prod with one zero": (ops.prod, [0.0, 3.0], [3.0, 0.0], 1 - np.eye(2)),
    "prod with two zeros": (ops.prod, ZERO, ZERO, 1 - np.eye(2)),
    "norm squared": (lambda x: ops.norm(x) ** 2, ZERO, ZERO, np.zeros((2, 2))),
    "abs squared": (lambda x: ops.abs(x) ** 2, ZERO, ZERO, np.zeros((2, 2))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINKS)
def test_stated_derivatives(name, dtype):
    f, x, gradient, hessian = KINKS[name]
    x = np.array(x, dtype)
    scalar = lambda x: ops.sum(f(x))
    np.testing.assert_array_equal(tm.grad(scalar)(x), gradient)
    np.testing.assert_array_equal(tm.hessian(scalar)(x), hessian)
    for column in np.eye(2, dtype=dtype):
        np.testing.assert_array_equal(tm.jvp(scalar, (x,), (column,))[1], np.dot(gradient, column))
        np.testing.assert_array_equal(tm.hvp(scalar, x, column), hessian @ column)


def test_two_tied_arguments_of_maximum_get_half_each():
    x, y = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(tm.grad(lambda p: np.sum(np.maximum(*p)))((x, y)), ([0.5, 1], [0.5, 0]))
    np.testing.assert_array_equal(tm.grad(lambda p: np.sum(np.minimum(*p)))((x, y)), ([0.5, 0], [0.5, 1]))


def test_equal_elements_of_a_pooling_window_share_the_gradient():
    x = np.array([[1.0, 1.0, 0.0, 2.0], [1.0, 0.0, 2.0, 0.0]])
    gradient = tm.grad(lambda x: np.sum(ops.max_pool2d(x, 2)))(x)
    np.testing.assert_allclose(gradient, [[1 / 3, 1 / 3, 0, 0.5], [1 / 3, 0, 0.5, 0]], rtol=1e-15)
    scalar = lambda x: np.sum(ops.max_pool2d(x, 2) ** 3)
    assert np.isfinite(tm.hessian(scalar)(x)).all()


def test_max_over_an_axis_shares_among_the_ties_of_each_row():
    x = np.array([[2.0, 2.0, 1.0], [0.0, 3.0, 1.0]])
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(np.max(x, axis=1)))(x), [[0.5, 0.5, 0], [0, 1, 0]])


def test_where_takes_nothing_from_the_branch_that_was_not_chosen():
    x = np.array([0.0, 4.0])
    safe = lambda x: np.sum(np.where(x > 0, np.sqrt(np.where(x > 0, x, 1.0)), 0.0))
    np.testing.assert_array_equal(tm.grad(safe)(x), [0, 0.25])
    np.testing.assert_array_equal(tm.hessian(safe)(x), np.diag([0, -1 / 32]))


def test_the_exponent_of_a_zero_base_has_a_finite_derivative():
    f = lambda n: np.sum(np.array([0.0, 2.0]) ** n)
    n = np.array([2.0, 3.0])
    np.testing.assert_allclose(tm.grad(f)(n), [0, 8 * np.log(2)], rtol=1e-15)
    np.testing.assert_allclose(tm.hessian(f)(n), np.diag([0, 8 * np.log(2) ** 2]), rtol=1e-14)


def test_mixed_derivative_of_a_power_at_exponent_zero():
    x, n = np.array(0.5), np.array(0.0)
    mixed = tm.grad(lambda n: tm.grad(lambda x: x**n)(x))(n)
    np.testing.assert_allclose(mixed, 1 / x, rtol=1e-15)  # x^(n-1) (1 + n log x)


def test_logsumexp_of_excluded_classes():
    x = np.array([0.0, -np.inf, 0.0])
    np.testing.assert_array_equal(tm.grad(lambda x: ops.logsumexp(x))(x), [0.5, 0, 0.5])
    np.testing.assert_array_equal(tm.hvp(ops.logsumexp, x, np.array([1.0, 0, 0])), [0.25, 0, -0.25])


NAN = np.nan


@pytest.mark.parametrize("extreme", [np.max, np.min, lambda x, axis: ops.max_pool2d(x[:, None, :], (1, 3))])
def test_an_extreme_that_is_nan_has_the_gradient_where_x_is_nan(extreme):
    x = np.array([[1.0, NAN, 2.0], [NAN, 1.0, NAN], [3.0, 3.0, 3.0], [np.inf, np.inf, np.inf]])
    gradient = tm.grad(lambda x: np.sum(extreme(x, axis=1)))
    thirds = [1 / 3, 1 / 3, 1 / 3]
    expected = [[0, 1, 0], [0.5, 0, 0.5], thirds, thirds]
    np.testing.assert_array_equal(gradient(x), expected)
    np.testing.assert_array_equal(tm.compile(gradient)(x), expected)
    np.testing.assert_array_equal(tm.vmap(gradient)(x[None])[0], expected)
    np.testing.assert_array_equal(tm.jvp(gradient, (x,), (np.ones_like(x),))[1], np.zeros_like(x))
