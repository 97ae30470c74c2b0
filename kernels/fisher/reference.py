"""Fisher diagonals in plain NumPy: the oracle of every other backend. Mathematics: ``tinymeta.kernels.fisher``."""

from collections.abc import Callable, Sequence

import numpy as np

from .. import agree
from .arguments import check_labels, check_logits, check_network, check_uniforms

Array = np.ndarray


# ---- layers: sums over samples ----


def linear(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (5) from inputs A (N, I) and output cotangents D (N, O) of one label per sample."""
    agree("linear", A=(A, "N I"), D=(D, "N O"))
    return (A * A).T @ (D * D), (D * D).sum(axis=0)


def linear_exact(A: Array, S: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (6) from inputs A (N, I) and cotangents S (V, N, O) of V columns per sample."""
    agree("linear_exact", A=(A, "N I"), S=(S, "V N O"))
    D_squared = (S * S).sum(axis=0)
    return (A * A).T @ D_squared, D_squared.sum(axis=0)


def linear_time(A: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (I, O), F_b (O,)) of (7) for a layer used at T times of each sample: A (N, T, I), D (N, T, O)."""
    agree("linear_time", A=(A, "N T I"), D=(D, "N T O"))
    return _sum_of_squares(A.swapaxes(1, 2) @ D), _sum_of_squares(D.sum(axis=1))


def conv(U: Array, D: Array) -> tuple[Array, Array]:
    """(F_W (O, K), F_b (O,)) of (8) from unfolded patches U (N, K, L) and output cotangents D (N, O, L)."""
    agree("conv", U=(U, "N K L"), D=(D, "N O L"))
    return _sum_of_squares(D @ U.swapaxes(1, 2)), _sum_of_squares(D.sum(axis=2))


def bias(D: Array) -> Array:
    """F_b (O,) of (8), from D (N, O, L) alone."""
    agree("bias", D=(D, "N O L"))
    return _sum_of_squares(D.sum(axis=2))


def batch_norm(x_hat: Array, D: Array) -> tuple[Array, Array]:
    """(F_gamma (C,), F_beta (C,)) of (13) from normalised inputs x_hat (N, C, L) and output cotangents D (N, C, L)."""
    agree("batch_norm", x_hat=(x_hat, "N C L"), D=(D, "N C L"))
    return _sum_of_squares((D * x_hat).sum(axis=2)), _sum_of_squares(D.sum(axis=2))


def _sum_of_squares(G: Array) -> Array:
    """Sum over samples of squared per-sample gradients G (N, ...)."""
    return (G * G).sum(axis=0)


# ---- the output: softmax and log-likelihood ----


def label_scores(logits: Array, labels: Array) -> Array:
    """D (N, C) = e_y - p (9), the score of one label per sample, from integer labels (N,)."""
    _, residuals = _softmax_and_residuals("label_scores", logits)
    check_labels(labels, *logits.shape)
    return residuals[np.arange(len(logits), like=logits), labels]


def scores(logits: Array) -> Array:
    """S (C, N, C) of (10): the scores of all classes, weighted by the square roots of their probabilities."""
    p, residuals = _softmax_and_residuals("scores", logits)
    return (np.sqrt(p)[:, :, None] * residuals).swapaxes(0, 1)


def scores_reduced(logits: Array) -> Array:
    """S (C - 1, N, C) of (11): one column fewer than scores, with the same sum_v S_v S_v^T."""
    _, C = check_logits("scores_reduced", logits)
    _, _, p = _softmax(logits)
    tails = np.cumsum(p[:, ::-1], axis=1)[:, ::-1]  # r_v = sum_{k >= v} p_k
    rest = tails[:, 1:]
    pivot = np.sqrt(_share(p[:, :-1], tails[:, :-1]) * rest).T[:, :, None]
    others = -_share(p, rest.T[:, :, None]) * pivot
    v, k = np.arange(C - 1, like=logits)[:, None, None], np.arange(C, like=logits)
    return np.where(k == v, pivot, np.where(k > v, others, 0))


def sample_labels(logits: Array, uniforms: Array) -> Array:
    """Labels (N,) drawn from the softmax by inversion (12), one uniform in [0, 1) per sample."""
    N, _ = check_logits("sample_labels", logits)
    check_uniforms(uniforms, N)
    _, _, p = _softmax(logits)
    cumulated = np.cumsum(p, axis=1, dtype=np.float64)
    return (cumulated <= uniforms.astype(np.float64)[:, None] * cumulated[:, -1:]).sum(axis=1)


def _softmax_and_residuals(operation: str, logits: Array) -> tuple[Array, Array]:
    """p (N, C) and residuals (N, C, C), residuals[n, v] = e_v - p_n with 1 - p_v as the sum of the others."""
    _, C = check_logits(operation, logits)
    e, total, p = _softmax(logits)
    classes = np.arange(C, like=logits)
    own = classes[:, None] == classes
    others = np.where(own, 0, e[:, None, :]).sum(axis=2) / total
    return p, np.where(own, others[:, :, None], -p[:, None, :])


def _softmax(logits: Array) -> tuple[Array, Array, Array]:
    """Exponentials (N, C) of the logits less their largest, their sums (N, 1), and p (N, C)."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    total = e.sum(axis=1, keepdims=True)
    return e, total, e / total


def _share(part: Array, whole: Array) -> Array:
    """part / whole, and 0 where both vanish."""
    return np.where(whole != 0, part / np.where(whole != 0, whole, 1), 0)


# ---- a whole network: means over samples ----

ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda a: (a > 0).astype(a.dtype)),
    "tanh": (np.tanh, lambda a: 1 - a * a),
}
"""Per name the activation, and its slope as a function of the activation's value."""

