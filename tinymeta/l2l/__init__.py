"""Learning to learn by gradient descent by gradient descent (Andrychowicz et al. 2016, arXiv 1606.04474).

Equations and files: the network m and its preprocessing (section 2.1, appendix A) in `network`, θ_{t+1} = θ_t + g_t in
`optimizer`, run by the fused kernels of `fused`, the meta-loss of Eq. 3 and its truncated gradient in `meta`, optimizees of
section 3 in `problems`, the comparison with tuned hand-designed optimizers in `runner`.
"""

from .convnet import conv_problem
from .fused import lstm_step
from .groups import Grouped
from .meta import Carry, late_carry, meta_gradient, meta_step, unroll
from .network import init_weights, log_and_sign, lstm_cell, propose
from .optimizer import LSTMOptimizer, LSTMState
from .problems import Problem, mlp_problem, quadratic_problem, rescaled
from .runner import BASELINES, RATES, best_rate, final_loss, optimize
from .sampling import Sample

__all__ = [
    "BASELINES", "RATES", "Carry", "Grouped", "LSTMOptimizer", "LSTMState", "Problem", "Sample", "best_rate",
    "conv_problem", "final_loss", "init_weights", "late_carry", "log_and_sign", "lstm_cell", "lstm_step", "meta_gradient",
    "meta_step", "mlp_problem", "optimize", "propose", "quadratic_problem", "rescaled", "unroll",
]  # fmt: skip
