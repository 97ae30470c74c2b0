"""float32 in, float32 out: value, cotangents, tangents and Hessian products; and empty arrays pass through everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies
from tinymeta.check.cases import CASES
from tinymeta.engine import trees


def as_dtype(tree, dtype):
    return trees.map(lambda x: x.astype(dtype), tree)


def scalar_of(f):
    return lambda arrays: sum((ops.sum(ops.square(y)) for y in trees.leaves(f(*arrays))), start=ops.sum(np.float32([])))


@pytest.mark.parametrize("name", [name for name in CASES if name != "astype"])
@settings(max_examples=8)
@given(data=st.data())
def test_float32_stays_float32_and_agrees_with_float64(name, data):
    case = data.draw(strategies.arrays_for(name, dtype=np.float32))
    f, xs = strategies.as_function(getattr(ops, name), *case)
    precise_f, precise_xs = strategies.as_function(getattr(ops, name), as_dtype_of_case(case[0]), case[1])
    y, pull = tm.vjp(f, *xs)
    v = [np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape) for x in xs]
    push = tm.jvp(f, xs, v)[1]
    gradient, curvature = tm.grad(scalar_of(f))(xs), tm.hvp(scalar_of(f), xs, v)
    backward = tm.hvp(scalar_of(f), xs, v, mode="reverse-over-reverse")
    for result in (y, list(pull(y)), push, gradient, curvature, backward):
        assert {np.asarray(leaf).dtype for leaf in trees.leaves(result)} <= {np.dtype(np.float32)}
    precise = tm.grad(scalar_of(precise_f))(precise_xs)
    scale = 1 + max((np.max(np.abs(g), initial=0) for g in precise), default=0)
    for got, expected in zip(gradient, precise, strict=True):
        np.testing.assert_allclose(got / scale, expected / scale, atol=2e-4)


def as_dtype_of_case(args):
    return trees.map(lambda x: x.astype(np.float64) if getattr(x, "dtype", None) == np.float32 else x, args)


def test_a_cast_inside_a_function_gives_the_cotangent_in_the_dtype_of_the_input():
    x = np.float32([1, 2])
    gradient = tm.grad(lambda x: np.sum(ops.astype(x, np.float64) ** 3))(x)
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, [3, 12])
    assert tm.hvp(lambda x: np.sum(x.astype(np.float64) ** 3), x, x).dtype == np.float32


def test_a_cast_to_integers_ends_the_gradient():
    x = np.array([1.2, 2.7])
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(x * x.astype(np.int64)))(x), [1, 2])


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize(
    "name", ["exp", "add", "sum", "prod", "cumsum", "reshape", "concatenate", "getitem", "flip", "where"]
)
def test_empty_arrays_have_empty_gradients_at_every_order(name, shape):
    functions = {
        "reshape": lambda x: ops.reshape(x, x.shape[::-1]),
        "concatenate": lambda x: ops.concatenate([x, x], axis=-1),
        "add": lambda x: x + x,
        "getitem": lambda x: x[..., :1],
        "where": lambda x: ops.where(np.ones(shape, bool), x, 0.0),
    }
    f = functions.get(name, getattr(ops, name))
    x = np.zeros(shape)
    assert tm.grad(lambda x: np.sum(ops.square(f(x))))(x).shape == shape
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        assert tm.hvp(lambda x: np.sum(ops.square(f(x))), x, x, mode).shape == shape
    assert tm.hessian(lambda x: np.sum(ops.square(f(x))))(x).shape == shape + shape


def test_the_mean_over_an_empty_batch_axis_of_other_axes_is_empty():
    x = np.zeros((0, 3))
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(ops.mean(x, axis=1)))(x), x)
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(ops.var(x, axis=1)))(x), x)
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(ops.max(x, axis=1)))(x), x)


def test_an_empty_jacobian_has_the_dtype_of_the_input():
    jacobian = tm.jacobian(lambda x: x[:0])(np.ones(3, np.float32))
    assert jacobian.shape == (0, 3)
    assert jacobian.dtype == np.float32


def test_cumsum_of_a_number_has_one_entry():
    """As in NumPy, for which a number has an axis 0 here."""
    for axis in (None, 0, -1):
        np.testing.assert_array_equal(ops.cumsum(2.0, axis), np.cumsum(2.0, axis))
        assert tm.grad(lambda x, axis=axis: ops.sum(ops.cumsum(x, axis)))(2.0) == 1
        np.testing.assert_array_equal(
            tm.vmap(lambda x, axis=axis: np.cumsum(x, axis=axis))(np.arange(3.0)), [[0], [1], [2]]
        )
    with pytest.raises(np.exceptions.AxisError):
        ops.cumsum(2.0, 1)
