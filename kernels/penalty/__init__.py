"""The quadratic penalty of elastic weight consolidation (Kirkpatrick et al. 2016, arXiv 1612.00796, Eq. 3).

theta, anchor, fisher and gradients are arrays of one shape (any) and one float dtype; the sums run over entries i:

    penalty = lam/2 sum_i F_i (theta_i - anchor_i)^2              a scalar of the arrays' dtype        (1)
    g'_i    = lam F_i (theta_i - anchor_i)                        its gradient                         (2)

Units: with the loss a *mean* cross-entropy per sample and F the *mean* squared score per sample, lam is a pure
number, 1 for two tasks of equal size (Bayes). F has the units of 1/theta^2 and is not checked for sign.

One step of an optimizer on loss + penalty, g the loss's gradient at theta:

    sgd        theta - lr (g + g')                                                                     (3)
    adam       Kingma & Ba (arXiv 1412.6980), Algorithm 1, on g + g'; t counts from 1                  (4)
    proximal   (theta - lr g + lr lam F anchor) / (1 + lr lam F)                                       (5)

(3) is an explicit Euler step of the penalty: it overshoots the anchor where lr lam F > 1 and diverges where
lr lam F > 2. (5) is the implicit one, argmin_x g x + penalty(x) + (x - theta)^2 / (2 lr): it is stable for every
lam >= 0 and tends to the anchor as lam grows. With lam = 0, (3) and (5) are plain SGD bit for bit.

Tasks t with anchors a_t and Fishers F_t fold into one penalty, whatever their number:

    sum_t F_t (theta - a_t)^2 = A (theta - mu)^2 + const,    A = sum_t F_t,  mu = sum_t (F_t / A) a_t      (6)
    constant = 1/2 sum_i sum_t F_t (a_t - mu)^2                                                        (7)

so sum_t penalty(theta, a_t, F_t, lam) = penalty(theta, mu, A, lam) + lam * constant. Where A = 0 no value of mu
matters and it is the plain mean of the anchors.

Backends: ``reference``; ``cpu``, compiled by Numba; ``cuda``, CUDA C through CuPy; ``numba_cuda``, its readable twin. But
for the reference they can write their steps in place (``out``), in one pass over the entries.

Values: F (theta - anchor) is formed before the second factor, so (1) overflows only if that product does. An entry
with F = 0 contributes exactly 0 while theta and anchor are finite; NaN reaches the scalar (1) and its own entry of
the others; inf obeys IEEE (0 inf and inf - inf are NaN). (5) overflows only where lr lam F anchor does.
Errors: TypeError unless all arrays are of one float dtype, float32 or float64 where it is compiled; ValueError on
unequal shapes, t < 1 and no tasks.
"""

from .reference import adam_step, fold, penalty, penalty_grad, proximal_step, sgd_step

__all__ = ["adam_step", "fold", "penalty", "penalty_grad", "proximal_step", "sgd_step"]
