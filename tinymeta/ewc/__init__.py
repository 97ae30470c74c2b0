"""Elastic weight consolidation (Kirkpatrick et al. 2016, arXiv 1612.00796), to be read beside the paper.

fisher_diagonal(net, params, x)                   how much each weight matters to the task just learned
fisher_rules(net, params, x)                      how each leaf of your net gets its Fisher
Penalty(lam).add_task(params, fisher)             what it costs to move the weights that mattered, Eq. 3
Penalty(lam).add_task(params, uniform_fisher(params))   the paper's L2 baseline: all weights matter alike
Penalty(lam, gamma)                               online EWC, and Huszár's form for gamma = 1
unit_trace(fisher)                                for add_task: the scale at which all tasks count alike
overlap(fisher_a, fisher_b)                       how far two tasks use the same weights, Fig. 2C

penalised_sgd, penalised_adam, proximal_sgd, proximal_adam   optimizers on loss + penalty (steps.py)
PathIntegral, mas_importance, squisher            other importances: SI, MAS, Adam's second moment
accuracy_matrix, average_accuracy, backward_transfer, forward_transfer, forgetting   what a sequence of tasks has cost
standard_lam(lam, convention)                     λ of other programs in our units
NotFinite                                         the ValueError of weights that have diverged
"""

from .arguments import NotFinite
from .fisher import KINDS, fisher_diagonal
from .metrics import accuracy_matrix, average_accuracy, backward_transfer, forgetting, forward_transfer
from .overlap import overlap
from .path_integral import PathIntegral
from .penalty import Penalty, masked, uniform_fisher, warn_if_unstable
from .squisher import squisher
from .steps import PenalisedOptimizer, penalised_adam, penalised_sgd, proximal_adam, proximal_sgd
from .sums import SlowFisher, fisher_rules
from .synapses import mas_importance
from .trace import unit_trace
from .units import CONVENTIONS, Convention, standard_lam

__all__ = [
    "CONVENTIONS", "KINDS", "Convention", "NotFinite", "PathIntegral", "PenalisedOptimizer", "Penalty", "SlowFisher",
    "accuracy_matrix", "average_accuracy", "backward_transfer", "fisher_diagonal", "fisher_rules", "forgetting",
    "forward_transfer", "mas_importance", "masked", "overlap", "penalised_adam", "penalised_sgd", "proximal_adam",
    "proximal_sgd", "squisher", "standard_lam", "uniform_fisher", "unit_trace", "warn_if_unstable",
]  # fmt: skip
