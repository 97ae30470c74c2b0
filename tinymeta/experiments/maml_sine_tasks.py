"""The tasks of maml-sine that no net is trained on, and what adaptation makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinymeta import maml, nets, ops
from tinymeta.data.sine import INPUTS, SineTasks, sine_points, sine_tasks, waves
from tinymeta.lab import stream

Params = tuple[nets.Layer, ...]
Errors = NDArray[np.floating]  # (tasks, steps + 1): mean squared error on the query points before and after each step


class Setting(Protocol):
    """What the configuration says of tests."""

    @property
    def seed(self) -> int: ...
    @property
    def test_points(self) -> tuple[int, ...]: ...
    @property
    def test_query(self) -> str: ...
    @property
    def test_query_points(self) -> int: ...


def mse(params: Params, data: Any) -> Any:
    """Mean squared error over points and outputs, one per task."""
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))


def on_grid(tasks: SineTasks, points: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and y, float32 (T, points, 1), at equal distances over the whole range."""
    x = np.linspace(*INPUTS, points, dtype=np.float32)[:, None]
    y = waves(tasks, x)
    return np.broadcast_to(x, y.shape).copy(), y


@dataclass(frozen=True)
class Held:
    """Tasks that no net was trained on: support points (the first K are used) and query points of each."""

    tasks: SineTasks
    support: tuple[NDArray, NDArray]
    query: tuple[NDArray, NDArray]
    fresh: bool

    @classmethod
    def draw(cls, config: Setting, name: str, count: int) -> Held:
        rng, most = stream(config.seed, name), max(config.test_points)
        tasks, fresh = sine_tasks(rng, count), config.test_query == "fresh"
        support = sine_points(tasks, rng, most)
        query = sine_points(tasks, rng, most) if fresh else on_grid(tasks, config.test_query_points)
        return cls(tasks, support, query, fresh)

    def path(self, method: maml.Method, meta: Any, points: int, steps: int) -> list[Params]:
        """The parameters of every task before and after each step on its first `points` points."""
        with np.errstate(over="ignore", invalid="ignore"):  # a task that diverges is counted, not an error
            return method.path(mse, meta, _first(self.support, points), steps)

    def errors(self, method: maml.Method, meta: Any, points: int, steps: int) -> Errors:
        """The mean squared error of each task on its query points before and after each step: (T, steps + 1)."""
        query = _first(self.query, points) if self.fresh else self.query
        with np.errstate(over="ignore", invalid="ignore"):
            per_step = [mse(fast, query) for fast in self.path(method, meta, points, steps)]
        return np.stack(per_step, axis=1)


def _first(points: tuple[NDArray, NDArray], count: int) -> tuple[NDArray, NDArray]:
    x, y = points
    return x[:, :count].copy(), y[:, :count].copy()
