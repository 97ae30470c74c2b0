"""What this package refuses, each in one sentence."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.batched import Batched
from ..engine.tensor import Tensor, as_array, describe

Array = np.ndarray
Numbers = np.ndarray | Sequence[int]
FISHER = "fisher_diagonal"


class NotFinite(ValueError):
    """NaN or infinity where a number is expected, in outputs, a Fisher or a penalty: training has diverged, or x is too large."""


def is_amount(x: Any) -> bool:
    """A finite number, 0 or more; an array of axes () too, as np.load gives it back."""
    number = isinstance(x, (int, float)) and not isinstance(x, bool)
    kind = x.dtype.kind if hasattr(x, "dtype") else "f" if number else ""
    return kind in ("f", "i", "u") and np.shape(x) == () and bool(0 <= x < np.inf)


def is_count(x: Any) -> bool:
    """An int, 1 or more."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool) and bool(x >= 1)


def check_kind(kind: str, kinds: Collection[str], batch_size: int, y: Any) -> None:
    """One of the kinds, not given in the place of y, and a batch of at least one sample."""
    if isinstance(y, str):
        raise TypeError(f"{FISHER}: y is {y!r}, expected labels; the kind is given by name, kind={y!r}")
    if kind not in kinds:
        raise ValueError(f"{FISHER}: kind is {kind!r}, expected one of {', '.join(map(repr, kinds))}")
    if not is_count(batch_size):
        raise ValueError(f"{FISHER}: batch_size is {batch_size!r}, expected an int, 1 or more")


def check(net: Any, params: Any, x: Any, who: str = FISHER) -> None:
    """net as a function, params as float arrays, one or more, x as an array of at least one sample."""
    if not callable(net):
        raise TypeError(
            f"{who}: net is {describe(net)}, expected a function of (params, x); the order is net, params, x"
        )
    if not trees.leaves(params):
        raise ValueError(f"{who}: params has no arrays, expected a tree of one or more")
    for path, w in trees.items(params):
        if type(w) is Tensor:
            raise TypeError(f"{who}: params{path} is a Tensor; the Fisher has no derivative, call it on plain arrays")
        if getattr(getattr(w, "dtype", None), "kind", None) != "f":
            raise TypeError(f"{who}: params{path} is {describe(w)}, expected an array of floats; use .astype")
    if type(x) in (Tensor, Batched):
        raise TypeError(f"{who}: x is a {type(x).__name__}; the Fisher has no derivative, call it on plain arrays")
    if not hasattr(x, "shape") or x.ndim == 0 or len(x) == 0:
        raise ValueError(f"{who}: x is {describe(x)}, expected an array (N, ...) of at least one sample")


def checked_rng(rng: Any) -> Any:
    """A generator; that of seed 0 for None."""
    if rng is not None and (not hasattr(rng, "random") or isinstance(rng, random.Random)):
        raise TypeError(f"{FISHER}: rng is {rng!r}, expected a generator such as np.random.default_rng(0)")
    return np.random.default_rng(0) if rng is None else rng


def checked_count(samples: Any, available: int) -> int:
    """How many samples to take."""
    if not is_count(samples) or samples > available:
        raise ValueError(
            f"{FISHER}: samples is {samples!r}, expected an int from 1 to {available}, the number of samples"
        )
    return int(samples)


def checked_labels(y: Any, samples: int, kind: str) -> Array:
    """y as an integer array (samples,)."""
    if y is None:
        raise ValueError(f"{FISHER}: kind {kind!r} needs the labels y; kinds 'exact' and 'sampled' do without")
    labels = as_array(y)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{FISHER}: y is {describe(labels)}, expected integer labels of shape [{samples}]")
    if labels.shape != (samples,):
        raise ValueError(f"{FISHER}: y is {describe(labels)}, expected one label per sample, shape [{samples}]")
    return labels


