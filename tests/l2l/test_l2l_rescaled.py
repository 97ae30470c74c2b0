"""l2l.problems.rescaled: other units of θ, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

from tinymeta import grad, l2l, ops, optim, trees
from tinymeta.l2l.problems import rescaled

seeds = st.integers(0, 2**32 - 1)
spreads = st.just(0.0) | st.floats(0.01, 3.0)


def mlp(rng, dtype=np.float64):
    x, y = rng.normal(size=(30, 4)).astype(dtype), np.arange(30) % 3
    return l2l.mlp_problem(x, y, rng.integers(0, 30, (2, 3, 8)), rng, hidden=(5,), sigma=0.5)


def factors(problem, scaled):
    """c, from θ_0 and θ_0 / c."""
    return trees.map(np.divide, problem.theta, scaled.theta)


def close(a, b, **tolerances):
    trees.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerances), a, b)


@given(seeds, spreads)
def test_losses_are_those_of_the_rescaled_point_and_gradients_follow_the_chain_rule(seed, spread):
    problem = mlp(np.random.default_rng(seed))
    scaled = rescaled(problem, np.random.default_rng(seed + 1), spread)
    c = factors(problem, scaled)
    theta = trees.map(lambda x: x + 0.1, scaled.theta)
    image = trees.map(np.multiply, c, theta)
    np.testing.assert_allclose(scaled.loss(theta, 1), problem.loss(image, 1), rtol=1e-9)
    total = lambda p: lambda theta: ops.sum(p.loss(theta, 1))
    close(grad(total(scaled))(theta), trees.map(np.multiply, c, grad(total(problem))(image)), rtol=1e-8, atol=1e-10)


@given(seeds, spreads)
def test_every_coordinate_has_a_factor_of_its_own_within_the_spread(seed, spread):
    problem = mlp(np.random.default_rng(seed))
    logs = [
        np.log(c).ravel() for c in trees.leaves(factors(problem, rescaled(problem, np.random.default_rng(1), spread)))
    ]
    flat = np.concatenate(logs)
    assert np.abs(flat).max() <= spread + 1e-9
    assert spread == 0 or len(np.unique(flat)) > 0.9 * len(flat)


def test_the_factors_fill_the_spread_evenly():
    problem = l2l.quadratic_problem(np.zeros((1, 2, 20_000)), np.zeros((1, 2)), np.ones((1, 20_000)))
    logs = np.log(factors(problem, rescaled(problem, np.random.default_rng(0), 2.0)))
    assert np.mean(logs) == pytest.approx(0, abs=0.03)
    assert np.std(logs) == pytest.approx(4 / np.sqrt(12), rel=0.02)


def test_the_start_is_the_same_point_and_no_spread_changes_nothing():
    problem = mlp(np.random.default_rng(0))
    scaled = rescaled(problem, np.random.default_rng(1), 3.0)
    np.testing.assert_allclose(scaled.loss(scaled.theta, 0), problem.loss(problem.theta, 0), rtol=1e-12)
    same = rescaled(problem, np.random.default_rng(1), 0.0)
    close(same.theta, problem.theta, rtol=0)
    np.testing.assert_array_equal(l2l.optimize(optim.adam(0.1), same, 4), l2l.optimize(optim.adam(0.1), problem, 4))


def test_what_does_not_see_the_scale_of_gradients_takes_steps_of_one_size_in_the_new_units():
    """ADAM on f(c θ) moves c θ by c times its steps: one step of rate lr from θ_0 / c is one of rate lr c from θ_0."""
    problem = settings.quadratics(np.random.default_rng(0), problems=1)
    scaled = rescaled(problem, np.random.default_rng(1), 1.0)
    c, adam = factors(problem, scaled), optim.adam(0.1, eps=0.0)
    gradients = [l2l.runner.losses_and_grads(p, p.theta, 0)[1] for p in (problem, scaled)]
    ours, theirs = (adam.update(g, adam.init(g))[0] for g in gradients)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert np.ptp(c) > 0.1


def test_it_is_pure_and_keeps_float32():
    problem = mlp(np.random.default_rng(0), np.float32)
    before = trees.map(np.copy, problem.theta)
    first, second = (rescaled(problem, np.random.default_rng(7), 1.0) for _ in range(2))
    close(first.theta, second.theta, rtol=0)
    close(problem.theta, before, rtol=0)
    assert {leaf.dtype for leaf in trees.leaves(first.theta)} == {np.dtype(np.float32)}
    assert first.loss(first.theta, 0).dtype == np.float32


def test_a_negative_spread_is_refused():
    with pytest.raises(ValueError, match="spread is -1, expected a finite number, 0 or more"):
        rescaled(mlp(np.random.default_rng(0)), np.random.default_rng(0), -1)
