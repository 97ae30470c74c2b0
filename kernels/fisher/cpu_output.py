"""The compiled softmax and scores of one sample; equations are those of ``tinymeta.kernels.fisher``."""

import numpy as np

from ..simd import njit


@njit
def softmax(z, p, others, tails):
    """From logits z: p, 1 - p as the sum of the others, and sum_{k >= v} p_k, each (C,)."""
    C = len(p)
    top = z[0]
    for c in range(C):
        if z[c] > top or z[c] != z[c]:  # NaN is taken, and stays
            top = z[c]
    before = np.float32(0)
    for c in range(C):
        p[c] = np.exp(z[c] - top)
        others[c] = before
        before += p[c]
    total, after = before, np.float32(0)
    for c in range(C - 1, -1, -1):
        others[c] = (others[c] + after) / total
        after += p[c]
    tail = np.float32(0)
    for c in range(C - 1, -1, -1):
        p[c] /= total
        tail += p[c]
        tails[c] = tail


@njit
def draw(p, uniform):
    """The first class whose cumulated probability exceeds uniform times the sum (12)."""
    total = 0.0
    for c in range(len(p)):
        total += np.float64(p[c])
    label, cumulated = 0, 0.0
    for c in range(len(p)):
        cumulated += np.float64(p[c])
        label += cumulated <= uniform * total
    return label


@njit
def label_score(p, others, label, row):
    """e_label - p (9), and zeros."""
    row[:] = 0
    for c in range(len(p)):
        row[c] = others[c] if c == label else -p[c]


@njit
def column(p, others, tails, v, row):
    """Column v of scores_reduced (11), and zeros; of a single class that of scores (10)."""
    row[:] = 0
    if len(p) == 1:
        row[0] = np.sqrt(p[0]) * others[0]
        return
    rest = tails[v + 1]
    pivot = np.sqrt(_share(p[v], tails[v]) * rest)
    row[v] = pivot
    for k in range(v + 1, len(p)):
        row[k] = -_share(p[k], rest) * pivot


@njit
def _share(part, whole):
    return part / whole if whole != 0 else np.float32(0)
