"""The inner and outer losses: their derivatives against finite differences, through adaptation, to second order and by HVP."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import rl
from tinymeta.engine import trees

LR = 0.3


def test_the_policy_gradient_loss_gives_reinforce(policy, sampled):
    """Its gradient is the weighted mean of -A times the score of each transition."""
    data = trees.map(lambda x: x[0], sampled.before)
    gradient = tm.grad(rl.policy_gradient_loss)(policy, data)
    score = tm.grad(lambda p, x, a: tm.ops.sum(rl.policy.log_prob(p, x[None], a[None])))
    total = trees.map(np.zeros_like, policy)
    for x, a, advantage, weight in zip(*data, strict=True):
        total = trees.map(lambda t, g, c=advantage * weight: t - c * g, total, score(policy, x, a))
    for found, expected in zip(trees.leaves(gradient), trees.leaves(total), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("objective", [rl.surrogate_loss, rl.kl_divergence])
def test_derivatives_through_adaptation(policy, sampled, objective):
    moved = trees.map(lambda x: x + 0.05, policy)  # with biases 0 the start, x = 0, is on every ReLU's kink
    tm.check.gradients(lambda p: objective(p, sampled, LR), moved, order=2)


def test_the_surrogate_is_minus_the_mean_advantage_where_it_was_sampled(policy, sampled):
    np.testing.assert_allclose(rl.surrogate_loss(policy, sampled, LR), 0, atol=1e-12)
    assert rl.kl_divergence(policy, sampled, LR) == pytest.approx(0, abs=1e-12)


def adapted_by_hand(policy, batch, t):
    """Task t's W, b and log σ of a linear policy after one step of REINFORCE."""
    (w, b), log_std = policy.layers[0], policy.log_std
    up = [np.zeros_like(p) for p in (w, b, log_std)]
    for x, a, advantage, weight in zip(*(part[t] for part in batch or ()), strict=True):
        z = (a - x @ w - b) / np.exp(log_std)
        for total, score in zip(up, (np.outer(x, z / np.exp(log_std)), z / np.exp(log_std), z**2 - 1), strict=True):
            total += weight * advantage * score
    return [p + LR * u for p, u in zip((w, b, log_std), up, strict=True)]


@pytest.mark.parametrize("adapts", [False, True])
def test_the_objectives_are_their_formulas_where_another_policy_sampled(adapts):
    rng = np.random.default_rng(0)
    policy = rl.init_policy(rng, 3, 2, (), np.float64)._replace(log_std=np.array([-0.3, 0.4]))
    before, after = (
        rl.Transitions(
            rng.normal(size=(2, 5, 3)),
            rng.normal(size=(2, 5, 2)),
            rng.normal(size=(2, 5)),
            rng.dirichlet(np.ones(5), 2),
        )
        for _ in range(2)
    )
    before = before if adapts else None
    old_mean, old_std = rng.normal(size=(2, 5, 2)), rng.uniform(0.5, 2, size=(2, 1, 2))
    density = lambda a, mean, std: np.prod(np.exp(-(((a - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi)), axis=-1)
    log_probs = np.log(density(after.actions, old_mean, old_std))
    gain = moved = 0
    for t in range(2):
        w, b, log_std = adapted_by_hand(policy, before, t)
        for x, a, advantage, weight, m, old in zip(
            *(part[t] for part in after), old_mean[t], log_probs[t], strict=True
        ):
            mean, std, s = x @ w + b, np.exp(log_std), old_std[t, 0]
            gain += weight * advantage * density(a, mean, std) / np.exp(old) / 2
            moved += weight * np.sum(np.log(std / s) + (s**2 + (m - mean) ** 2) / (2 * std**2) - 0.5) / 2
    sampled = rl.Sampled(before, after, log_probs, (old_mean, np.log(old_std)))
    np.testing.assert_allclose(rl.surrogate_loss(policy, sampled, LR), -gain, rtol=1e-10)
    np.testing.assert_allclose(rl.kl_divergence(policy, sampled, LR), moved, rtol=1e-10)


def test_without_a_batch_nothing_adapts(policy, sampled):
    assert rl.adapt_policy(policy, None, LR) is policy
    pretraining = sampled._replace(before=None)
    moved = trees.map(lambda x: x + 0.05, policy)  # with biases 0 the start, x = 0, is on every ReLU's kink
    tm.check.gradients(lambda p: rl.surrogate_loss(p, pretraining, LR), moved, order=2)


def test_first_order_adaptation_has_the_same_value(policy, sampled):
    second, first = (rl.adapt_policy(policy, sampled.before, LR, order) for order in (2, 1))
    for a, b in zip(trees.leaves(second), trees.leaves(first), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rate_that_is_no_number_is_refused_in_every_step(policy, sampled):
    for step in (rl.adapt_policy, rl.adapt_further):
        with pytest.raises(ValueError, match="maml: lr is nan, expected finite numbers"):
            step(
                rl.adapt_policy(policy, sampled.before, LR) if step is rl.adapt_further else policy,
                sampled.before,
                np.nan,
            )


def test_a_further_step_of_a_shared_policy_is_refused(policy, sampled):
    with pytest.raises(
        ValueError, match=r"adapt_further: log_std of the policies is .*, a policy for each task; for a shared"
    ):
        rl.adapt_further(policy, sampled.before, LR)


def test_a_further_step_is_each_tasks_own(policy, sampled):
    adapted = rl.adapt_policy(policy, sampled.before, LR)
    both = rl.adapt_further(adapted, sampled.after, LR)
    for t in range(3):
        own, data = (trees.map(lambda x, t=t: x[t], tree) for tree in (adapted, sampled.after))
        expected = trees.map(lambda p, g: p - LR * g, own, tm.grad(rl.policy_gradient_loss)(own, data))
        for found, leaf in zip(trees.leaves(both), trees.leaves(expected), strict=True):
            np.testing.assert_allclose(found[t], leaf, rtol=1e-10, atol=1e-13)
