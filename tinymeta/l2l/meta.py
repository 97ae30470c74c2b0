"""Training the optimizer: L(φ) = E[Σ_t w_t f(θ_t)] with w_t = 1 (Eq. 3), by truncated backpropagation through time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .. import ops, optim
from ..engine import trees
from ..engine.transforms import stop_gradient, value_and_grad
from ..kernels.lstm import State, Weights
from .optimizer import LSTMOptimizer
from .problems import Problem
from .runner import losses_and_grads


class Carry(NamedTuple):
    """What one unroll hands to the next: the optimizee's parameters θ, the LSTM's state, and the step number."""

    theta: Any
    state: State
    t: int


def unroll(
    optimizer: LSTMOptimizer, problem: Problem, carry: Carry, unroll_length: int, second_derivatives: bool = False
) -> tuple[Any, Carry]:
    """(Σ_t mean f(θ_t) over the steps after `carry`, the new carry): θ_{t+1} = θ_t + g_t, [g_t, h_{t+1}] = m(∇_t, h_t, φ).

    By default ∂∇_t/∂φ = 0, the dashed edges that the paper drops from its Fig. 2; `second_derivatives` keeps them.
    """
    theta, state, first = carry
    total: Any = 0.0
    for t in range(first, first + unroll_length):
        _, gradient = losses_and_grads(problem, theta if second_derivatives else stop_gradient(theta), t)
        updates, state = optimizer.update(gradient, state, theta)
        theta = trees.map(lambda x, g: x + g, theta, updates)
        total = total + ops.mean(problem.loss(theta, t + 1))
    return total, Carry(theta, state, first + unroll_length)


def meta_step(
    optimizer: LSTMOptimizer,
    problem: Problem,
    carry: Carry | None,
    meta_optimizer: optim.Optimizer,
    meta_state: Any,
    unroll_length: int,
    clip_norm: float = 1.0,
    second_derivatives: bool = False,
) -> tuple[LSTMOptimizer, Any, Carry, float]:
    """One update of φ from one unroll; `carry` None starts at θ_0 with a zero state. θ and the state are carried on as
    constants: the gradient is truncated at the boundary. Returns (optimizer, meta_state, carry, mean loss per step)."""
    start = carry or Carry(problem.theta, optimizer.init(problem.theta), 0)

    def loss(weights: Weights) -> tuple[Any, Carry]:
        return unroll(optimizer.with_weights(weights), problem, start, unroll_length, second_derivatives)

    with np.errstate(over="ignore", invalid="ignore"):  # proposals that diverge are reported below
        (total, end), gradient = value_and_grad(loss, has_aux=True)(optimizer.weights)
    if not np.isfinite(total):
        raise FloatingPointError(
            f"the meta-loss is {float(total)} after optimizee steps {start.t} to {end.t}: the proposals diverge; lower the "
            "meta-learning rate or the output scale"
        )
    updates, meta_state = meta_optimizer.update(optim.clip_by_global_norm(gradient, clip_norm), meta_state)
    weights = optim.apply_updates(optimizer.weights, updates)
    return optimizer.with_weights(weights), meta_state, end, float(total) / unroll_length
