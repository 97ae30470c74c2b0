"""Derivatives of derivatives: closures, perturbation confusion, and seven ways to one Hessian."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies

RNG = np.random.default_rng(7)


def test_a_variable_that_comes_in_by_closure_is_differentiated():
    assert tm.grad(lambda x: tm.grad(lambda y: x * y)(2.0))(3.0) == 1
    assert tm.grad(lambda x: x * tm.grad(lambda y: x * x * y)(2.0))(3.0) == 27
    assert tm.grad(lambda x: tm.jvp(lambda y: x * y * y, (2.0,), (1.0,))[1])(3.0) == 4
    assert tm.jvp(lambda x: tm.grad(lambda y: x * y)(2.0), (3.0,), (1.0,))[1] == 1
    assert tm.jvp(lambda x: tm.jvp(lambda y: x * y, (2.0,), (1.0,))[1], (3.0,), (1.0,))[1] == 1


def test_three_levels_of_closures():
    f = lambda x: tm.grad(lambda y: tm.grad(lambda z: x * y * z * z)(x) * y)(x)  # d/dy 2 x² y² at y = x: 4 x³
    np.testing.assert_allclose(tm.grad(f)(1.5), 12 * 1.5**2, rtol=1e-14)


def derivative(f):
    return lambda x: tm.jvp(f, (x,), (np.ones_like(x),))[1]


@pytest.mark.parametrize("outer", [tm.grad, derivative])
@pytest.mark.parametrize("inner", [tm.grad, derivative])
def test_perturbations_are_not_confused(outer, inner):
    """d/dx (x d/dy (x + y)) = 1, where confusing the two perturbations gives 2; and its relatives."""
    one, three = np.array(1.0), np.array(3.0)
    assert outer(lambda x: x * inner(lambda y: x + y)(one))(one) == 1
    assert outer(lambda x: x * inner(lambda y: x + y)(x))(one) == 1
    assert outer(lambda x: x * inner(lambda y: x * x)(one))(one) == 0
    assert outer(lambda x: inner(lambda y: x * y)(x) * x)(three) == 6


def test_a_derivative_that_does_not_depend_on_the_outer_variable_is_constant_in_it():
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(x) * tm.grad(lambda y: y**3)(2.0))(np.ones(3)), [12, 12, 12])
    np.testing.assert_array_equal(tm.grad(lambda x: tm.grad(lambda y: y**3)(2.0) + 0 * np.sum(x))(np.ones(2)), [0, 0])


def test_the_same_function_differentiated_again_and_again():
    f, x, expected = np.exp, np.array(0.3), np.exp(0.3)
    for _ in range(6):
        f = tm.grad(f)
        np.testing.assert_allclose(f(x), expected, rtol=1e-14)


def test_a_node_used_twice_receives_both_cotangents():
    assert tm.grad(lambda a: (lambda b: b * b + b)(a + a))(2.0) == 18  # b = 2a: (2b + 1) 2
    assert tm.grad(lambda a: a + a)(2.0) == 2
    assert tm.grad(lambda p: p[0] * p[0] + p[1])([3.0, 4.0]) == [6, 1]
    shared = np.array(2.0)
    assert tm.grad(lambda a, b: a * b, argnums=(0, 1))(shared, shared) == (2, 2)


def test_a_gradient_step_inside_a_gradient():
    """One step of MAML on a quadratic: w' = w - a A w, and the outer gradient (1 - a A)ᵀ B w'."""
    a, b = (m + m.T for m in RNG.normal(size=(2, 3, 3)))
    w, lr = RNG.normal(size=3), 0.1
    inner = lambda w: 0.5 * (w @ a @ w)
    outer = lambda w: 0.5 * (w @ b @ w)
    meta = tm.grad(lambda w: outer(w - lr * tm.grad(inner)(w)))(w)
    step = np.eye(3) - lr * a
    np.testing.assert_allclose(meta, step.T @ b @ step @ w, rtol=1e-13)


def test_stop_gradient_makes_the_first_order_approximation():
    a = RNG.normal(size=(3, 3))
    a, w = a + a.T, RNG.normal(size=3)
    inner = lambda w: 0.5 * (w @ a @ w)
    meta = tm.grad(lambda w: inner(w - 0.1 * tm.stop_gradient(tm.grad(inner)(w))))(w)
    np.testing.assert_allclose(meta, a @ (w - 0.1 * a @ w), rtol=1e-13)


FEATURES, LABELS = RNG.normal(size=(5, 3)), np.array([0, 1, 1, 0, 1])
IMAGES = RNG.normal(size=(2, 1, 4, 4))
MASK = RNG.normal(size=(2, 2, 1, 1))


def logistic(w):
    return ops.mean(ops.softmax_cross_entropy(np.tanh(FEATURES @ w.reshape(3, 2)), LABELS))


def normalised(w):
    h = ops.batch_norm(FEATURES @ w.reshape(3, 2), w[:2], w[1:3], axis=0)
    return np.sum(np.sin(h) ** 2)


def convolved(w):
    return np.sum(ops.max_pool2d(ops.conv2d(IMAGES, w[:4].reshape(1, 1, 2, 2), padding=1), 2) ** 2) * w[4] + w[5] ** 3


def rational(w):
    return np.prod(w) / (1 + np.sum(w * w)) + ops.logsumexp(w) * ops.norm(w)


def inner(f):
    """The gradient's inner product with v as a function of w."""
    return lambda w, v: np.sum(tm.grad(f)(w) * v)


