"""Episodes of many tasks, and the advantage of each action: the discounted return from there on less what was to be expected."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Array = np.ndarray
RIDGE = 1e-5
KINDS = {"f": "floating point", "b": "bool"}
OWED = {"observations": (4, "f"), "actions": (4, "f"), "rewards": (3, "f"), "alive": (3, "b")}  # rank, kind of dtype


class ContractError(ValueError):
    """An environment did not return the Episodes that it owes: what it returned, and what was expected."""


class Episodes(NamedTuple):
    """What was seen and done: E episodes of at most H steps in each of T tasks.

    observations (T, E, H, O), actions (T, E, H, A), rewards (T, E, H), floating point and finite; alive (T, E, H), bool, says
    which steps were taken before an episode ended, rewards are 0 after it.
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
    """Advantages by a linear feature baseline (Duan et al. 2016) that is fitted to each task anew, centred and scaled per task.

    ContractError where check_episodes raises it and for rewards whose squares overflow, ValueError for a discount beyond 0 to 1.
    """
    check_episodes(episodes)
    if not 0 <= discount <= 1:
        raise ValueError(f"transitions: discount is {discount}, expected 0 to 1")
    returns = discounted(episodes.rewards, discount)
    features = baseline_features(episodes.observations)
    expected = np.stack([_fitted(*task) for task in zip(features, returns, episodes.alive, strict=True)])
    T = len(returns)
    alive = episodes.alive.reshape(T, -1)
    weights = alive / alive.sum(axis=1, keepdims=True)
    advantages = (returns - expected).reshape(T, -1)
    centred = advantages - (weights * advantages).sum(axis=1, keepdims=True)
    spread = np.sqrt((weights * centred**2).sum(axis=1, keepdims=True))
    if not np.isfinite(spread).all():
        raise ContractError(
            f"episodes: rewards up to {np.abs(episodes.rewards).max():g}, whose squares are not finite: scale them down"
        )
    observations, actions = (x.reshape(T, -1, x.shape[-1]) for x in (episodes.observations, episodes.actions))
    scaled = np.where(alive, centred / (spread + 1e-8), 0).astype(observations.dtype)
    return Transitions(observations, actions, scaled, weights.astype(observations.dtype))


def check_episodes(episodes: Episodes, asked: tuple[int, int, int, int] | None = None) -> None:
    """ContractError where Episodes are not as they are described there, or not of the (T, E, O, A) that were asked for."""
    if not isinstance(episodes, Episodes):
        raise ContractError(f"the environment returned a {type(episodes).__name__}, expected rl.Episodes")
    for name, (_, kind) in OWED.items():
        x = getattr(episodes, name)
        if not isinstance(x, np.ndarray) or x.dtype.kind != kind:
            found = f"an array of {x.dtype}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"
            raise ContractError(f"episodes: {name} must be {KINDS[kind]}, the environment returned {found}")
    _check_shapes(episodes, asked)
    _check_values(episodes)


def _check_shapes(episodes: Episodes, asked: tuple[int, int, int, int] | None) -> None:
    shape = episodes.rewards.shape
    if 0 in shape:
        raise ContractError(f"episodes: rewards has shape {shape}, expected at least one task, episode and step")
    for name, (rank, _) in OWED.items():
        x = getattr(episodes, name)
        if x.ndim != rank or x.shape[:3] != shape:
            raise ContractError(
                f"episodes: {name} has shape {x.shape} where rewards has {shape}, expected (T, E, H) in front"
            )
    found = (*shape[:2], episodes.observations.shape[-1], episodes.actions.shape[-1])
    if asked is not None and found != asked:
        counted = "{} tasks of {} episodes with {} observations and {} actions a step"
        raise ContractError(
            f"episodes: the environment returned {counted.format(*found)}, expected {counted.format(*asked)}"
        )


def _check_values(episodes: Episodes) -> None:
    for name, x in episodes._asdict().items():
        for where in np.argwhere(~np.isfinite(x))[:1]:
            raise ContractError(
                f"episodes: {name} of {_place(where)} is not finite; the environment or the policy has diverged"
            )
    alive = episodes.alive
    if not alive[..., 0].all() or (alive[..., 1:] & ~alive[..., :-1]).any():
        raise ContractError(
            "episodes: the environment returned an alive that is not true at the first step of every episode and false from its "
            "end on"
        )
    for where in np.argwhere(~alive & (episodes.rewards != 0))[:1]:
        reward = episodes.rewards[tuple(where)]
        raise ContractError(
            f"episodes: the reward of {_place(where)} is {reward:g}, expected 0 after the episode's end"
        )


def _place(where: Array) -> str:
    return "task {}, episode {}, step {}".format(*where)


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
    """The least squares fit of one task's returns, with a ridge."""
    X, y = features[alive], returns[alive]
    gram = X.T @ X
    return features @ np.linalg.lstsq(gram + RIDGE * np.eye(len(gram)), X.T @ y, rcond=None)[0]


def mean_returns(episodes: Episodes) -> Array:
    """The mean over episodes of the sum of rewards, (T,)."""
    return episodes.rewards.sum(axis=-1).mean(axis=-1)
