"""The Gaussian policy against the density written out, and its divergence against numerical integration."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import nets, rl
from tinymeta.engine import trees
from tinymeta.rl.policy import distribution, divergence, log_prob, sample


def test_log_prob_is_the_log_of_the_gaussian_density(policy):
    rng = np.random.default_rng(0)
    policy = policy._replace(log_std=np.array([-0.3, 0.4]))
    x, a = rng.normal(size=(7, 2)), rng.normal(size=(7, 2))
    mean, std = nets.mlp(policy.layers, x), np.exp(policy.log_std)
    density = np.prod(np.exp(-(((a - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi)), axis=1)
    np.testing.assert_allclose(log_prob(policy, x, a), np.log(density), rtol=1e-12)


def test_divergence_is_the_integral_of_p_log_p_over_q():
    grid = np.linspace(-30, 30, 200_001)
    (m, s), (n, r) = (0.3, -0.2), (-0.9, 0.5)
    log_density = lambda mean, log_std: -(((grid - mean) / np.exp(log_std)) ** 2) / 2 - log_std - np.log(2 * np.pi) / 2
    p, q = log_density(m, s), log_density(n, r)
    integral = np.trapezoid(np.exp(p) * (p - q), grid)
    found = divergence((np.array([[m]]), np.array([s])), (np.array([[n]]), np.array([r])))
    np.testing.assert_allclose(found, [integral], rtol=1e-9)


def test_divergence_from_itself_is_zero_with_zero_gradient(policy):
    x = np.random.default_rng(0).normal(size=(4, 2))
    here = distribution(policy, x)
    value, gradient = tm.value_and_grad(lambda p: tm.ops.sum(divergence(here, distribution(p, x))))(policy)
    assert value == 0
    assert all(not g.any() for g in trees.leaves(gradient))


def test_derivatives_of_log_prob(policy):
    rng = np.random.default_rng(0)
    x, a = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    tm.check.gradients(lambda p: tm.ops.sum(log_prob(p, x, a)), policy, order=2)


def test_samples_have_the_policys_moments(policy):
    policy = policy._replace(log_std=np.array([-1.0, 0.5]))
    x = np.broadcast_to([0.2, -0.1], (40_000, 2))
    drawn = sample(policy, x, np.random.default_rng(0))
    mean, std = nets.mlp(policy.layers, x[:1])[0], np.exp(policy.log_std)
    error = 5 * std / np.sqrt(len(x))
    assert (abs(drawn.mean(axis=0) - mean) < error).all()
    assert (abs(drawn.std(axis=0) - std) < error).all()


def test_one_policy_per_task_is_each_tasks_own(policy):
    rng = np.random.default_rng(0)
    other = rl.init_policy(rng, 2, 2, (5,), np.float64)
    both = trees.map(lambda p, q: np.stack([p, q]), policy, other)
    x, a = rng.normal(size=(2, 2, 3, 2))
    np.testing.assert_allclose(log_prob(both, x, a)[0], log_prob(policy, x[0], a[0]), rtol=1e-12)
    np.testing.assert_allclose(log_prob(both, x, a)[1], log_prob(other, x[1], a[1]), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype(dtype):
    policy = rl.init_policy(np.random.default_rng(0), 3, 2, (4,), dtype)
    assert {x.dtype for x in trees.leaves(policy)} == {np.dtype(dtype)}
    assert sample(policy, np.zeros((5, 3), dtype), np.random.default_rng(0)).dtype == dtype


def test_actions_of_another_size_are_refused():
    policy = rl.init_policy(np.random.default_rng(0), 2, 1, (3,))
    for shape in ((5, 2), (1, 1), (4, 1)):
        with pytest.raises(ValueError, match=r"log_prob: actions are .*, expected one for each observation: \[5, 1\]"):
            log_prob(policy, np.zeros((5, 2), np.float32), np.zeros(shape, np.float32))
