"""Diagonals of the Fisher information, layer by layer (Kirkpatrick et al. 2016, arXiv 1612.00796, section 2).

For a sample n with score d log p(v | x_n) / d theta of label v, the diagonal is the sum of squared scores; the kinds
differ in the labels only (van de Ven 2025, arXiv 2502.11756, whose names these are):

    exact      mean_n sum_v p(v | x_n) score(x_n, v)^2                                                   (1)
    sampled    mean_n score(x_n, v_n)^2,  v_n drawn from p(. | x_n): unbiased for (1)                    (2)
    empirical  mean_n score(x_n, y_n)^2,  y_n the true label                                             (3)
    batched    (1/N) sum_batches (sum_{n in batch} score(x_n, y_n))^2                                    (4)

The square is per sample, inside every sum but those over positions of one sample. (4) squares after summing over a
batch, as popular code does; in these units it is that code's mean over batches of squared mean gradients, times B.
It is (3) for B = 1, has the expectation of (3) where the mean gradient is 0, and depends on the batches.

Layer functions. W is (I, O), applied as x @ W + b; A is the layer's input, D (or S, one slice for each of V label
columns) the cotangent of its output. D is of the *un-averaged* log-likelihood of each sample: a mean over N in it
would make the result too small by N^2. Results are **sums** over samples; ``mlp_fisher`` alone divides by N.

    linear        A (N, I), D (N, O)        F_W = (A A)^T (D D), F_b = sum_n D^2                          (5)
    linear_exact  A (N, I), S (V, N, O)     F_W = (A A)^T (sum_v S^2): one product, whatever V            (6)
    linear_time   A (N, T, I), D (N, T, O)  F_W = sum_n (sum_t A_nt^T D_nt)^2, F_b = sum_n (sum_t D)^2    (7)
    conv          U (N, K, L), D (N, O, L)  F_W (O, K) = sum_n (D_n U_n^T)^2, F_b = sum_n (sum_l D)^2      (8)
    bias          D (N, O, L)               F_b of (8) alone
    batch_norm    x^, D (N, C, L)           F_gamma = sum_n (sum_l D x^)^2, F_beta = sum_n (sum_l D)^2     (13)

with U the unfolded patches, K = C_in k_h k_w values at L positions, and a conv weight reshaped to (O, K); x^ is the
normalised input of batch normalisation in evaluation mode, y = gamma x^ + beta: in training mode samples have no scores.

Output functions, logits (N, C), p their softmax. 1 - p_v is the sum of the other probabilities, so nothing cancels
when p_v is nearly 1:

    label_scores    D (N, C) = e_y - p                                                                    (9)
    scores          S (C, N, C), S_v = sqrt(p_v) (e_v - p): sum_v S_v S_v^T = diag p - p p^T              (10)
    scores_reduced  C - 1 columns with the same sum: the Cholesky factor of Tanabe & Sagae (1992),        (11)
                    S_vv = sqrt(p_v r_{v+1} / r_v),  S_vk = -p_k / r_{v+1} S_vv for k > v,  r_v = sum_{k >= v} p_k
    sample_labels   y_n: the first class whose cumulated probability exceeds uniforms_n in [0, 1)         (12)

``uniforms`` are given per sample, so (2) does not depend on how the samples are split. ReLU has slope 0 at 0. For
ReLU nets (1) is the diagonal of the Hessian of the negative log-likelihood, whatever its labels, off the kinks.

Backends, and what each of them compiles:

    reference     nothing: obvious NumPy, any float dtype
    chunked       nothing: NumPy in the memory of a few samples, any float dtype
    cpu           by Numba linear, linear_exact and mlp_fisher, but for its batched kind; float32 alone
    cuda          CUDA C through CuPy: linear, linear_exact, linear_time and conv; float32 and float64
    numba_cuda    the readable twin of these

All other functions of ``cpu`` are NumPy's, in float32 too: convolutions, layers over time, biases, batch norm and the
output functions take as long with Numba as without. So does any layer in float64, which ``cpu`` refuses to compile for
(TypeError) and ``tinymeta.ewc`` leaves to ``chunked``. ``cuda`` runs the rest in CuPy's arrays.

Values. F >= 0; N = 0 gives zeros, also as a mean. Squares obey the dtype: in float32 an entry below 1e-23 may give 0
and one above 1e19 inf, with NumPy's overflow warning, and 0 inf is NaN. A logit of -inf is a class of probability 0;
+inf or NaN makes its sample's scores NaN, and F with it (+inf with NumPy's warning).
Errors: TypeError unless all arrays are of one float dtype, labels are integers, uniforms floats; ValueError on shapes
that do not fit, labels outside 0..C-1, uniforms outside [0, 1), no classes, unknown kind or activation, batch_size < 1.
"""

from .reference import (
    batch_norm,
    bias,
    conv,
    label_scores,
    linear,
    linear_exact,
    linear_time,
    mlp_fisher,
    sample_labels,
    scores,
    scores_reduced,
)

__all__ = [
    "batch_norm",
    "bias",
    "conv",
    "label_scores",
    "linear",
    "linear_exact",
    "linear_time",
    "mlp_fisher",
    "sample_labels",
    "scores",
    "scores_reduced",
]
