"""Training the optimizer: L(φ) = E[Σ_t w_t f(θ_t)] with w_t = 1 (Eq. 3), by truncated backpropagation through time."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from .. import ops, optim
from ..engine import trees
from ..engine.transforms import stop_gradient, value_and_grad
from .optimizer import LSTMOptimizer, LSTMState
from .problems import Problem
from .runner import losses_and_grads
from .sampling import Sample


class Carry(NamedTuple):
    """What one unroll hands to the next: the optimizee's parameters θ, the LSTM's state, and the step number."""

    theta: Any
    state: LSTMState
    t: int


def late_carry(learned: LSTMOptimizer, problem: Problem, guide: optim.Optimizer, steps: int, read: int) -> Carry:
    """Where `guide` is after so many steps; the state of `learned` has read the last `read` of its gradients.

    An optimizer that is trained from here on meets θ that it would itself reach only beyond its horizon.
    """
    theta, moments, state = problem.theta, guide.init(problem.theta), learned.init(problem.theta)
    for t in range(steps):
        gradient = losses_and_grads(problem, theta, t)[1]
        updates, moments = guide.update(gradient, moments, theta)
        if t >= steps - read:
            _, state = learned.update(gradient, state, theta)
        theta = trees.map(np.add, theta, updates)
    return Carry(theta, state, steps)


def unroll(
    optimizer: LSTMOptimizer, problem: Problem, carry: Carry, unroll_length: int, second_derivatives: bool = False
) -> tuple[Any, Carry]:
    """(Σ_t mean f(θ_t) over the steps after `carry`, the new carry): θ_{t+1} = θ_t + g_t, [g_t, h_{t+1}] = m(∇_t, h_t, φ).

    By default ∂∇_t/∂φ = 0, the dashed edges that the paper drops from its Fig. 2; `second_derivatives` keeps them.
    """
    _check_length(unroll_length)
    theta, state, first = carry
    total: Any = 0.0
    for t in range(first, first + unroll_length):
        _, gradient = losses_and_grads(problem, theta if second_derivatives else stop_gradient(theta), t)
        updates, state = optimizer.update(gradient, state, theta)
        theta = trees.map(lambda x, g: x + g, theta, updates)
        total = total + ops.mean(problem.loss(theta, t + 1))
    return total, Carry(theta, state, first + unroll_length)


def meta_gradient(
    optimizer: LSTMOptimizer,
    problem: Problem,
    carry: Carry,
    unroll_length: int,
    sample: Sample | None = None,
    memory: int | None = None,
) -> tuple[Any, Any, Carry]:
    """(the total of `unroll`, its gradient in φ, the new carry), with ∂∇_t/∂φ = 0; estimated from a `sample`, if one is given.

    θ_s = θ_0 + Σ_{t<s} g_t, so dL/dg_t = Σ_{s>t} ∇f(θ_s): the very gradients that the LSTM reads one step later. What is left is
    backpropagation through the LSTM alone, on gradients that are known: one kernel.
    """
    _check_length(unroll_length)
    theta, state, first = carry
    gradient = losses_and_grads(problem, theta, first)[1]
    seen, total = [gradient], 0.0
    for t in range(first, first + unroll_length):
        updates, state = optimizer.update(seen[-1], state, theta, in_place=t > first)
        theta = trees.map(np.add, theta, updates)
        losses, gradient = losses_and_grads(problem, theta, t + 1)
        seen.append(gradient)
        total += float(np.mean(losses))
    d_updates = _sums_of_later(seen[1:], 1 / len(losses))
    gradient = optimizer.weights_gradient(carry.state, seen[:-1], d_updates, sample, memory)
    return total, gradient, Carry(theta, state, first + unroll_length)


def _check_length(unroll_length: Any) -> None:
    if not isinstance(unroll_length, Integral) or unroll_length < 1:
        raise ValueError(f"unroll_length is {unroll_length!r}, expected a whole number of steps, 1 or more")


def _sums_of_later(gradients: list, factor: float) -> list:
    """Σ_{s≥t} of the trees, times the factor, for every t."""
    sums = [trees.map(lambda x: x * x.dtype.type(factor), gradients[-1])]
    for g in reversed(gradients[:-1]):
        sums.append(trees.map(lambda total, x: total + x * x.dtype.type(factor), sums[-1], g))
    return sums[::-1]


def meta_step(
    optimizer: LSTMOptimizer,
    problem: Problem,
    carry: Carry | None,
    meta_optimizer: optim.Optimizer,
    meta_state: Any,
    unroll_length: int,
    clip_norm: float = 1.0,
    second_derivatives: bool = False,
    sample: Sample | None = None,
    memory: int | None = None,
) -> tuple[LSTMOptimizer, Any, Carry, float]:
    """One update of φ from one unroll; `carry` None starts at θ_0 with a zero state. θ and the state are carried on as
    constants: the gradient is truncated at the boundary. Returns (optimizer, meta_state, carry, mean loss per step).

    `sample` and `memory` are those of `LSTMOptimizer.weights_gradient`; ValueError for either with second derivatives, which tie
    the coordinates together and store the whole graph."""
    if second_derivatives and sample is not None:
        raise ValueError(
            "meta_step: with second_derivatives the gradient is no sum over coordinates; leave out `sample`"
        )
    if second_derivatives and memory is not None:
        raise ValueError("meta_step: with second_derivatives the whole graph is stored; leave out `memory`")
    start = carry or Carry(problem.theta, optimizer.init(problem.theta), 0)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # proposals that diverge are reported below
            if second_derivatives:
                total, gradient, end = _total_gradient(optimizer, problem, start, unroll_length)
            else:
                total, gradient, end = meta_gradient(optimizer, problem, start, unroll_length, sample, memory)
    except FloatingPointError:  # of the optimizer's: ∇f is not finite any more
        total, gradient = np.nan, None
    if not np.isfinite(total) or not all(np.isfinite(g).all() for g in trees.leaves(gradient)):
        found = f"meta-loss is {float(total)}" if not np.isfinite(total) else "meta-gradient is not finite"
        raise FloatingPointError(
            f"the {found} after optimizee steps {start.t} to {start.t + unroll_length}: the proposals diverge; "
            "lower the meta-learning rate or the output scale"
        )
    updates, meta_state = meta_optimizer.update(optim.clip_by_global_norm(gradient, clip_norm), meta_state)
    weights = optim.apply_updates(optimizer.weights, updates)
    return optimizer.with_weights(weights), meta_state, end, float(total) / unroll_length


def _total_gradient(
    optimizer: LSTMOptimizer, problem: Problem, carry: Carry, unroll_length: int
) -> tuple[Any, Any, Carry]:
    def loss(weights: Any) -> tuple[Any, Carry]:
        return unroll(optimizer.with_weights(weights), problem, carry, unroll_length, second_derivatives=True)

    (total, end), gradient = value_and_grad(loss, has_aux=True)(optimizer.weights)
    return total, gradient, end
