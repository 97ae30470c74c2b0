"""2-D navigation: returns that can be worked out by hand."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import nets, rl


def straight(velocity, log_std=-30.0, observation=2):
    """A policy that always goes the same way."""
    layer = nets.Layer(np.zeros((observation, 2)), np.asarray(velocity, float))
    return rl.Policy((layer,), np.full(2, log_std))


GOALS = np.array([[0.3, 0.0], [0.0, -0.4]])


@pytest.mark.parametrize(("reward", "power"), [("distance", 1), ("squared", 2)])
def test_standing_still_costs_the_distance_at_every_step(reward, power):
    world = rl.Navigation(horizon=7, reward=reward)
    episodes = world.sample(straight([0, 0]), GOALS, 3, np.random.default_rng(0))
    np.testing.assert_allclose(rl.mean_returns(episodes), -7 * np.array([0.3, 0.4]) ** power, rtol=1e-5)
    assert episodes.alive.all()
    assert episodes.observations.shape == (2, 3, 7, 2)


def test_an_episode_ends_at_the_goal_and_costs_nothing_after():
    episodes = rl.Navigation(horizon=7).sample(straight([1, 0]), GOALS[:1], 2, np.random.default_rng(0))
    np.testing.assert_array_equal(episodes.alive[0, 0], [True] * 3 + [False] * 4)
    np.testing.assert_allclose(episodes.rewards[0, 0], [-0.2, -0.1, 0, 0, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("rescale", "far"), [(True, 0.1), (False, 0.1)])
def test_velocities_are_limited(rescale, far):
    episodes = rl.Navigation(horizon=2, rescale=rescale).sample(straight([50, -50]), GOALS, 1, np.random.default_rng(0))
    np.testing.assert_allclose(episodes.observations[0, 0, 1], [far, -far], rtol=1e-6)


def test_what_an_action_of_one_means():
    moved = [
        rl.Navigation(horizon=2, rescale=rescale).sample(straight([0.05, 0]), GOALS, 1, np.random.default_rng(0))
        for rescale in (True, False)
    ]
    np.testing.assert_allclose(
        [e.observations[0, 0, 1, 0] for e in moved], [0.005, 0.05], rtol=1e-4
    )  # the spread is 1e-6


def test_the_oracle_sees_the_goal():
    world = rl.Navigation(horizon=3, tell_goal=True)
    episodes = world.sample(straight([0, 0], observation=4), GOALS, 2, np.random.default_rng(0))
    np.testing.assert_array_equal(episodes.observations[1, 0, :, 2:], np.broadcast_to(GOALS[1], (3, 2)))


def test_goals_fill_the_square():
    goals = rl.Navigation().goals(np.random.default_rng(0), 4000)
    assert (abs(goals) <= 0.5).all()
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1).mean(), 0.3826, atol=0.01)  # of the uniform square


def test_ball_and_box_differ_in_the_corners():
    goal = np.array([[0.1 + 0.009, 0.009]])
    ended = [
        not rl.Navigation(horizon=3, arrival=arrival)
        .sample(straight([1, 0]), goal, 1, np.random.default_rng(0))
        .alive[0, 0, 1]
        for arrival in ("box", "ball")
    ]
    assert ended == [True, False]


@pytest.mark.parametrize("setting", [{"reward": "cubed"}, {"arrival": "never"}, {"horizon": 0}])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ValueError, match=r"Navigation: .* expected"):
        rl.Navigation(**setting)


def test_a_policy_of_other_actions_is_refused():
    rng, world = np.random.default_rng(0), rl.Navigation(horizon=3)
    for observations, actions in ((2, 1), (3, 2)):
        sentence = (
            f"Navigation: the policy takes {observations} observations and has {actions} actions, expected 2 and 2"
        )
        with pytest.raises(ValueError, match=sentence):
            world.sample(rl.init_policy(rng, observations, actions, (3,)), world.goals(rng, 2), 3, rng)


@pytest.mark.parametrize("episodes", [0, -1, 2.0])
def test_no_episodes_are_refused(episodes):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=f"Navigation: episodes = {episodes}, expected a whole number, 1 or more"):
        rl.Navigation().sample(rl.init_policy(rng, 2, 2, (3,)), np.zeros((2, 2)), episodes, rng)


@pytest.mark.parametrize(
    "goals", [np.zeros(2), np.zeros((2, 1)), np.zeros((2, 3)), [[0.1, 0.2]], np.array([["a", "b"]])]
)
def test_goals_of_another_shape_are_refused(goals):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"Navigation: goals are a .*, expected an array of numbers \[T, 2\]"):
        rl.Navigation(horizon=2).sample(rl.init_policy(rng, 2, 2, (3,)), goals, 2, rng)


def test_goals_are_some_and_finite():
    rng = np.random.default_rng(0)
    for goals, message in (
        (np.zeros((0, 2)), "expected .* of one task or more"),
        (np.full((2, 2), np.nan), "the goal of task 0 is"),
    ):
        with pytest.raises(ValueError, match=f"Navigation: .*{message}"):
            rl.Navigation(horizon=2).sample(rl.init_policy(rng, 2, 2, (3,)), goals, 2, rng)


def test_as_many_policies_as_goals():
    rng, world = np.random.default_rng(0), rl.Navigation(horizon=2)
    three = tm.trees.map(lambda x: np.stack([x, x, x]), rl.init_policy(rng, 2, 2, (3,)))
    assert world.sample(three, world.goals(rng, 3), 2, rng).rewards.shape == (3, 2, 2)
    with pytest.raises(ValueError, match=r"log_std of the policy is float32\[3,2\], .* one for each of the 2 goals"):
        world.sample(three, world.goals(rng, 2), 2, rng)
