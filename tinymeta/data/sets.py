"""Images of a task as a set of examples: what Omniglot and mini-ImageNet share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def check_counts(ways: int, shots: int, queries: int, tasks: int) -> None:
    """ValueError for a count of what no task can be made of."""
    counts = {"ways": (ways, 1), "shots": (shots, 0), "queries": (queries, 0), "tasks": (tasks, 0)}
    for name, (count, least) in counts.items():
        if count < least:
            raise ValueError(f"{name} = {count}, expected {least} or more")


def labelled(x: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Images (T, ways, n, ...) as examples (T, ways * n, ...), ordered by class, and their labels, the class within the task."""
    tasks, ways, examples = x.shape[:3]
    labels = np.repeat(np.arange(ways), examples)
    return x.reshape(tasks, ways * examples, *x.shape[3:]), np.tile(labels, (tasks, 1))
