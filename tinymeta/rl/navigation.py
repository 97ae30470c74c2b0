"""2-D navigation (1703.03400, section 5.3): walk from the origin to a goal that only the rewards tell of. All episodes at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .episodes import Episodes
from .policy import Policy, check_asked, sample

Array = np.ndarray
STEP = 0.1  # a velocity of 1 is this far
NEAR = 0.01


@dataclass(frozen=True)
class Navigation:
    """What the paper leaves open or its authors' code does otherwise is a setting.

    - reward: "distance" (-‖x - goal‖, the code and the published returns) or "squared" (-‖x - goal‖², the paper's text);
    - arrival: an episode ends within 0.01 of the goal in both coordinates ("box", the code) or in distance ("ball");
    - rescale: actions in [-1, 1] stand for velocities up to 0.1 (the code); else they are velocities, cut at ±0.1;
    - tell_goal: the policy sees the goal (the oracle).
    """

    horizon: int = 100
    reward: str = "distance"
    arrival: str = "box"
    rescale: bool = True
    tell_goal: bool = False

    def __post_init__(self) -> None:
        if self.reward not in ("distance", "squared") or self.arrival not in ("box", "ball"):
            raise ValueError(
                f"Navigation: reward {self.reward!r} and arrival {self.arrival!r}, expected 'distance' or 'squared', and "
                "'box' or 'ball'"
            )
        if not isinstance(self.horizon, (int, np.integer)) or self.horizon < 1:
            raise ValueError(f"Navigation: horizon is {self.horizon}, expected a whole number of steps, 1 or more")

    @property
    def observation_size(self) -> int:
        return 4 if self.tell_goal else 2

    action_size = 2

    def goals(self, rng: np.random.Generator, tasks: int) -> Array:
        """Goals (T, 2), uniform in [-0.5, 0.5]²."""
        return rng.uniform(-0.5, 0.5, (tasks, 2)).astype(np.float32)

    def sample(self, policy: Policy, goals: Array, episodes: int, rng: np.random.Generator) -> Episodes:
        """Episodes of the policy, one for all tasks or one per task, in every task."""
        check_asked(self, policy, goals, (2,), episodes)
        T, H, O = len(goals), self.horizon, self.observation_size
        dtype = policy.log_std.dtype
        seen = np.zeros((H, T, episodes, O), dtype)
        acted, rewards = np.zeros((H, T, episodes, 2), dtype), np.zeros((H, T, episodes), dtype)
        alive = np.zeros((H, T, episodes), bool)
        x, going = np.zeros((T, episodes, 2), dtype), np.ones((T, episodes), bool)
        for t in range(H):
            seen[t] = self._observation(x, goals)
            acted[t], alive[t] = sample(policy, seen[t], rng), going
            x = np.where(going[..., None], x + self._velocity(acted[t]), x)
            away = x - goals[:, None].astype(dtype)
            rewards[t] = np.where(going, self._reward(away), 0)
            going = going & ~self._arrived(away)
        return Episodes(*(np.moveaxis(array, 0, 2) for array in (seen, acted, rewards, alive)))

    def _observation(self, x: Array, goals: Array) -> Array:
        return np.concatenate([x, np.broadcast_to(goals[:, None], x.shape)], axis=-1) if self.tell_goal else x

    def _velocity(self, action: Array) -> Array:
        return STEP * np.clip(action, -1, 1) if self.rescale else np.clip(action, -STEP, STEP)

    def _reward(self, away: Array) -> Array:
        squared = (away * away).sum(axis=-1)
        return -squared if self.reward == "squared" else -np.sqrt(squared)

    def _arrived(self, away: Array) -> Array:
        if self.arrival == "box":
            return (np.abs(away) < NEAR).all(axis=-1)
        return (away * away).sum(axis=-1) < NEAR**2
