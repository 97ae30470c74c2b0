"""A few episodes of a small policy on navigation, in float64."""

import numpy as np
import pytest

from tinymeta import rl
from tinymeta.rl.policy import distribution, log_prob


@pytest.fixture
def policy():
    return rl.init_policy(np.random.default_rng(1), 2, 2, (5,), np.float64)


@pytest.fixture
def sampled(policy):
    """Three tasks, before and after adaptation with rate 0.3."""
    rng, world = np.random.default_rng(2), rl.Navigation(horizon=6)
    goals = world.goals(rng, 3)
    before = rl.transitions(world.sample(policy, goals, 4, rng))
    adapted = rl.adapt_policy(policy, before, 0.3)
    after = rl.transitions(world.sample(adapted, goals, 4, rng))
    return rl.Sampled(
        before, after, log_prob(adapted, after.observations, after.actions), distribution(adapted, after.observations)
    )
