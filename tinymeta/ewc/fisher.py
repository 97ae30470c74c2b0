"""The diagonal of the Fisher information of a classifier: the mean over samples of squared scores, never the square of a mean.

The score of label c for sample n is g(n, c) = ∂ log p(c | x_n) / ∂θ. The kinds (names of van de Ven 2025, arXiv 2502.11756)
differ in the labels; formulas (1) to (4) of tinymeta.kernels.fisher:

    exact      mean_n Σ_c p(c | x_n) g(n, c)²
    sampled    mean_n g(n, c_n)², one c_n drawn from p(. | x_n): unbiased for exact
    empirical  mean_n g(n, y_n)², y_n the true label: another matrix, equal to exact only where the model is right
    batched    1/N Σ_batches (Σ_{n in batch} g(n, y_n))²: the squared mean gradients of popular code, times the batch size
               so that they compare with empirical; depends on the batches
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.transforms import vjp
from ..kernels import fisher as kernels
from . import arguments
from .by_layer import squares_by_layer

Array = np.ndarray

# kind -> columns S (V, N, C) of output scores, from the logits and what is given per sample: labels, or uniforms to draw them
KINDS: dict[str, Callable[[Array, Any], Array]] = {
    "exact": lambda logits, _: kernels.scores(logits),
    "sampled": lambda logits, uniforms: kernels.label_scores(logits, kernels.sample_labels(logits, uniforms))[None],
    "empirical": lambda logits, labels: kernels.label_scores(logits, labels)[None],
    "batched": lambda logits, labels: kernels.label_scores(logits, labels)[None],
}
LABELLED = ("empirical", "batched")


def fisher_diagonal(
    net: Callable[[Any, Any], Any],
    params: Any,
    x: Array,
    y: Array | None = None,
    kind: str = "exact",
    *,
    batch_size: int = 128,
    rng: np.random.Generator | None = None,
) -> Any:
    """The Fisher diagonal at `params` of p(c | x) = softmax(net(params, x))_c: a tree like `params`, of its dtypes.

    x (N, ...) samples, y (N,) integer labels (only the empirical and batched kinds read them), net(params, x) logits (N, C).
    `rng` draws the labels of the sampled kind, one number per sample (default_rng(0) for None). `batch_size` samples are
    held in memory at a time; only the batched kind depends on it. Sums over batches are in float64.

    Nets in which each weight enters by one x @ w or one + b, like nets.mlp, take all samples of a batch at once. Any other
    net is slow: one gradient per sample and label, and the score of sample n is that of net(params, x[n : n + 1]).

    TypeError unless params are float arrays and labels integers. ValueError for no samples, labels that are missing or out
    of range, outputs that are not (N, C) or not finite, and nets that mix the samples of a batch, as batch norm does.
    """
    arguments.check(params, x, kind, KINDS, batch_size)
    given = _given(kind, x, y, rng)
    totals = _zeros(params)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, with a sentence
        for start in range(0, len(x), batch_size):
            rows = slice(start, start + batch_size)
            logits = arguments.checked_logits(net(params, x[rows]), x[rows], start)
            if kind in LABELLED:
                arguments.check_range(given[rows], logits.shape[1], start)
            columns = KINDS[kind](logits, given[rows])
            squares = _squares_of_sum if kind == "batched" else _squares_per_sample
            _add(totals, squares(net, params, x[rows], logits, columns))
        leaves = [(t / len(x)).astype(w.dtype) for t, w in zip(totals, trees.leaves(params), strict=True)]
    return arguments.checked_result(trees.unflatten(params, leaves))


def _given(kind: str, x: Array, y: Any, rng: np.random.Generator | None) -> Any:
    """Per sample its label, or the uniform number that will draw it: independent of how samples are split into batches."""
    if kind in LABELLED:
        return arguments.checked_labels(y, len(x), kind)
    drawn = (rng or np.random.default_rng(0)).random(len(x) if kind == "sampled" else 0)
    return np.asarray(drawn, like=x)


def _squares_per_sample(net: Callable, params: Any, x: Array, logits: Array, columns: Array) -> list[Array]:
    """Per leaf Σ_n Σ_v score²: all samples at once where the net allows it, else one by one."""
    squares = squares_by_layer(net, params, x, logits, columns)
    if squares is not None:
        arguments.check_unmixed(net(params, x[: (len(x) + 1) // 2]), logits)
        return squares
    totals = _zeros(params)
    for n in range(len(x)):
        one = slice(n, n + 1)
        _add(totals, _squares_of_sum(net, params, x[one], logits[one], columns[:, one]))
    return totals


def _squares_of_sum(net: Callable, params: Any, x: Array, logits: Array, columns: Array) -> list[Array]:
    """Per leaf Σ_v (Σ_n score)²: the scores of all samples in x are summed before they are squared."""
    again, pull = vjp(lambda p: net(p, x), params)
    arguments.check_unmixed(again, logits)
    totals = _zeros(params)
    for column in columns:
        _add(totals, [np.square(g, dtype=np.float64) for g in trees.leaves(pull(column)[0])])
    return totals


def _zeros(params: Any) -> list[Array]:
    return [np.zeros_like(w, dtype=np.float64) for w in trees.leaves(params)]


def _add(totals: list[Array], terms: list[Array]) -> None:
    for total, term in zip(totals, terms, strict=True):
        total += term
