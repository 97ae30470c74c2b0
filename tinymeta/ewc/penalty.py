"""The penalty on moving weights that earlier tasks need (Kirkpatrick et al. 2016, arXiv 1612.00796, Eq. 3)."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.tensor import describe
from .arguments import NotFinite, check_finite, check_fisher, check_like, is_amount
from .backends import penalty as kernels

_SOUND: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Leaves of Fishers by their id: none is looked at twice, since a loop makes its penalty of its state anew at each step."""


@dataclass(frozen=True, eq=False)  # arrays are neither equal nor not
class Penalty:
    """λ/2 Σ_tasks Σ_i F_i (θ_i - θ*_i)², a value: add_task gives a new one. Without tasks it is 0.

    In units where the loss is a *mean* cross-entropy and F the *mean* squared score per sample, lam = 1 is Bayes' rule for
    tasks of one size. All tasks fold into one quadratic of Fisher ΣF and the weighted mean of the anchors θ*, plus a
    constant: memory and time do not grow with the tasks, and value() is the sum over them.

    With a number for gamma it is anchored at the latest task alone, and F ← gamma F + F_new: online EWC (Schwarz et al. 2018,
    arXiv 1805.06370). gamma acts there and nowhere else, so 1 is Huszár's form of EWC (2018, PNAS 115 (11) E2496), and 0 knows
    the latest task only. ValueError unless lam and gamma are finite numbers, 0 or more, and F of such; NotFinite if a sum over
    tasks overflows.

    A checkpoint holds vars(penalty), a dict of trees; Penalty(**saved) is the penalty again, on these arrays: do not write to them.
    """

    lam: float
    gamma: float | None = None
    fisher: Any = field(default=None, repr=False)
    anchor: Any = field(default=None, repr=False)
    constant: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.constant, float) and not np.isfinite(self.constant):  # a sum over tasks
            raise NotFinite(
                f"Penalty: constant is {self.constant}, expected a finite number; the anchors are too far apart"
            )
        numbers = {"lam": self.lam, "gamma": 0.0 if self.gamma is None else self.gamma, "constant": self.constant}
        for name, number in numbers.items():
            if not is_amount(number):
                raise ValueError(f"Penalty: {name} is {number!r}, expected a finite number, 0 or more")
        _check_quadratic(self.fisher, self.anchor)

    def add_task(self, params: Any, fisher: Any, mask: Any = None) -> Penalty:
        """The penalty with one more task, learned as `params` (θ*), of Fisher diagonal `fisher`, a tree like it.

        Where `mask` is False F counts as 0: a tree of booleans or boolean arrays, or the beginning of one such as
        {"trunk": True, "heads": False}. All is copied. ValueError if params, fisher and earlier tasks differ in structure,
        shapes or dtypes, if the mask does not fit, or if F is negative; NotFinite if F or params are not finite.
        """
        check_like(params, fisher, "Penalty.add_task: fisher")
        check_finite(params, "Penalty.add_task: params")
        check_fisher(fisher, "Penalty.add_task: fisher")
        fisher = fisher if mask is None else masked(fisher, mask)
        if self.fisher is None:
            return replace(self, **_folded(params, [(params, fisher)]))
        check_like(self.anchor, params, "Penalty.add_task: params")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused, with a sentence
            if self.gamma is not None:
                gamma = float(self.gamma)  # a scalar of NumPy's would decide on the dtype
                decayed = trees.map(lambda old, new: gamma * old + new, self.fisher, fisher)
                return replace(self, fisher=decayed, anchor=trees.map(np.copy, params))
            folded = _folded(params, [(self.anchor, self.fisher), (params, fisher)])
        return replace(self, **(folded | {"constant": self.constant + folded["constant"]}))

    def value(self, params: Any) -> Any:
        """The penalty at `params`, a scalar of their dtype; differentiable to any order."""
        if self.fisher is None:
            return 0.0
        check_like(self.anchor, params, "Penalty.value: params")
        squares = trees.map(lambda w, a, F: ops.sum(F * ops.square(w - a)), params, self.anchor, self.fisher)
        return float(self.lam) * (0.5 * sum(trees.leaves(squares)) + float(self.constant))

    def grad(self, params: Any) -> Any:
        """λ Σ_tasks F (θ - θ*), a tree like `params`: the gradient of value, by hand."""
        if self.fisher is None:
            return trees.map(np.zeros_like, params)
        check_like(self.anchor, params, "Penalty.grad: params")
        return trees.map(lambda w, a, F: kernels.penalty_grad(w, a, F, self.lam), params, self.anchor, self.fisher)

    def quadratic(self, params: Any) -> tuple[Any, Any]:
        """(θ*, F), trees like `params`, of the one quadratic λ/2 Σ F (θ - θ*)² that this is up to a constant; F = 0 without tasks.

        ValueError if params differ from the tasks' in structure, shapes or dtypes.
        """
        if self.fisher is None:
            return params, trees.map(np.zeros_like, params)
        check_like(self.anchor, params, "Penalty: params")
        return self.anchor, self.fisher

    def grown(self, params: Any) -> Penalty:
        """The same penalty for a network that has new leaves (a head for the next task): F = 0 for these.

        ValueError if a leaf that the penalty knows is missing in params, or has another shape or dtype there.
        """
        if self.fisher is None:
            return self
        anchors, fishers = dict(trees.items(self.anchor)), dict(trees.items(self.fisher))
        missing = anchors.keys() - dict(trees.items(params)).keys()
        if missing:
            raise ValueError(
                f"Penalty.grown: params{min(missing)} is missing, which the penalty holds; keep old leaves"
            )
        items = list(trees.items(params))
        anchor = trees.unflatten(params, [anchors[at] if at in anchors else np.copy(w) for at, w in items])
        fisher = trees.unflatten(params, [fishers[at] if at in fishers else np.zeros_like(w) for at, w in items])
        check_like(anchor, params, "Penalty.grown: params")
        return replace(self, anchor=anchor, fisher=fisher)

    def stability(self, lr: float) -> float:
        """max η λ F: a gradient step of rate `lr` overshoots an anchor where this passes 1, and diverges beyond 2."""
        return lr * self.lam * max((float(np.max(F)) for F in trees.leaves(self.fisher) if F.size), default=0.0)


