"""The exact laws: they hold for right rules to rounding and fail for wrong ones, in float64 and float32."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import check, ops
from tinymeta.engine.tensor import Prim, value

RNG = np.random.default_rng(5)
A, B = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))


def product(vjp_a=lambda g, a, b: g @ b.T, jvp=None, forward=np.matmul):
    vjps = (lambda g, y, a, b: vjp_a(g, a, b), lambda g, y, a, b: a.T @ g)
    prim = Prim("product", forward, vjps, jvp=jvp and (lambda dots, y, a, b: jvp(dots, a, b)))
    return lambda a, b: prim(a, b)


def pushed(dots, a, b):
    return sum(
        (
            t
            for t in (None if dots[0] is None else dots[0] @ b, None if dots[1] is None else a @ dots[1])
            if t is not None
        ),
        0.0,
    )


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-14), (np.float32, 1e-5)])
def test_right_rules_obey_every_law_to_rounding(dtype, bound):
    a, b = A.astype(dtype), B.astype(dtype)
    for f in (product(), product(jvp=pushed)):
        assert check.adjoint(f, a, b).worst < bound
        assert check.linearity(f, a, b).worst < bound
    report = check.hvp_symmetry(lambda p: np.sum(np.tanh(p["a"] @ p["b"]) ** 2), {"a": a, "b": b})
    assert report.worst < bound
    assert set(report.errors) == {"forward-over-reverse = reverse-over-reverse", "symmetry of the Hessian"}


def test_a_vjp_that_is_not_the_transpose_of_the_jvp():
    f = product(vjp_a=lambda g, a, b: 2 * (g @ b.T), jvp=pushed)
    with pytest.raises(
        check.CheckError,
        match=r"adjoint of product, argument 0, float64\[3,4\]: <u, J v> and <Jᵀ u, v> are .* and .* \(rel",
    ):
        check.adjoint(f, A, B, name="product")


def test_a_vjp_that_is_not_linear_in_its_cotangent():
    f = product(vjp_a=lambda g, a, b: abs(g) @ b.T, jvp=pushed)
    with pytest.raises(check.CheckError, match=r"linearity of VJP of product, argument 0, float64\[3,4\]"):
        check.linearity(f, A, B, name="product")


def test_a_vjp_with_a_constant_term():
    f = product(vjp_a=lambda g, a, b: g @ b.T + 1e-6, jvp=pushed)
    with pytest.raises(check.CheckError, match="linearity of VJP of product, argument 0"):
        check.linearity(f, A, B, name="product")


def test_a_jvp_that_is_not_linear_in_its_tangent():
    f = product(jvp=lambda dots, a, b: pushed(dots, a, b) ** 2)
    with pytest.raises(check.CheckError, match=r"linearity of JVP of product, output 0, float64\[3,2\]"):
        check.linearity(f, A, B, name="product")


def test_a_wrong_second_order_breaks_the_symmetry_of_the_hessian():
    """The rule holds one factor fixed as a raw array: its gradient is right, its Hessian is not symmetric."""
    prim = Prim("dot", np.dot, (lambda g, y, a, b: g * value(b), lambda g, y, a, b: g * a))
    f = lambda x: prim(np.sin(x), np.cos(A.T @ A @ x))
    x = RNG.normal(size=4)
    check.gradients(f, x, order=1)
    with pytest.raises(check.CheckError, match="of f, "):
        check.hvp_symmetry(f, x, name="f")


def test_two_roads_to_the_hessian_that_differ():
    """A JVP rule that is right at order one and raw at order two: only forward-over-reverse goes wrong."""
    inner = Prim("cosine", np.cos, (lambda g, y, x: -g * ops.sin(x),), jvp=lambda dots, y, x: -2 * dots[0] * ops.sin(x))
    outer = Prim("sine", np.sin, (lambda g, y, x: g * inner(x),))
    with pytest.raises(
        check.CheckError, match=r"forward-over-reverse = reverse-over-reverse of f, argument 0, float64\[3\]"
    ):
        check.hvp_symmetry(lambda x: np.sum(outer(x)), np.array([0.3, 0.7, -0.4]), name="f")


def test_nan_never_passes():
    broken = Prim("broken", np.exp, (lambda g, y, x: g * np.nan,), jvp=lambda dots, y, x: dots[0] * y)
    for law in (check.adjoint, check.linearity):
        with pytest.raises(check.CheckError, match="nan"):
            law(lambda x: broken(x), np.ones(2))
    with pytest.raises(check.CheckError, match="nan"):
        check.gradients(lambda x: broken(x), np.ones(2))


def test_a_function_without_floats_has_nothing_to_check():
    for law in (check.adjoint, check.linearity, check.gradients):
        with pytest.raises(check.CheckError, match="mask returned no array of floats, so it has no derivative"):
            law(lambda x: x > 0, np.ones(2), name="mask")


def test_symmetry_needs_a_scalar():
    with pytest.raises(ValueError, match="expected a scalar"):
        check.hvp_symmetry(np.sin, np.ones(2))


def test_a_derivative_is_itself_a_function_to_check():
    loss = lambda w: np.sum(np.tanh(A @ w) ** 2)
    check.adjoint(tm.grad(loss), B)
    check.linearity(lambda w: tm.jvp(loss, (w,), (B,))[1], B + 1)
