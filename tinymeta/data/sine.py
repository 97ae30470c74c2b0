"""The sinusoid regression tasks of MAML (Finn, Abbeel, Levine 2017, section 5.1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

AMPLITUDES, PHASES, INPUTS = (0.1, 5.0), (0.0, np.pi), (-5.0, 5.0)


class SineTasks(NamedTuple):
    """T functions y = amplitude * sin(x - phase); float64 (T,) each, the phase in radians."""

    amplitude: NDArray[np.float64]
    phase: NDArray[np.float64]


def sine_tasks(rng: np.random.Generator, tasks: int) -> SineTasks:
    """Draw tasks with amplitude ~ U[0.1, 5] and phase ~ U[0, pi]."""
    return SineTasks(rng.uniform(*AMPLITUDES, tasks), rng.uniform(*PHASES, tasks))


def sine_points(
    tasks: SineTasks, rng: np.random.Generator, points: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw x ~ U[-5, 5] for each task and return x and y, float32 (T, points, 1)."""
    x = rng.uniform(*INPUTS, (len(tasks.phase), points, 1)).astype(np.float32)
    return x, waves(tasks, x)


def waves(tasks: SineTasks, x: NDArray) -> NDArray[np.float32]:
    """y of each task at x, (T, points, 1) or (points, 1). The authors' code subtracts the phase (data_generator.py); so do we."""
    y = tasks.amplitude[:, None, None] * np.sin(x - tasks.phase[:, None, None])
    return y.astype(np.float32)
