"""The coordinatewise LSTM optimizer (Andrychowicz et al. 2016, arXiv 1606.04474, section 2.1 and appendix A).

One small LSTM proposes the update of every coordinate of the optimizee: n coordinates are n rows, the weights phi are
shared, each row has its own state and no row sees another. [g_t, s_{t+1}] = m(grad_t, s_t, phi), theta += g_t (Eq. 3).

Layout. gradient (n,); unrolls are (T, n). State: per layer (h, c), each (n, H). Weights: ``layers``, per layer
W (d + H, 4H) and b (4H,), with d the width of the layer's input and H = len(b) / 4; ``W_out`` (H,), ``b_out`` ().
The 4H columns are the gates i, f, g, o in this order; the first d rows of W meet the input, the last H the state.
Any number of layers, of any sizes; the paper has two of 20, which is 5141 weights. No constant is added to the
forget gate: put it in b. With no layer at all the update is linear in the preprocessed gradient.

Preprocessing, appendix A, with p = 10 in the paper; p = None feeds the raw gradient, d = 1:

    x = (log|g| / p, sign g)  where |g| >= e^-p,  else  (-1, e^p g)                                      (1)

Both branches meet at |g| = e^-p in (-1, sign g), with a kink. The derivative is 1/(p g) in the first entry, or e^p
in the second, the first branch at the seam. g is dimensionless: the p sets the scale below which gradients are linear.

One layer, Hochreiter & Schmidhuber with forget gates, s the logistic function; the numbers are those of the code:

    1  u = [x, h]         2  z = u W + b, split in z_i, z_f, z_g, z_o
    3  i, f, g, o = s(z_i), s(z_f), tanh(z_g), s(z_o)                                                    (2)
    4  c' = f c + i g     5  t = tanh(c')     6  h' = o t

    update = scale (h'_last W_out + b_out)               scale in the units of theta; 0.1 on MNIST        (3)

``lstm_cell_vjp`` is the transposed derivative of steps 6 to 1; ``lstm_cell_vjp_vjp`` that of the vjp itself, for
second-order use. ``unroll_forward`` runs T steps of (1)-(3) on gradients given as constants (the paper drops
d grad / d phi, Fig. 2); ``unroll_backward``, from the same inputs and the cotangents of its outputs, is the truncated
backpropagation through time. It recomputes the forward pass, so that an unroll need not store its activations.

Values. A row holding inf or NaN leaves the other rows' updates and states as they were. g = 0 gives x = (-1, 0);
g = inf gives x = (inf, 1), which saturates the gates: the update stays finite unless weights on x are 0 (0 inf =
NaN), but d_W, which sums x d_z over rows, is NaN. g = NaN gives x = (-1, NaN) and a NaN row. NumPy's matmul may warn
of the inf.
Errors: TypeError unless all arrays are of one float dtype; ValueError on a shape that does not fit, on a state whose
layers are not as many as the weights', and on p outside 0 < p < log of the largest float of the dtype.

Backends. This page's functions are ``reference``. The others keep the state in blocks of 64 coordinates, see ``blocks``,
and have step, advance (a step in place, on the leaves of a tree where they lie), unroll_forward and unroll_backward:

                                                                     largest errors, held by tests
    tiled            NumPy, as many tiles as a cache holds           NumPy's
    cpu, cpu_unroll  Numba, by vectors and threads; float32          tanh 10 ulp, s 2e-7; s is cut at 2^-40
    cuda             CUDA C (lstm.cu) through CuPy; float32          tanh 1.5 ulp, s 2.5 ulp; s(z) is 0 for z < -87.3
    numba_cuda       the same to read, or to simulate; float32       those of the compiler's library
    portable         the reference on blocks, for other arrays       those of the arrays' library

``unroll_backward`` on blocks takes `memory`, bytes of activations (on a GPU: of states) to hold at a time. With less than
all steps of the tiles in work need, ``tiled`` works on fewer tiles; the compiled ones keep the state at the start of each
segment of steps, and run segments forward twice. Where not even that fits, a GPU refuses and the others take the least
they can. ``portable`` stores all.

No variant is on tensor cores: of the 1.11 ms of a step of 10^6 coordinates on an H100 (docs/benchmarks.md) the products
would be 0.20 at its float32 rate, the state's bytes 0.40; and these cores would round the factors to TF32.
"""

from .reference import (
    Cell,
    State,
    Weights,
    log_and_sign,
    log_and_sign_vjp,
    lstm_cell,
    lstm_cell_vjp,
    lstm_cell_vjp_vjp,
    step,
    unroll_backward,
    unroll_forward,
    zero_state,
)

__all__ = [
    "Cell",
    "State",
    "Weights",
    "log_and_sign",
    "log_and_sign_vjp",
    "lstm_cell",
    "lstm_cell_vjp",
    "lstm_cell_vjp_vjp",
    "step",
    "unroll_backward",
    "unroll_forward",
    "zero_state",
]