def masked(fisher: Any, mask: Any) -> Any:
    """The Fisher with 0 where `mask`, a tree of booleans or boolean arrays or the beginning of one, is False."""
    entries = trees.spread(mask, fisher)
    for (path, F), m in zip(trees.items(fisher), entries, strict=True):
        if np.asarray(m).dtype != bool or np.shape(m) not in ((), F.shape):
            raise ValueError(f"mask of fisher{path} is {describe(m)}, expected True, False or bool{list(F.shape)}")
    return trees.unflatten(fisher, [F * m for F, m in zip(trees.leaves(fisher), entries, strict=True)])


def uniform_fisher(params: Any) -> Any:
    """Ones like `params`: with them the penalty is the paper's L2 baseline, which holds all weights alike."""
    return trees.map(np.ones_like, params)


def warn_if_unstable(penalty: Penalty, lr: float, stacklevel: int = 2) -> float:
    """penalty.stability(lr), with a RuntimeWarning if it is more than 1; for use before training with plain SGD. `stacklevel`
    says whose line the warning names: 2 for the caller's."""
    stability = penalty.stability(lr)
    if stability > 1:
        outcome = "diverges" if stability > 2 else "overshoots its anchor"
        warnings.warn(
            f"lr * lam * max(fisher) is {stability:.3g}: gradient descent {outcome} where it passes "
            f"{2 if stability > 2 else 1}; lower lr to {lr / stability:.3g}, or lam",
            RuntimeWarning,
            stacklevel=stacklevel,
        )
    return stability


def _check_quadratic(fisher: Any, anchor: Any) -> None:
    """Both are missing, or trees that fit, F finite and not negative."""
    if (fisher is None) != (anchor is None):
        raise ValueError("Penalty: of fisher and anchor one is missing; give both, or make the penalty by add_task")
    if fisher is None:
        return
    check_like(anchor, fisher, "Penalty: fisher")
    if all(_SOUND.get(id(F)) is F for F in trees.leaves(fisher)):
        return
    check_fisher(fisher, "Penalty: fisher")
    check_finite(anchor, "Penalty: anchor")
    for F in trees.leaves(fisher):
        with contextlib.suppress(TypeError):  # not every array can be referred to weakly
            _SOUND[id(F)] = F


def _folded(params: Any, tasks: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Fisher, anchor and constant of several (anchor, fisher) as one, leaf by leaf: trees like `params`, and a float."""

    def fold(_: Any, *leaves: Any) -> tuple[Any, Any, Any]:
        return kernels.fold(list(zip(leaves[::2], leaves[1::2], strict=True)))

    fisher, anchor, constants = mapped(3, fold, params, *itertools.chain(*tasks))
    fisher, anchor = (trees.map(lambda w, x: x.astype(w.dtype, copy=False), params, tree) for tree in (fisher, anchor))
    return {"fisher": fisher, "anchor": anchor, "constant": float(sum(trees.leaves(constants)))}


def mapped(count: int, f: Callable, tree: Any, *rest: Any) -> list[Any]:
    """`count` trees like `tree` from a function of matching leaves that returns as many."""
    found: list[tuple] = []
    trees.map(lambda *leaves: found.append(f(*leaves)), tree, *rest)
    return [trees.unflatten(tree, [leaf[i] for leaf in found]) for i in range(count)]
