"""Looking inside a learned optimizer (1606.04474, appendix B): gates and states along a trajectory, and updates as functions
of the gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import ops
from ..engine import trees
from ..kernels.lstm import zero_state
from .network import log_and_sign
from .optimizer import LSTMOptimizer
from .problems import Problem
from .runner import losses_and_grads


class Cells(NamedTuple):
    """One LSTM layer along a trajectory: gates i, f, o in (0, 1), proposal g in (-1, 1), c and h after the step; (T, K, H)."""

    i: NDArray
    f: NDArray
    g: NDArray
    o: NDArray
    c: NDArray
    h: NDArray


def follow(optimizer: Any, problem: Problem, steps: int) -> tuple[NDArray, NDArray]:
    """(gradients, updates), each (steps, n), of all coordinates while the optimizer works on the problem."""
    theta, state = problem.theta, optimizer.init(problem.theta)
    seen: list[NDArray] = []
    proposed: list[NDArray] = []
    for t in range(steps):
        gradient = losses_and_grads(problem, theta, t)[1]
        update, state = optimizer.update(gradient, state, theta)
        theta = trees.map(np.add, theta, update)
        for kept, tree in ((seen, gradient), (proposed, update)):
            kept.append(trees.ravel(tree)[0])
    return np.stack(seen), np.stack(proposed)


def activations(optimizer: LSTMOptimizer, gradients: NDArray) -> tuple[NDArray, list[Cells]]:
    """(updates (T, K), the cells of each layer) for the gradients (T, K) that K coordinates have seen since the first step.

    Coordinates share weights and nothing else, so those of interest can be computed alone: section 2.1 step by step.
    """
    state = zero_state(optimizer.weights, gradients.shape[1])
    updates, steps = [], []
    for gradient in gradients:
        update, layers = _open_step(optimizer, state, gradient)
        state = tuple((cells.h, cells.c) for cells in layers)
        updates.append(update)
        steps.append(layers)
    layers = [Cells(*map(np.stack, zip(*layer, strict=True))) for layer in zip(*steps, strict=True)]
    return np.stack(updates), layers


def _open_step(optimizer: LSTMOptimizer, state: Any, gradient: NDArray) -> tuple[NDArray, list[Cells]]:
    x = gradient[:, None] if optimizer.p is None else log_and_sign(gradient, optimizer.p)
    layers = []
    for (w, b), (h, c) in zip(optimizer.weights.layers, state, strict=True):
        z_i, z_f, z_g, z_o = np.split(np.concatenate([x, h], axis=1) @ w + b, 4, axis=1)
        i, f, g, o = ops.sigmoid(z_i), ops.sigmoid(z_f), np.tanh(z_g), ops.sigmoid(z_o)
        c = f * c + i * g
        x = o * np.tanh(c)
        layers.append(Cells(i, f, g, o, c, x))
    return optimizer.scale * (x @ optimizer.weights.W_out + optimizer.weights.b_out), layers


def proposals(optimizer: Any, gradients: NDArray, values: NDArray) -> NDArray:
    """What an optimizer that has seen gradients (T, K) would propose to K coordinates, were the next ones `values` (K, V): (K, V).

    For any optimizer that treats coordinates alike, learned or not.
    """
    state = optimizer.init(values)
    for gradient in gradients:
        _, state = optimizer.update(np.repeat(gradient[:, None], values.shape[1], axis=1), state, values)
    return optimizer.update(values, state, values)[0]
