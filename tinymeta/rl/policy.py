"""The policy of 1703.03400, section 5.3: actions are Gaussian, with a mean from an MLP and a spread that does not see the state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import nets, ops
from ..engine.tensor import describe

Array = np.ndarray
LOG_STD_MIN = float(np.log(1e-6))  # the authors' floor on the standard deviation
LOG_TWO_PI = float(np.log(2 * np.pi))


class Policy(NamedTuple):
    """θ: layers of the mean's MLP and log_std (A,); all with a leading task axis when there is one policy per task."""

    layers: tuple[nets.Layer, ...]
    log_std: Any


def init_policy(
    rng: np.random.Generator, observation: int, action: int, hidden: Sequence[int] = (100, 100), dtype: Any = np.float32
) -> Policy:
    """Glorot uniform weights, biases 0 and standard deviation 1, as in the authors' code."""

    def layer(fan_in: int, fan_out: int) -> nets.Layer:
        limit = np.sqrt(6 / (fan_in + fan_out))
        return nets.Layer(rng.uniform(-limit, limit, (fan_in, fan_out)).astype(dtype), np.zeros(fan_out, dtype))

    sizes = (observation, *hidden, action)
    return Policy(tuple(map(layer, sizes[:-1], sizes[1:])), np.zeros(action, dtype))


def check_asked(world: Any, policy: Policy, goals: Any, goal: tuple[int, ...], episodes: Any) -> None:
    """ValueError unless goals are an array (T, *goal), the policy is one for the world or one for each of the T tasks, and there
    are episodes."""
    name, observations, actions = type(world).__name__, world.observation_size, world.action_size
    if not isinstance(episodes, (int, np.integer)) or episodes < 1:
        raise ValueError(f"{name}: episodes = {episodes!r}, expected a whole number, 1 or more")
    if not isinstance(goals, np.ndarray) or goals.dtype.kind not in "fiu" or not goals.size or goals.shape[1:] != goal:
        expected = f"[{', '.join(['T', *map(str, goal)])}] of one task or more"
        raise ValueError(f"{name}: goals are a {describe(goals)}, expected an array of numbers {expected}")
    if not np.isfinite(goals).all():
        raise ValueError(f"{name}: the goal of task {np.argwhere(~np.isfinite(goals))[0, 0]} is not finite")
    first, log_std = policy.layers[0].w, policy.log_std
    if (first.shape[-2], log_std.shape[-1]) != (observations, actions):
        raise ValueError(
            f"{name}: the policy takes {first.shape[-2]} observations and has {log_std.shape[-1]} actions, expected "
            f"{observations} and {actions}"
        )
    if log_std.shape[:-1] not in ((), (len(goals),)):
        raise ValueError(
            f"{name}: log_std of the policy is {describe(log_std)}, expected [{actions}] of one policy for all tasks, or "
            f"[{len(goals)}, {actions}] of one for each of the {len(goals)} goals"
        )


def distribution(policy: Policy, observations: Any) -> tuple[Any, Any]:
    """(mean, log_std) of the actions at observations (..., N, O): mean (..., N, A), log_std (..., 1, A) or (A,)."""
    log_std = ops.maximum(policy.log_std, LOG_STD_MIN)
    return nets.mlp(policy.layers, observations), log_std if log_std.ndim == 1 else ops.expand_dims(log_std, -2)


def sample(policy: Policy, observations: Array, rng: np.random.Generator) -> Array:
    """One action (..., N, A) for each observation (..., N, O)."""
    mean, log_std = distribution(policy, observations)
    return mean + np.exp(log_std) * rng.standard_normal(mean.shape, dtype=mean.dtype)


def log_prob(policy: Policy, observations: Any, actions: Any) -> Any:
    """log π_θ(a | x), one value per transition (..., N)."""
    mean, log_std = distribution(policy, observations)
    if np.shape(actions) != mean.shape:
        raise ValueError(
            f"log_prob: actions are {describe(actions)}, expected one for each observation: {list(mean.shape)}"
        )
    z = (actions - mean) * ops.exp(-log_std)
    return -ops.sum(0.5 * z * z + log_std + 0.5 * LOG_TWO_PI, axis=-1)


def divergence(old: tuple[Any, Any], new: tuple[Any, Any]) -> Any:
    """KL(old ‖ new) of two distributions (mean, log_std) at each transition (..., N)."""
    (mean, log_std), (mean_new, log_std_new) = old, new
    ratio, distance = ops.exp(2 * (log_std - log_std_new)), (mean - mean_new) * ops.exp(-log_std_new)
    return ops.sum(log_std_new - log_std + 0.5 * (ratio + distance * distance - 1), axis=-1)
