"""Goal velocity and goal direction on Gymnasium's HalfCheetah (1703.03400, section 5.3); needs `pip install 'tinymeta[rl]'`.

The simulator is MuJoCo's today, with the 17 observations of HalfCheetah-v5; the authors used rllab's, with 20. Returns are to be
compared with that in mind.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import trees
from .episodes import Episodes
from .policy import Policy, check_asked, sample

Array = np.ndarray
CONTROL_COST = 0.05
FASTEST = 2.0
STATE_SIZE, ACTION_SIZE = 17, 6

# goal -> the reward for moving at velocity v (the control cost is taken off afterwards)
REWARDS = {
    "velocity": lambda v, goal: -abs(v - goal),
    "direction": lambda v, goal: v * goal,
}


@dataclass(frozen=True)
class Cheetah:
    """Tasks: run at a velocity from [0, 2] ("velocity"), or as fast as can be forward or backward ("direction").

    `workers` processes share the tasks, 0 for none beside this one; the episodes do not depend on their number. With `tell_goal`
    the policy sees the goal, as the last observation (the oracle).
    """

    goal: str = "velocity"
    horizon: int = 200
    workers: int = 0
    tell_goal: bool = False

    def __post_init__(self) -> None:
        if self.goal not in REWARDS:
            raise ValueError(f"Cheetah: goal is {self.goal!r}, expected {' or '.join(map(repr, REWARDS))}")
        if self.horizon < 1 or self.workers < 0:
            raise ValueError(
                f"Cheetah: horizon {self.horizon} and workers {self.workers}, expected 1 or more and 0 or more"
            )

    @property
    def observation_size(self) -> int:
        return STATE_SIZE + self.tell_goal

    action_size = ACTION_SIZE

    def goals(self, rng: np.random.Generator, tasks: int) -> Array:
        """Goals (T,): velocities, or 1 for forward and -1 for backward."""
        drawn = rng.uniform(0, FASTEST, tasks)
        return drawn if self.goal == "velocity" else np.where(drawn < FASTEST / 2, -1.0, 1.0)

    def sample(self, policy: Policy, goals: Array, episodes: int, rng: np.random.Generator) -> Episodes:
        """Episodes of the policy, one for all tasks or one per task, in every task."""
        check_asked(self, policy, goals, (), episodes)
        shared = policy.log_std.ndim == 1
        policies = [policy if shared else trees.map(lambda x, t=t: x[t], policy) for t in range(len(goals))]
        seeds = rng.integers(2**31, size=len(goals)).tolist()
        arguments = policies, goals.tolist(), seeds
        play = functools.partial(play_task, world=self, episodes=episodes)
        found = _shared(self.workers, play, *arguments) if self.workers else list(map(play, *arguments))
        return Episodes(*(np.stack(arrays) for arrays in zip(*found, strict=True)))


def play_task(policy: Policy, goal: float, seed: int, world: Cheetah, episodes: int) -> Episodes:
    """E episodes of one task, (E, H, ...), side by side."""
    rng, envs = np.random.default_rng(seed), [_environment(k) for k in range(episodes)]
    dtype, horizon = policy.log_std.dtype, world.horizon
    seen = np.full((horizon, episodes, world.observation_size), goal, dtype)  # where a goal is told, it stays
    acted, rewards = np.zeros((horizon, episodes, ACTION_SIZE), dtype), np.zeros((horizon, episodes), dtype)
    state = np.stack([env.reset(seed=int(rng.integers(2**31)))[0] for env in envs])
    for t in range(horizon):
        seen[t, :, :STATE_SIZE] = state
        acted[t] = sample(policy, seen[t], rng)
        forces = np.clip(acted[t], -1, 1)
        steps = [env.step(force) for env, force in zip(envs, forces, strict=True)]
        state = np.stack([step[0] for step in steps])
        velocity = np.array([step[4]["x_velocity"] for step in steps])
        rewards[t] = REWARDS[world.goal](velocity, goal) - CONTROL_COST * (forces * forces).sum(axis=1)
    return Episodes(*(np.moveaxis(x, 0, 1) for x in (seen, acted, rewards, np.ones((horizon, episodes), bool))))


@functools.cache
def _environment(number: int) -> Any:
    try:
        import gymnasium
        import mujoco
    except ImportError as error:
        sentence = "rl.Cheetah needs Gymnasium with MuJoCo: pip install 'tinymeta[rl]'"
        raise ImportError(sentence, name=error.name) from error  # by its name the command knows what is missing
    # The warning is of the model's old attributes; without a handler a log lands in the working folder.
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        return gymnasium.make("HalfCheetah-v5", max_episode_steps=10**9).unwrapped
    finally:
        mujoco.set_mju_user_warning(None)


# ---- worker processes ----


def _shared(workers: int, play: Callable, *arguments: list) -> list:
    """map(play, *arguments) by worker processes; BrokenProcessPool if one of them is killed, and the next call starts new ones."""
    pool = _pool(workers)
    try:
        with _interrupt_held_back():  # here processes are started, and inherit it
            results = pool.map(play, *arguments)
        return list(results)
    except BrokenProcessPool:
        _pool.cache_clear()
        raise


@functools.cache
def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_worker)


def _begin_worker() -> None:
    """Ctrl-C reaches every process of a terminal, but it is the parent that ends a step in good order; a worker ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Ctrl-C waits, and in processes started meanwhile for good: a new worker imports for seconds before it can ignore it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
