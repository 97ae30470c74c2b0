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
from . import arguments
from .backends import fisher as kernels
from .perceptron import fisher_of_perceptron
from .sums import CHECKED, gradients_of_sum, mean_over_samples, means

Array = np.ndarray

# kind -> columns S (V, N, C) of output scores, from the logits and what is given per sample: labels, or uniforms to draw them
KINDS: dict[str, Callable[[Array, Any], Array]] = {
    "exact": lambda logits, _: kernels.scores_reduced(logits),
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
    samples: int | None = None,
    batch_size: int = 128,
    rng: np.random.Generator | None = None,
) -> Any:
    """The Fisher diagonal at `params` of p(c | x) = softmax(net(params, x))_c: a tree like `params`, of its dtypes.

    x (N, ...), y (N,) integer labels (only the empirical and batched kinds read them), net(params, x) logits (N, C). `samples`
    of the N are taken, without replacement; None for all. `rng` draws them, and the labels of the sampled kind (default_rng(0)
    for None): one number per sample, in order, so that in whatever blocks, or calls with one rng, the samples come, each has its
    own label (unless the number is as near to the edge of a class as logits are rounded). Only the batched kind depends on
    `batch_size`; the others do not see it, to the last bit. Sums over other splits into calls differ by rounding.

    The score of sample n is that of net(params, x[n : n + 1]). Blocks of samples, in whose bounded memory it is done, are summed in
    float64. `fisher_rules` tells how each leaf is served; a SlowFisher warning names those for which it is slow.

    TypeError unless params are float arrays and labels integers. ValueError for no samples, labels that are missing or out of
    range, outputs that are not logits (N, C >= 2) or not finite, and nets that mix the samples of a batch, as batch norm does
    (which one sample alone does not show).
    """
    arguments.check(net, params, x)
    arguments.check_kind(kind, KINDS, batch_size, y)
    labels = arguments.checked_labels(y, len(x), kind) if kind in LABELLED else None
    rng = arguments.checked_rng(rng)
    numbers, given = np.arange(len(x)), labels
    if samples is not None:
        numbers = np.sort(rng.choice(len(x), arguments.checked_count(samples, len(x)), replace=False))
        x, given = x[numbers], None if labels is None else labels[numbers]
    if given is None:
        given = np.asarray(rng.random(len(x) if kind == "sampled" else 0), like=x)

    def columns(logits: Any, block: Array, start: int) -> Array:
        rows = slice(start, start + len(block))
        return KINDS[kind](arguments.checked_logits(logits, block, numbers[rows]), given[rows])

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, with a sentence
        first = arguments.checked_logits(net(params, x[:CHECKED]), x[:CHECKED], numbers)
        if len(x) > CHECKED and bool((x[:CHECKED] == x[:1]).all()):  # alone and together they have the same statistics
            rows = x[np.linspace(0, len(x) - 1, CHECKED).astype(int)]
            _check_alone(net, params, rows, net(params, rows))
        if labels is not None:
            arguments.check_range(labels, first.shape[1])  # all, also of samples that are not taken
        if kind == "batched":
            fisher = _of_batches(net, params, x, first, columns, batch_size)
        else:
            fisher = fisher_of_perceptron(net, params, x, first, kind, given)
        if fisher is None:
            fisher = mean_over_samples(arguments.FISHER, net, params, x, first, columns)
    return arguments.checked_result(fisher)


def _check_alone(net: Callable, params: Any, x: Array, together: Array) -> None:
    """The first samples of x have one by one the logits that they have together."""
    alone = np.concatenate([net(params, x[n : n + 1]) for n in range(len(together))])
    arguments.check_unmixed(alone, together)


def _of_batches(net: Callable, params: Any, x: Array, first: Array, columns: Callable, batch_size: int) -> Any:
    """The scores of a batch are summed before they are squared."""
    _check_alone(net, params, x, first)
    totals = [np.zeros_like(w, dtype=np.float64) for w in trees.leaves(params)]
    for start in range(0, len(x), batch_size):
        block = x[start : start + batch_size]
        logits = net(params, block)
        scores = gradients_of_sum(arguments.FISHER, net, params, block, logits, columns(logits, block, start))
        for total, (g,) in zip(totals, scores, strict=True):
            total += np.square(g, dtype=np.float64)
    return means(totals, len(x), params)
