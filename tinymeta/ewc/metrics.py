"""What a sequence of tasks has cost: numbers from the accuracy matrix R (T, T), R[i, j] on task j after learning task i.

Rows are times, columns tasks, both in the order of learning. Values above the diagonal are accuracies on tasks not yet seen;
forward_transfer alone reads them, and forgetting since="best" those that are finite. Units are those of R (fractions or percent).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray


def accuracy_matrix(rows: Any) -> Array:
    """R as float64 (T, T). `rows`, one per task learned, may each end at the last task seen so far: the rest is NaN then.

    ValueError for a row that is shorter than that or longer than T, and where an accuracy on or below the diagonal is NaN.
    """
    rows = [np.asarray(row, np.float64) for row in rows]
    R = np.full((len(rows), len(rows)), np.nan)
    for i, row in enumerate(rows):
        if row.ndim != 1 or not i < len(row) <= len(rows):
            raise ValueError(
                f"accuracy_matrix: row {i} has shape {list(row.shape)}, expected {i + 1} to {len(rows)} accuracies"
            )
        R[i, : len(row)] = row
    unknown = np.argwhere(np.isnan(np.tril(R)))
    if not len(R) or len(unknown):
        what = f"R{list(map(int, unknown[0]))} is NaN" if len(R) else "there are no rows"
        raise ValueError(f"accuracy_matrix: {what}, expected the accuracy on every task learned so far")
    return R


def average_accuracy(R: Any) -> float:
    """ACC = 1/T Σ_j R[T-1, j]: the mean over all tasks after the last (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, Eq. 2)."""
    return float(np.mean(accuracy_matrix(R)[-1]))


def backward_transfer(R: Any) -> float:
    """BWT = 1/(T-1) Σ_{j<T-1} R[T-1, j] - R[j, j] (there Eq. 3): what later tasks did to earlier ones, negative if they forget."""
    return -forgetting(R, "learned")


def forward_transfer(R: Any, untrained: Any) -> float:
    """FWT = 1/(T-1) Σ_{j>0} R[j-1, j] - untrained[j] (there Eq. 4): a task's accuracy just before it is learned, beyond that
    of the network before any training, untrained (T,)."""
    R, b = _of_several(R), np.asarray(untrained, np.float64)
    before = np.diagonal(R, 1)
    if b.shape != R.shape[:1] or np.isnan(before).any():
        raise ValueError(
            f"forward_transfer: needs R[j-1, j] for every task j > 0 and untrained of shape [{len(R)}], got {list(b.shape)} and "
            f"{int(np.isnan(before).sum())} accuracies missing"
        )
    return float(np.mean(before - b[1:]))


def forgetting(R: Any, since: str = "best") -> float:
    """1/(T-1) Σ_{j<T-1} (earlier accuracy on task j) - R[T-1, j]. There are two definitions of the earlier one:

    best      max_{i<T-1} R[i, j], "max - last" (Chaudhry et al. 2018, arXiv 1801.10112, Eq. 3; FACIL, Mammoth)
    learned   R[j, j], "first - last" (Avalanche): it is -BWT
    """
    R = _of_several(R)
    earlier = {
        "best": lambda: np.max(R[:-1, :-1], axis=0, initial=-np.inf, where=np.isfinite(R[:-1, :-1])),
        "learned": lambda: np.diagonal(R)[:-1],
    }
    if since not in earlier:
        raise ValueError(f"forgetting: since is {since!r}, expected 'best' or 'learned'")
    return float(np.mean(earlier[since]() - R[-1, :-1]))


def _of_several(R: Any) -> Array:
    R = accuracy_matrix(R)
    if len(R) < 2:
        raise ValueError("transfer and forgetting are between tasks: R has one, expected at least two")
    return R
