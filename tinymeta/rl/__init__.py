"""Meta-reinforcement learning as in MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400, sections 3.2 and 5.3).

policy       a Gaussian whose mean is an MLP of the observation: sample, log_prob, divergence
episodes     what was sampled, and how good each action was: returns less a linear feature baseline
objectives   the policy gradient's loss inside (Eq. 4), the surrogate loss and the KL constraint of TRPO outside
trpo         one step of trust region policy optimization by conjugate gradients on Hessian-vector products
navigation   the 2-D navigation tasks, all tasks and episodes at once
cheetah      goal velocity and goal direction on Gymnasium's HalfCheetah, in worker processes

Arrays of many tasks have a leading task axis (T, ...); T tasks of E episodes of H steps make N = E H transitions each.
"""

from .cheetah import Cheetah
from .episodes import ContractError, Episodes, Transitions, check_episodes, mean_returns, transitions
from .navigation import Navigation
from .objectives import Sampled, adapt_further, adapt_policy, kl_divergence, policy_gradient_loss, surrogate_loss
from .policy import Policy, init_policy
from .trpo import Step, trpo_step

__all__ = [
    "Cheetah", "ContractError", "Episodes", "Navigation", "Policy", "Sampled", "Step", "Transitions", "adapt_further",
    "adapt_policy", "check_episodes", "init_policy", "kl_divergence", "mean_returns", "policy_gradient_loss", "surrogate_loss",
    "transitions", "trpo_step",
]  # fmt: skip
