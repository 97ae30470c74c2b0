"""Elastic weight consolidation (Kirkpatrick et al. 2016, arXiv 1612.00796), to be read beside the paper.

fisher_diagonal(net, params, x)                   how much each weight matters to the task just learned
Penalty(lam).add_task(params, fisher)             what it costs to move the weights that mattered, Eq. 3
Penalty(lam).add_task(params, uniform_fisher(params))   the paper's L2 baseline: all weights matter alike
overlap(fisher_a, fisher_b)                       how far two tasks use the same weights, Fig. 2C
"""

from .fisher import KINDS, fisher_diagonal
from .overlap import overlap
from .penalty import Penalty, uniform_fisher, warn_if_unstable

__all__ = ["KINDS", "Penalty", "fisher_diagonal", "overlap", "uniform_fisher", "warn_if_unstable"]
