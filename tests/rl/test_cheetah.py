"""HalfCheetah: where Gymnasium and MuJoCo are installed."""

import signal
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from tinymeta import rl


@pytest.fixture
def policy():
    return rl.init_policy(np.random.default_rng(0), 17, 6, (4,))


def test_episodes_do_not_depend_on_the_number_of_workers(policy):
    pytest.importorskip("mujoco")
    goals = np.array([0.5, 1.5])
    alone, shared = (
        rl.Cheetah("velocity", horizon=4, workers=workers).sample(policy, goals, 2, np.random.default_rng(3))
        for workers in (0, 2)
    )
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_array_equal(a, b)
    assert alone.observations.shape == (2, 2, 4, 17)
    rl.transitions(alone)


def test_rewards_are_those_of_the_paper(policy):
    pytest.importorskip("mujoco")
    forward, backward = (
        rl.Cheetah("direction", horizon=5).sample(policy, np.array([goal]), 2, np.random.default_rng(3))
        for goal in (1.0, -1.0)
    )
    np.testing.assert_array_equal(forward.actions, backward.actions)
    cost = 0.05 * (np.clip(forward.actions, -1, 1) ** 2).sum(axis=-1)
    np.testing.assert_allclose(forward.rewards + cost, -(backward.rewards + cost), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("goal", "goals", "paid"),
    [
        ("velocity", [0.5, 1.5], lambda v, goal: -abs(v - goal)),
        ("direction", [1.0, -1.0], lambda v, goal: v if goal > 0 else -v),
    ],
    ids=["velocity", "direction"],
)
def test_rewards_are_the_velocitys_less_005_of_the_squared_forces(policy, monkeypatch, goal, goals, paid):
    from tinymeta.rl import cheetah

    velocities = np.array([[1.0, -0.75, 2.0], [0.25, 3.0, -2.0]])

    class Stub:
        def __init__(self, number):
            self.number = number

        def reset(self, seed):
            self.left = iter(velocities[self.number])
            return np.zeros(17), {}

        def step(self, force):
            return np.zeros(17), 99.0, False, False, {"x_velocity": next(self.left)}

    monkeypatch.setattr(cheetah, "_environment", Stub)
    found = rl.Cheetah(goal, horizon=3).sample(policy, np.array(goals), 2, np.random.default_rng(0))
    assert np.abs(found.actions).max() > 1
    for t, e, k in np.ndindex(2, 2, 3):
        cost = 0.05 * sum(min(abs(a), 1) ** 2 for a in found.actions[t, e, k])
        assert found.rewards[t, e, k] == pytest.approx(paid(velocities[e, k], goals[t]) - cost, abs=1e-5)


def test_the_oracle_sees_the_goal_and_nothing_else_differs(policy):
    """A policy whose weight for the goal is 0 does the same, told or not."""
    pytest.importorskip("mujoco")
    goals, first = np.array([0.5, 1.5]), policy.layers[0]
    blind = policy._replace(layers=(first._replace(w=np.pad(first.w, [(0, 1), (0, 0)])), *policy.layers[1:]))
    untold, told = (
        rl.Cheetah("velocity", horizon=4, tell_goal=tell).sample(p, goals, 2, np.random.default_rng(3))
        for tell, p in ((False, policy), (True, blind))
    )
    assert rl.Cheetah(tell_goal=True).observation_size == told.observations.shape[-1] == 18
    np.testing.assert_allclose(told.observations[..., :17], untold.observations, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(told.observations[..., 17], np.broadcast_to(goals[:, None, None], (2, 2, 4)))
    np.testing.assert_allclose(told.rewards, untold.rewards, rtol=1e-4, atol=1e-4)


def test_goals():
    rng = np.random.default_rng(0)
    velocities, directions = (rl.Cheetah(goal).goals(rng, 500) for goal in ("velocity", "direction"))
    assert velocities.min() >= 0
    assert 1.8 < velocities.max() <= 2
    assert set(directions) == {-1.0, 1.0}


@pytest.mark.parametrize("setting", [{"goal": "sideways"}, {"horizon": 0}, {"workers": -1}])
def test_wrong_settings_are_refused(setting):
    with pytest.raises(ValueError, match=r"Cheetah: .*expected"):
        rl.Cheetah(**setting)


def test_goals_and_policies_of_other_shapes_are_refused(policy):
    rng, world = np.random.default_rng(0), rl.Cheetah(horizon=1)
    with pytest.raises(ValueError, match=r"Cheetah: goals are a .*, expected an array of numbers \[T\]"):
        world.sample(policy, np.ones((2, 1)), 1, rng)
    with pytest.raises(
        ValueError, match="Cheetah: the policy takes 17 observations and has 1 actions, expected 17 and 6"
    ):
        world.sample(rl.init_policy(rng, 17, 1, (4,)), np.ones(2), 1, rng)


def test_a_missing_simulator_says_what_to_install(policy, monkeypatch):
    from tinymeta.rl import cheetah

    cheetah._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"tinymeta\[rl\]"):
        rl.Cheetah(horizon=1).sample(policy, np.array([1.0]), 1, np.random.default_rng(0))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX")
def test_a_pool_that_has_lost_a_process_is_not_kept(policy):
    pytest.importorskip("mujoco")
    from tinymeta.rl import cheetah

    world, goals = rl.Cheetah("velocity", horizon=2, workers=1), np.array([0.5, 1.5])
    sample = lambda: world.sample(policy, goals, 1, np.random.default_rng(3))
    before = sample()
    (process,) = cheetah._pool(1)._processes.values()
    process.kill()
    with pytest.raises(BrokenProcessPool):
        sample()
    np.testing.assert_array_equal(sample().rewards, before.rewards)