def check_range(labels: Array, classes: int) -> None:
    """Labels lie in 0..classes-1."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        n = int(wrong[0])
        raise ValueError(
            f"{FISHER}: the label of sample {n} is {labels[n]}, expected 0 to {classes - 1}, for the net has "
            f"{classes} outputs"
        )


def checked_logits(logits: Any, x: Array, numbers: Numbers) -> Array:
    """Finite float logits (N, C) for x (N, ...), C >= 2; `numbers` are those that the user knows the samples by."""
    logits = checked_outputs(logits, x, numbers)
    if logits.shape[1] < 2:
        raise ValueError(
            f"{FISHER}: the net gave {describe(logits)}, one output per sample, whose softmax is 1 whatever it is; for two classes "
            "give two logits, (0, z)"
        )
    if (logits > 0).all() and np.allclose(logits.sum(axis=1), 1, rtol=0, atol=1e-5):
        raise ValueError(
            f"{FISHER}: the net gave probabilities (positive, each row sums to 1), expected logits; leave out the softmax"
        )
    return logits


def checked_outputs(outputs: Any, x: Array, numbers: Numbers, who: str = FISHER) -> Array:
    """Finite floats (N, C) for x (N, ...)."""
    if type(outputs) is Tensor:
        raise TypeError(
            f"{who}: the net uses a Tensor from outside; the Fisher has no derivative, call it on plain arrays"
        )
    if getattr(getattr(outputs, "dtype", None), "kind", None) != "f" or outputs.ndim != 2 or len(outputs) != len(x):
        raise ValueError(
            f"{who}: the net gave {describe(outputs)} for x {describe(x)}, expected float logits of shape [{len(x)},classes]"
        )
    wrong = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if wrong.size:
        n = int(wrong[0])
        raise NotFinite(
            f"{who}: the logits of sample {numbers[n]} are not finite ({outputs[n]}); look for NaN in x and params, and mask "
            "classes by a finite number such as -1e4"
        )
    return outputs


def check_unmixed(again: Any, logits: Array, who: str = FISHER) -> None:
    """`again`, the logits of the first samples without the rest of their batch, is what it was up to rounding."""
    if not unmixed(again, logits):
        change = np.abs(again - logits[: len(again)]).max()
        raise ValueError(
            f"{who}: the logits of a sample change by {change:.3g} when it is evaluated without the rest of its batch, so "
            "no score is its own; use a net without batch statistics (batch norm as in evaluation) and without dropout"
        )


def unmixed(again: Array, logits: Array) -> bool:
    """Whether `again` is the first of the logits, up to rounding."""
    change, size = (np.abs(z).max(axis=0) for z in (again - logits[: len(again)], logits))
    size = np.maximum(size, np.sort(size)[:2][-1])  # by class, for a mask may make some huge; two or more have none
    near = change <= np.cbrt(np.finfo(logits.dtype).eps) * size  # NaN, of a lone sample's own statistics, is not
    return bool(np.all(near))


def checked_result(fisher: Any, who: str = FISHER) -> Any:
    """The Fisher, all finite."""
    for path, F in trees.items(fisher):
        if not np.isfinite(F).all():
            raise NotFinite(
                f"{who}: the result at params{path} overflows {F.dtype}; scale x down or use float64 params"
            )
    return fisher


def check_like(expected: Any, tree: Any, name: str) -> None:
    """`tree` has the structure, shapes and dtypes of `expected`."""
    found: list = []
    try:
        trees.map(lambda _, leaf: found.append(leaf), expected, tree)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if all(_kind(w) == _kind(x) for w, x in zip(trees.leaves(expected), found, strict=True)):
        return
    for (path, wanted), leaf in zip(trees.items(expected), found, strict=True):
        if _kind(leaf) != _kind(wanted):
            raise ValueError(f"{name}{path} is {describe(leaf)}, expected {describe(wanted)}")


def _kind(x: Any) -> Any:
    return (x.dtype, x.shape) if hasattr(x, "dtype") else type(x)


def check_finite(params: Any, name: str) -> None:
    """Weights that have not diverged."""
    for path, w in trees.items(params):
        if not np.isfinite(w).all():
            raise NotFinite(f"{name}{path} is not finite; training has diverged")


def check_fisher(fisher: Any, name: str) -> None:
    """Entries are finite and not negative."""
    for path, F in trees.items(fisher):
        if not (np.isfinite(F) & (F >= 0)).all():
            error = ValueError if np.isfinite(F).all() else NotFinite
            raise error(f"{name}{path} has entries that are negative or not finite, which no Fisher diagonal has")
