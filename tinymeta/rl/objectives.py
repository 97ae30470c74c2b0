"""What is minimised: the policy gradient's loss in the inner loop, TRPO's surrogate loss under a KL constraint in the outer one."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import maml, ops
from ..engine.tensor import describe
from ..engine.transforms import grad
from ..maml.inner import gradient_step
from .episodes import Transitions
from .policy import Policy, distribution, divergence, log_prob


class Sampled(NamedTuple):
    """What the outer objectives know of one iteration: the transitions before adaptation (None where there is none) and after it,
    and of the latter the log-probabilities (T, N) and the distributions of the policies that sampled them."""

    before: Transitions | None
    after: Transitions
    log_probs: Any
    distributions: tuple[Any, Any]


def policy_gradient_loss(policy: Policy, data: Transitions) -> Any:
    """-E[log π(a | x) A], one value per task: its gradient is REINFORCE's (1703.03400, Eq. 4, algorithm 3)."""
    return -ops.sum(log_prob(policy, data.observations, data.actions) * data.advantages * data.weights, axis=-1)


def adapt_policy(policy: Policy, batch: Transitions | None, lr: float, order: int = 2) -> Policy:
    """θ' of every task: one step of policy gradient from the shared θ on what θ sampled; without a batch θ itself."""
    return policy if batch is None else maml.adapt(policy_gradient_loss, policy, batch, lr, steps=1, order=order)


def adapt_further(policies: Policy, batch: Transitions, lr: float) -> Policy:
    """One more step for policies that are each task's own (T, ...): the gradient of a sum over tasks is that of every task."""
    if policies.log_std.shape[:-1] != batch.advantages.shape[:-1]:
        raise ValueError(
            f"adapt_further: log_std of the policies is {describe(policies.log_std)}, expected "
            f"[{len(batch.advantages)},A], a policy for each task; for a shared one use adapt_policy"
        )
    gradient = grad(lambda own: ops.sum(policy_gradient_loss(own, batch)))(policies)
    return gradient_step(policies, gradient, lr)


def surrogate_loss(policy: Policy, sampled: Sampled, lr: float) -> Any:
    """The mean over tasks of -E[π_θ'(a | x) / π_old(a | x) A], θ' = adapt_policy(θ): the outer loss, a scalar."""
    adapted, after = adapt_policy(policy, sampled.before, lr), sampled.after
    ratio = ops.exp(log_prob(adapted, after.observations, after.actions) - sampled.log_probs)
    return -ops.mean(ops.sum(ratio * after.advantages * after.weights, axis=-1))


def kl_divergence(policy: Policy, sampled: Sampled, lr: float) -> Any:
    """The mean over tasks and transitions of KL(π_old ‖ π_θ'): how far θ has moved the adapted policies, a scalar."""
    adapted, after = adapt_policy(policy, sampled.before, lr), sampled.after
    moved = divergence(sampled.distributions, distribution(adapted, after.observations))
    return ops.mean(ops.sum(moved * after.weights, axis=-1))
