import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maml.problems import assert_close, mse, net, points, quadratic, symmetric

import tinymeta as tm
from tinymeta import maml
from tinymeta.maml.conjugate import conjugate_gradient

seeds = st.integers(0, 2**32 - 1)


def positive(rng, *shape):
    a = rng.normal(size=shape)
    return a @ np.swapaxes(a, -1, -2) / shape[-1]


@given(seeds, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_closed_form_on_quadratics(seed, n):
    """L = φ·Aφ/2 - b·φ has φ = (A + λ)⁻¹(b + λθ), and the query loss at φ the gradient λ (A + λ)⁻¹ (Qφ - q) in θ."""
    rng, strength, tasks = np.random.default_rng(seed), 2.0, 3
    a, b = positive(rng, tasks, n, n), rng.normal(size=(tasks, n))
    q, c = positive(rng, tasks, n, n), rng.normal(size=(tasks, n))
    theta, tied = rng.normal(size=n), a + strength * np.eye(n)
    phi = np.linalg.solve(tied, (b + strength * theta)[..., None])[..., 0]
    expected = strength * np.linalg.solve(tied, (q @ phi[..., None])[..., 0][..., None] - c[..., None])[..., 0]
    lr = 1 / np.linalg.eigvalsh(tied).max()
    method = maml.implicit(lr, 400, strength, cg_steps=3 * n)
    value, gradient = method.meta_gradient(quadratic, theta, (a, b), (q, c))
    np.testing.assert_allclose(method.path(quadratic, theta, (a, b), 400)[-1], phi, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gradient, expected.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(value, np.mean(quadratic(phi, (q, c))), rtol=1e-6, atol=1e-8)


def test_unrolled_gradient_of_a_converged_inner_problem():
    rng, strength, steps = np.random.default_rng(3), 3.0, 150
    params, support, query = net(rng), points(rng, 2, 5), points(rng, 2, 4)
    method = maml.implicit(0.2, steps, strength, cg_steps=40)

    def unrolled(theta):
        """Through every step of the same descent, with θ in the penalty and as the start."""

        def tied(w, data):
            distance = sum(
                tm.ops.sum(tm.ops.square(u - v), axis=tuple(range(-v.ndim, 0)))
                for u, v in zip(tm.trees.leaves(w), tm.trees.leaves(theta), strict=True)
            )
            return mse(w, data) + 0.5 * strength * distance

        return tm.ops.mean(mse(maml.adapt(tied, theta, support, 0.2, steps), query))

    value, gradient = tm.value_and_grad(unrolled)(params)
    assert_close(method.meta_gradient(mse, params, support, query), (value, gradient), rtol=1e-6, atol=1e-9)


@given(seeds, st.integers(1, 6), st.sampled_from([(), (3,), (2, 2)]))
@settings(max_examples=25, deadline=None)
def test_conjugate_gradient_solves_each_system(seed, n, tasks):
    rng = np.random.default_rng(seed)
    a, b = positive(rng, *tasks, n, n) + np.eye(n), {"u": rng.normal(size=(*tasks, n))}
    matvec = lambda tree: {"u": (a @ tree["u"][..., None])[..., 0]}
    found = conjugate_gradient(matvec, b, 2 * n, {"u": np.zeros(n)})
    np.testing.assert_allclose(found["u"], np.linalg.solve(a, b["u"][..., None])[..., 0], rtol=1e-6, atol=1e-9)


def test_conjugate_gradient_stays_where_a_system_is_solved():
    b = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(conjugate_gradient(lambda v: 2 * v, b, 5, np.zeros(2)), b / 2)


def test_more_steps_of_conjugate_gradient_come_closer():
    rng = np.random.default_rng(5)
    a = positive(rng, 6, 6) + 0.1 * np.eye(6)
    b, x = rng.normal(size=6), None
    errors = []
    for steps in range(7):
        x = conjugate_gradient(lambda v: a @ v, b, steps, b)
        residual = np.linalg.solve(a, b) - x
        errors.append(residual @ a @ residual)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-12 * errors[0]


def test_strength():
    with pytest.raises(ValueError, match="strength = 0, expected λ > 0"):
        maml.implicit(0.1, 1, 0)


def test_a_strong_tie_is_first_order_maml_of_no_steps():
    """λ → ∞ keeps φ at θ, where the meta-gradient is that of the query loss."""
    rng = np.random.default_rng(6)
    params, support, query = net(rng), points(rng, 2, 5), points(rng, 2, 4)
    strength = 1e7
    _, gradient = maml.implicit(1 / strength, 5, strength).meta_gradient(mse, params, support, query)
    assert_close(gradient, tm.grad(lambda p: tm.ops.mean(mse(p, query)))(params), rtol=1e-4, atol=1e-5)


def test_indefinite_hessians_are_met_with_a_large_strength():
    rng = np.random.default_rng(7)
    a, b, theta = symmetric(rng, 4, 4), rng.normal(size=4), rng.normal(size=4)
    strength = 2 * np.abs(np.linalg.eigvalsh(a)).max()
    _, gradient = maml.implicit(0.3 / strength, 300, strength, 8).meta_gradient(quadratic, theta, (a, b), (a, b))
    phi = np.linalg.solve(a + strength * np.eye(4), b + strength * theta)
    expected = strength * np.linalg.solve(a + strength * np.eye(4), a @ phi - b)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