def columns(product, n):
    """The matrix of a linear map, one unit vector at a time."""
    return np.stack([product(e) for e in np.eye(n)], axis=1)


def twice_forward(f, w, v):
    """Every unit vector's second directional derivative with v, two forward sweeps each."""
    mixed = lambda u: tm.jvp(lambda w: tm.jvp(f, (w,), (u,))[1], (w,), (v,))[1]
    return np.array([mixed(u) for u in np.eye(w.size)])


def finite_differences(f, w, step=1e-5):
    return columns(lambda e: (tm.grad(f)(w + step * e) - tm.grad(f)(w - step * e)) / (2 * step), w.size)


WAYS = {
    "jvp of grad": lambda f, w: columns(lambda v: tm.jvp(tm.grad(f), (w,), (v,))[1], w.size),
    "grad of inner product": lambda f, w: columns(lambda v: tm.grad(lambda w: inner(f)(w, v))(w), w.size),
    "jacobian of grad": lambda f, w: tm.jacobian(tm.grad(f))(w),
    "hessian": lambda f, w: tm.hessian(f)(w),
    "grad of jvp": lambda f, w: columns(lambda v: tm.grad(lambda w: tm.jvp(f, (w,), (v,))[1])(w), w.size),
    "linearize of grad": lambda f, w: columns(tm.linearize(tm.grad(f), w)[1], w.size),
    "vjp of grad": lambda f, w: columns(lambda v: tm.vjp(tm.grad(f), w)[1](v)[0], w.size),
    "jvp of jvp": lambda f, w: columns(lambda v: twice_forward(f, w, v), w.size),
    "checkpointed": lambda f, w: tm.hessian(tm.checkpoint(f))(w),
    "hvp": lambda f, w: columns(lambda v: tm.hvp(f, w, v, "reverse-over-reverse"), w.size),
}


@pytest.mark.parametrize("f", [logistic, normalised, convolved, rational])
def test_ten_ways_to_one_hessian_agree(f):
    w = np.random.default_rng(11).normal(size=6)
    hessians = {name: way(f, w) for name, way in WAYS.items()}
    expected = hessians["jvp of grad"]
    scale = np.max(np.abs(expected))
    assert scale > 1e-2
    for name, found in hessians.items():
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * scale, err_msg=name)
    np.testing.assert_allclose(finite_differences(f, w), expected, rtol=0, atol=1e-8 * scale)


@settings(max_examples=10)
@given(program=strategies.compositions(max_steps=4), w=strategies.float_arrays((4,)))
def test_the_ways_agree_on_random_programs(program, w):
    f = lambda w: program(w.reshape(2, 2))
    expected = WAYS["jvp of grad"](f, w)
    for name, way in WAYS.items():
        np.testing.assert_allclose(way(f, w), expected, rtol=1e-11, atol=1e-12, err_msg=name)


@given(order=st.permutations(["grad", "jvp", "vjp", "linearize"]), x=st.floats(-1, 1))
def test_any_stack_of_derivatives_gives_the_same_number(order, x):
    """Four nested derivatives of exp(2 x), each taken by another transform, are 16 exp(2 x) in every order."""
    one = {
        "grad": tm.grad,
        "jvp": lambda f: lambda x: tm.jvp(f, (x,), (1.0,))[1],
        "vjp": lambda f: lambda x: tm.vjp(f, x)[1](1.0)[0],
        "linearize": lambda f: lambda x: tm.linearize(f, x)[1](1.0),
    }
    f = lambda x: np.exp(2 * x)
    for name in order:
        f = one[name](f)
    np.testing.assert_allclose(f(x), 16 * np.exp(2 * x), rtol=1e-13)


def test_a_variable_of_another_threads_derivative_is_refused():
    """There, nothing would say that it is one: the gradient of the product in x would be 0."""

    def f(x):
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(lambda: tm.grad(lambda y: x * y)(2.0)).result()

    with pytest.raises(
        TypeError, match="depends on a Tensor of a derivative that has ended, or that runs in another thread"
    ):
        tm.grad(f)(3.0)


def test_a_variable_of_a_derivative_that_has_ended_is_refused():
    kept = []
    tm.grad(lambda x: kept.append(x) or x * x)(3.0)
    with pytest.raises(TypeError, match="depends on a Tensor of a derivative that has ended"):
        tm.grad(lambda y: kept[0] * y)(2.0)
    assert tm.grad(lambda y: tm.stop_gradient(kept[0]) * y)(2.0) == 3
