"""Small optimizers and problems, in float64 unless they say otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymeta import l2l, trees
from tinymeta.kernels.lstm import Weights


def optimizer(
    rng: np.random.Generator,
    hidden: tuple[int, ...] = (4, 3),
    scale: float = 0.3,
    p: float | None = 10.0,
    dtype: Any = np.float64,
) -> l2l.LSTMOptimizer:
    """An optimizer with every weight random, so that no path through it is zero by accident."""
    weights = l2l.init_weights(rng, 1 if p is None else 2, hidden, dtype)
    shaken = trees.map(lambda x: (x + 0.3 * rng.normal(size=x.shape)).astype(dtype), weights)
    return l2l.LSTMOptimizer(shaken, scale, p)


def linear_optimizer(scale: float = 1.0) -> l2l.LSTMOptimizer:
    """No LSTM layer at all and weights of zero: the update is W_out ∇ + b_out."""
    return l2l.LSTMOptimizer(Weights((), np.zeros(1), np.zeros(())), scale, p=None)


def quadratic_terms(
    rng: np.random.Generator, problems: int = 2, d: int = 3, dtype: Any = np.float64
) -> list[np.ndarray]:
    """W (B, d, d), y (B, d) and the start θ (B, d)."""
    return [rng.normal(size=shape).astype(dtype) for shape in ((problems, d, d), (problems, d), (problems, d))]


def quadratics(rng: np.random.Generator, problems: int = 2, d: int = 3, dtype: Any = np.float64) -> l2l.Problem:
    return l2l.quadratic_problem(*quadratic_terms(rng, problems, d, dtype))


def quadratic_gradient(w: np.ndarray, y: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """2 Wᵀ(W θ - y) of each problem."""
    return np.stack([2 * w_b.T @ (w_b @ x - y_b) for w_b, y_b, x in zip(w, y, theta, strict=True)])


def start(optimizer: l2l.LSTMOptimizer, problem: l2l.Problem) -> l2l.Carry:
    return l2l.Carry(problem.theta, optimizer.init(problem.theta), 0)


def tree_of(rng: np.random.Generator, dtype: Any = np.float64) -> dict:
    """7 coordinates in a tree with a scalar, an empty array and None."""
    shapes = {"w": (2, 2), "b": (2,), "s": (), "empty": (0, 3)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()} | {"none": None}