_OUTPUT_SCORES: dict[str, Callable[..., Array]] = {
    "exact": lambda logits, labels, uniforms: scores(logits),
    "sampled": lambda logits, labels, uniforms: label_scores(logits, sample_labels(logits, uniforms))[None],
    "empirical": lambda logits, labels, uniforms: label_scores(logits, labels)[None],
    "batched": lambda logits, labels, uniforms: label_scores(logits, labels)[None],
}


def mlp_fisher(
    params: Sequence[tuple[Array, Array]],
    x: Array,
    labels: Array | None = None,
    activation: str = "relu",
    kind: str = "exact",
    uniforms: Array | None = None,
    batch_size: int = 1,
) -> list[tuple[Array, Array]]:
    """Per layer (F_W (I, O), F_b (O,)), **means** over the samples x (N, I), of a softmax classifier, (1) to (4).

    params: per layer (W (I, O), b (O,)), the activation after all but the last. labels (N,) serve the empirical and
    batched kinds, uniforms (N,) the sampled one, batch_size (of consecutive samples) the batched one.
    """
    check_network(params, x, labels, activation, kind, uniforms, batch_size)
    inputs, logits = forward(params, x, activation)
    S = _OUTPUT_SCORES[kind](logits, labels, uniforms)
    sums = []
    for k in reversed(range(len(params))):
        sums.append(_batched(inputs[k], S[0], batch_size) if kind == "batched" else linear_exact(inputs[k], S))
        if k > 0:
            slope = ACTIVATIONS[activation][1]
            S = (S @ params[k][0].T) * slope(inputs[k])
    N = max(len(x), 1)
    return [(F_W / N, F_b / N) for F_W, F_b in reversed(sums)]


def forward(params: Sequence[tuple[Array, Array]], x: Array, activation: str) -> tuple[list[Array], Array]:
    """The inputs of every layer, and the logits."""
    act, _ = ACTIVATIONS[activation]
    inputs = []
    for k, (W, b) in enumerate(params):
        inputs.append(x if k == 0 else act(x))
        x = inputs[k] @ W + b
    return inputs, x


def _batched(A: Array, D: Array, batch_size: int) -> tuple[Array, Array]:
    """(4) for one layer: consecutive samples of a batch are summed as (7) sums over time; zeros fill the last batch."""
    missing = -len(A) % batch_size
    batches = (len(A) + missing) // batch_size
    A, D = (np.pad(array, ((0, missing), (0, 0))).reshape(batches, batch_size, array.shape[1]) for array in (A, D))
    return linear_time(A, D)
