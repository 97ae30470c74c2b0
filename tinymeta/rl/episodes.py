"""Episodes of many tasks, and the advantage of each action: the discounted return from there on less what was to be expected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray
RIDGE, TRIES = 1e-5, 5


class Episodes(NamedTuple):
    """What was seen and done: E episodes of at most H steps in each of T tasks.

    observations (T, E, H, O), actions (T, E, H, A), rewards (T, E, H); alive (T, E, H) says which steps were taken before an
    episode ended, rewards are 0 after it.
    """

    observations: Array
    actions: Array
    rewards: Array
    alive: Array


class Transitions(NamedTuple):
    """Data of the objectives: (T, N, O), (T, N, A), and per transition (T, N) its advantage and its share of the mean."""

    observations: Array
    actions: Array
    advantages: Array
    weights: Array


def transitions(episodes: Episodes, discount: float = 0.99) -> Transitions:
    """Advantages by a linear feature baseline (Duan et al. 2016) that is fitted to each task anew, centred and scaled per task."""
    check_episodes(episodes)
    returns = discounted(episodes.rewards, discount)
    features = baseline_features(episodes.observations)
    expected = np.stack([_fitted(*task) for task in zip(features, returns, episodes.alive, strict=True)])
    T = len(returns)
    alive = episodes.alive.reshape(T, -1)
    weights = alive / alive.sum(axis=1, keepdims=True)
    advantages = (returns - expected).reshape(T, -1)
    centred = advantages - (weights * advantages).sum(axis=1, keepdims=True)
    spread = np.sqrt((weights * centred**2).sum(axis=1, keepdims=True))
    observations, actions = (x.reshape(T, -1, x.shape[-1]) for x in (episodes.observations, episodes.actions))
    scaled = (centred / (spread + 1e-8)).astype(observations.dtype)
    return Transitions(observations, actions, scaled, weights.astype(observations.dtype))


def check_episodes(episodes: Episodes) -> None:
    """What an environment owes: arrays of one (T, E, H), finite numbers, and episodes that begin alive and end once."""
    shape = episodes.rewards.shape
    for name, x, rank in zip(Episodes._fields, episodes, (4, 4, 3, 3), strict=True):
        if x.ndim != rank or x.shape[:3] != shape or 0 in shape:
            raise ValueError(
                f"episodes: {name} has shape {x.shape} where rewards has {shape}, expected (T, E, H) in front"
            )
        wrong = np.argwhere(~np.isfinite(x))
        if len(wrong):
            task, episode, step = wrong[0][:3]
            raise ValueError(
                f"episodes: {name} of task {task}, episode {episode}, step {step} is not finite; the environment or the "
                "policy has diverged"
            )
    alive = episodes.alive
    if alive.dtype != bool or not alive[..., 0].all() or (alive[..., 1:] & ~alive[..., :-1]).any():
        raise ValueError(
            "episodes: alive must be bool, true at the first step of every episode and false from its end on"
        )


def discounted(rewards: Array, discount: float) -> Array:
    """R_t = Σ_k γ^k r_{t+k} along the last axis, float64."""
    returns = np.zeros(rewards.shape)
    total = np.zeros(rewards.shape[:-1])
    for t in reversed(range(rewards.shape[-1])):
        total = rewards[..., t] + discount * total
        returns[..., t] = total
    return returns


def baseline_features(observations: Array) -> Array:
    """[o, o², t, t², t³, 1] with o cut at ±10 and t in hundreds of steps: (..., H, 2 O + 4), float64."""
    o = np.clip(observations.astype(np.float64), -10, 10)
    t = np.arange(o.shape[-2])[:, None] / 100
    clock = np.broadcast_to(np.concatenate([t, t**2, t**3, np.ones_like(t)], axis=1), (*o.shape[:-1], 4))
    return np.concatenate([o, o**2, clock], axis=-1)


def _fitted(features: Array, returns: Array, alive: Array) -> Array:
    """The least squares fit of one task's returns, with ten times the ridge while the solution is not finite."""
    X, y = features[alive], returns[alive]
    gram, right = X.T @ X, X.T @ y
    for attempt in range(TRIES):
        coefficients = np.linalg.lstsq(gram + RIDGE * 10**attempt * np.eye(len(gram)), right, rcond=None)[0]
        if np.isfinite(coefficients).all():
            break
    return features @ coefficients


def mean_returns(episodes: Episodes) -> Array:
    """The mean over episodes of the sum of rewards, (T,)."""
    return episodes.rewards.sum(axis=-1).mean(axis=-1)
