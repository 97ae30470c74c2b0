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
from .by_layer import reduced
from .rules import blocks

Array = np.ndarray
CHECKED = 8  # samples of each block whose logits are compared with those that the net gives for all of them together

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
    samples: int | None = None,
    batch_size: int = 128,
    rng: np.random.Generator | None = None,
) -> Any:
    """The Fisher diagonal at `params` of p(c | x) = softmax(net(params, x))_c: a tree like `params`, of its dtypes.

    x (N, ...), y (N,) integer labels (only the empirical and batched kinds read them), net(params, x) logits (N, C). `samples`
    of the N are taken, without replacement; None for all. `rng` draws them, and the labels of the sampled kind: one number per
    sample (default_rng(0) for None). Only the batched kind depends on `batch_size`, the others on nothing that splits samples.

    The score of sample n is that of net(params, x[n : n + 1]). Sums are in float64, and memory is bounded. `fisher_rules` tells
    how each leaf is served; a SlowFisher warning names those for which it is slow.

    TypeError unless params are float arrays and labels integers. ValueError for no samples, labels that are missing or out of
    range, outputs that are not logits (N, C >= 2) or not finite, and nets that mix the samples of a batch, as batch norm does.
    """
    arguments.check(params, x, kind, KINDS, batch_size)
    labels = arguments.checked_labels(y, len(x), kind) if kind in LABELLED else None
    rng = rng or np.random.default_rng(0)
    if samples is not None:
        chosen = np.sort(rng.choice(len(x), arguments.checked_count(samples, len(x)), replace=False))
        x, labels = x[chosen], None if labels is None else labels[chosen]
    given = np.asarray(rng.random(len(x) if kind == "sampled" else 0), like=x) if labels is None else labels
    totals = [np.zeros_like(w, dtype=np.float64) for w in trees.leaves(params)]
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, with a sentence
        arguments.checked_logits(net(params, x[:CHECKED]), x[:CHECKED], 0)
        rows, together = (batch_size, False) if kind == "batched" else blocks(net, params, x)
        squares = _squares_of_sum if kind == "batched" else _squares_together if together else _squares_one_by_one
        for start in range(0, len(x), rows):
            at = slice(start, start + rows)
            for total, term in zip(totals, squares(net, params, x[at], _columns(kind, given[at], start)), strict=True):
                total += term
        leaves = [(t / len(x)).astype(w.dtype) for t, w in zip(totals, trees.leaves(params), strict=True)]
    return arguments.checked_result(trees.unflatten(params, leaves))


def _columns(kind: str, given: Array, start: int) -> Callable[[Any, Array], Array]:
    """S (V, n, C) of a block of samples x, the first of which has the number `start`, from its logits, which are checked."""

    def columns(logits: Any, x: Array) -> Array:
        logits = arguments.checked_logits(logits, x, start)
        if kind in LABELLED:
            arguments.check_range(given, logits.shape[1], start)
        return KINDS[kind](logits, given)

    return columns


# ---- per leaf Σ_n Σ_v score² over the samples x, three ways ----


def _squares_together(net: Callable, params: Any, x: Array, columns: Callable) -> list[Array]:
    """All samples at once, each by itself in a vmap."""

    def checked(logits: Array) -> Array:
        found = columns(logits, x)
        arguments.check_unmixed(net(params, x[:CHECKED]), logits)
        return found

    return reduced(net, params, x, checked)


def _squares_one_by_one(net: Callable, params: Any, x: Array, columns: Callable) -> list[Array]:
    """For nets that cannot be looked into: one gradient per sample and column."""
    logits = net(params, x)
    found, totals = columns(logits, x), None
    for n in range(len(x)):
        terms = _squared_sums(net, params, x[n : n + 1], logits[n : n + 1], found[:, n : n + 1])
        totals = terms if totals is None else [t + term for t, term in zip(totals, terms, strict=True)]
    return totals or []


def _squares_of_sum(net: Callable, params: Any, x: Array, columns: Callable) -> list[Array]:
    """Σ_v (Σ_n score)²: the scores of all samples in x are summed before they are squared."""
    logits = net(params, x)
    return _squared_sums(net, params, x, logits, columns(logits, x))


def _squared_sums(net: Callable, params: Any, x: Array, logits: Array, columns: Array) -> list[Array]:
    again, pull = vjp(lambda p: net(p, x), params)
    arguments.check_unmixed(again, logits)
    scores = [trees.leaves(pull(column)[0]) for column in columns]
    return [sum(np.square(g, dtype=np.float64) for g in of_leaf) for of_leaf in zip(*scores, strict=True)]
