"""Returns, the baseline and advantages, by their definitions; and what an environment owes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinymeta import rl
from tinymeta.rl.episodes import baseline_features, discounted


def random_episodes(rng, tasks=2, episodes=3, horizon=5):
    shape = (tasks, episodes, horizon)
    lengths = rng.integers(1, horizon + 1, size=(tasks, episodes, 1))
    alive = np.arange(horizon) < lengths
    rewards = np.where(alive, rng.normal(size=shape), 0)
    return rl.Episodes(rng.normal(size=(*shape, 2)), rng.normal(size=(*shape, 1)), rewards, alive)


@given(hnp.arrays(np.float64, (2, 4), elements=st.floats(-10, 10)), st.floats(0, 1))
def test_discounted_is_the_sum_of_what_is_to_come(rewards, discount):
    direct = [[sum(discount ** (k - t) * row[k] for k in range(t, 4)) for t in range(4)] for row in rewards]
    np.testing.assert_allclose(discounted(rewards, discount), direct, rtol=1e-12, atol=1e-12)


def test_rewards_whose_squares_overflow_are_refused():
    episodes = random_episodes(np.random.default_rng(0))
    for large in (1e160, 1e307):
        with (
            np.errstate(over="ignore", invalid="ignore"),
            pytest.raises(rl.ContractError, match=r"rewards up to .*, whose squares are not finite: scale them down"),
        ):
            rl.transitions(episodes._replace(rewards=episodes.rewards * large))


@pytest.mark.parametrize("discount", [-0.1, 2.0, np.nan])
def test_a_discount_lies_between_0_and_1(discount):
    with pytest.raises(ValueError, match=f"transitions: discount is {discount}, expected 0 to 1"):
        rl.transitions(random_episodes(np.random.default_rng(0)), discount)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_steps_are_refused(axis):
    shape = np.where(np.arange(3) == axis, 0, (2, 3, 4))
    nothing = rl.Episodes(np.zeros((*shape, 2)), np.zeros((*shape, 1)), np.zeros(shape), np.zeros(shape, bool))
    with pytest.raises(
        rl.ContractError, match=r"rewards has shape \(.*0.*\), expected at least one task, episode and step"
    ):
        rl.transitions(nothing)


def test_advantages_are_centred_and_scaled_over_the_steps_that_were_taken():
    found = rl.transitions(random_episodes(np.random.default_rng(0), episodes=20))
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose((found.weights * found.advantages).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((found.weights * found.advantages**2).sum(axis=1), 1, rtol=1e-6)


def test_returns_that_are_linear_in_the_features_are_expected():
    """With returns in the span of the features nothing is left but what the ridge takes, 1e-5 of the Gram matrix."""
    rng = np.random.default_rng(0)
    episodes = random_episodes(rng, tasks=1, episodes=30)
    alive = np.ones_like(episodes.alive)
    returns = baseline_features(episodes.observations) @ rng.normal(size=8)
    rewards = returns - np.concatenate([returns[..., 1:], np.zeros((1, 30, 1))], axis=-1)
    noise = 1e-3 * rng.normal(size=rewards.shape)
    found = rl.transitions(rl.Episodes(episodes.observations, episodes.actions, rewards + noise, alive), discount=1.0)
    left = discounted(noise, 1.0).reshape(1, -1)
    correlation = np.corrcoef(found.advantages[0], left[0])[0, 1]
    assert correlation > 0.95


@pytest.mark.parametrize(
    ("observed", "rewards", "taken", "left"),
    [
        (0, [[1, 2, 4]], 3, [[3, 4, 4]]),  # 1 + 2/2 + 4/4, 2 + 4/2, 4
        (0, [[1, 2, 0]], 2, [[2, 2, 0]]),
        (1, [[1, 4], [2, 2]], 2, [[0, 1], [0, -1]]),  # returns 3, 4 and 3, 2, where 3 are expected
    ],
    ids=["whole episodes", "episodes that end", "returns that are expected"],
)
def test_advantages_at_a_discount_of_a_half(observed, rewards, taken, left):
    """Every episode has a mirror image, with opposite observations and rewards: of all features only the observation can fit."""
    mirrored = lambda x: np.concatenate([x, -np.array(x, float)])
    rewards, left = mirrored(rewards), mirrored(left)
    alive = np.broadcast_to(np.arange(rewards.shape[1]) < taken, rewards.shape)
    observations = mirrored(np.full((len(rewards) // 2, rewards.shape[1], 1), observed))
    episodes = rl.Episodes(*(x[None] for x in (observations, observations, rewards, alive)))
    found = rl.transitions(episodes, 0.5)
    np.testing.assert_allclose(found.advantages[0], (left / np.sqrt(np.mean(left[alive] ** 2))).ravel(), atol=1e-4)
    np.testing.assert_allclose(found.weights[0], (alive / (taken * len(rewards))).ravel(), rtol=1e-12)


def test_steps_after_the_end_have_no_advantage():
    """In float16 they were infinite, and their share of 0 made NaN of the loss."""
    alive = np.array([[[True, False, False], [True, True, False]]])
    rewards = np.array([[[-1, 0, 0], [-1, -1, 0]]], np.float16)
    observations = np.random.default_rng(0).normal(size=(1, 2, 3, 2)).astype(np.float16)
    found = rl.transitions(rl.Episodes(observations, observations, rewards, alive))
    assert np.isfinite(found.advantages).all()
    assert not found.advantages[~alive.reshape(1, -1)].any()


def test_mean_returns():
    episodes = random_episodes(np.random.default_rng(0))
    np.testing.assert_allclose(rl.mean_returns(episodes), episodes.rewards.sum(axis=2).mean(axis=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": np.zeros((2, 3, 4, 1))}, r"actions has shape \(2, 3, 4, 1\)"),
        ({"alive": np.ones((2, 3, 5))}, "alive must be bool, the environment returned an array of float64"),
        ({"rewards": None}, "rewards must be floating point, the environment returned a NoneType"),
        ({"observations": [1.0]}, "observations must be floating point, the environment returned a list"),
        (
            {"actions": np.zeros((2, 3, 5, 1), int)},
            "actions must be floating point, the environment returned an array of int64",
        ),
        (
            {"rewards": np.full((2, 3, 5), None)},
            "rewards must be floating point, the environment returned an array of object",
        ),
        ({"observations": np.zeros((2, 3, 5))}, r"observations has shape \(2, 3, 5\)"),
        (
            {"rewards": np.ones((2, 3, 5)), "alive": np.arange(5) < np.full((2, 3, 1), 3)},
            "the reward of task 0, episode 0, step 3 is 1, expected 0 after the episode's end",
        ),
        ({"alive": np.zeros((2, 3, 5), bool)}, "not true at the first step"),
        ({"rewards": np.full((2, 3, 5), np.nan)}, "rewards of task 0, episode 0, step 0 is not finite"),
    ],
)
def test_an_environment_that_breaks_its_contract_is_named(change, message):
    episodes = random_episodes(np.random.default_rng(0))._replace(**change)
    with pytest.raises(rl.ContractError, match=message):
        rl.transitions(episodes)


def test_other_things_than_episodes_are_refused():
    with pytest.raises(rl.ContractError, match=r"returned a tuple, expected rl\.Episodes"):
        rl.transitions(tuple(random_episodes(np.random.default_rng(0))))


@pytest.mark.parametrize("asked", [(3, 3, 2, 1), (2, 4, 2, 1), (3, 2, 2, 1), (2, 3, 4, 1), (2, 3, 2, 2)])
def test_as_many_as_were_asked_for(asked):
    episodes = random_episodes(np.random.default_rng(0))
    rl.check_episodes(episodes, (2, 3, 2, 1))
    found, expected = (
        "{} tasks of {} episodes with {} observations and {} actions a step".format(*n) for n in ((2, 3, 2, 1), asked)
    )
    with pytest.raises(rl.ContractError, match=f"the environment returned {found}, expected {expected}"):
        rl.check_episodes(episodes, asked)


def test_an_episode_that_comes_back_to_life_is_refused():
    episodes = random_episodes(np.random.default_rng(0))
    alive = np.ones_like(episodes.alive)
    alive[1, 2, 3] = False
    with pytest.raises(rl.ContractError, match="false from its end on"):
        rl.transitions(episodes._replace(alive=alive))
