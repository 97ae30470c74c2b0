"""What the methods of the EWC experiments remember of a task that has been learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import nets
from tinymeta.engine import trees
from tinymeta.ewc import (
    KINDS,
    NotFinite,
    Penalty,
    fisher_diagonal,
    mas_importance,
    squisher,
    uniform_fisher,
    unit_trace,
    warn_if_unstable,
)
from tinymeta.optim import State as Moments

from .ewc_tasks import Task, logits

if TYPE_CHECKING:
    from .ewc_training import Protocol

FISHERS = (*KINDS, "squisher")
UNPROTECTED = ("none", "SGD", "SGD+dropout", "offline")  # methods without a penalty
SQUARES_DECAY = 0.999  # of the second moments of "squisher"


class Learner(NamedTuple):
    """A method, its learning rate, and the strength of its penalty: λ; for SI c; for MAS, whose penalty has no ½, its own λ.

    Methods are "none" or "SGD", "SGD+dropout", "offline" (all tasks so far at once); "L2", which holds all weights alike;
    "EWC" and "online EWC" with a kind of Fisher from so many samples (0: as the protocol says), scaled to `unit_trace` or as it is,
    and online EWC with γ, `gamma`; "MAS"; and "SI".
    """

    method: str
    learning_rate: float
    lam: float = 0.0
    fisher: str = "exact"
    samples: int = 0
    dropout: bool = False
    unit_trace: bool = False
    gamma: float | None = None

    @property
    def name(self) -> str:
        """For stages of a run."""
        strength = f", lambda {self.lam:g}" if self.method not in UNPROTECTED else ""
        decay = "" if self.gamma is None else f", gamma {self.gamma:g}"
        kind = f", {self.kind}" if self.kind != "exact" else ""
        return f"{self.method} at {self.beginning}{strength}{decay}{kind}"

    @property
    def kind(self) -> str:
        """The Fisher's, with the number of samples where that is not the protocol's, and its trace where that is 1."""
        samples = f" ({self.samples})" if self.samples else ""
        return self.fisher + samples + (" of trace 1" if self.unit_trace else "")

    @property
    def beginning(self) -> str:
        """What makes a difference before there are old tasks."""
        return f"rate {self.learning_rate:g}" + (", dropout" if self.dropout else "")


def penalty_of(learner: Learner, state: dict[str, Any]) -> Penalty:
    """The learner's penalty, which is 0 while there are no old tasks."""
    if state["penalty"] is not None:
        return Penalty(**state["penalty"])
    if learner.method == "MAS":
        return Penalty(2 * learner.lam, gamma=1.0)  # there the penalty has no factor ½
    if (learner.method == "online EWC") != (learner.gamma is not None):
        raise ValueError(f"gamma is {learner.gamma} for {learner.method}, expected a number for online EWC alone")
    return Penalty(learner.lam, learner.gamma)


def remember(
    learner: Learner, state: dict[str, Any], task: Task, protocol: Protocol, rng: np.random.Generator
) -> dict[str, Any]:
    """The state with a task as it was learned in its penalty; unchanged without a method, or where training has diverged: to
    weights that are not finite, or so large that their outputs or their Fisher are not."""
    params = state["params"]
    if learner.method in UNPROTECTED or not all(np.isfinite(leaf).all() for leaf in trees.leaves(params)):
        return state
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            if learner.method == "SI":
                si = state["si"].end_task(params)
                return {**state, "si": si, "penalty": vars(si.penalty(learner.lam))}
            penalty = penalty_of(learner, state).add_task(params, _importance(learner, state, task, protocol, rng))
    except NotFinite:
        return state
    if protocol.optimizer == "sgd":
        warn_if_unstable(penalty, learner.learning_rate)
    return {**state, "penalty": vars(penalty)}


def _importance(
    learner: Learner, state: dict[str, Any], task: Task, protocol: Protocol, rng: np.random.Generator
) -> Any:
    if learner.method == "L2":
        return uniform_fisher(state["params"])
    samples = learner.samples or protocol.fisher_samples
    if learner.method == "MAS":
        return _mas(state["params"], task, samples, rng)
    if learner.fisher == "squisher":
        fisher = squisher(Moments(protocol.steps, v=state["v"]), protocol.batch_size, SQUARES_DECAY)
    else:
        fisher = task_fisher(state["params"], task, learner.fisher, samples, rng, protocol.batch_size)
    return unit_trace(fisher) if learner.unit_trace else fisher


def task_fisher(params: Any, task: Task, kind: str, samples: int, rng: np.random.Generator, batch_size: int) -> Any:
    """The Fisher diagonal on so many training images of a task, drawn by `rng`, or on all for 0."""
    x, y = _some(task, samples, rng)
    net: Callable = lambda w, x: logits(w, x, task.mask)
    return fisher_diagonal(net, params, x, y, kind, batch_size=batch_size, rng=rng)


def _mas(params: Any, task: Task, samples: int, rng: np.random.Generator) -> Any:
    """Of the outputs that the task can answer with: what is added to the others would drown them."""
    answers = np.float32(1) if task.mask is None else (task.mask == 0).astype(np.float32)
    return mas_importance(lambda w, x: nets.mlp(w, x) * answers, params, _some(task, samples, rng)[0])


def _some(task: Task, samples: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    count = len(task.train.y)
    return task.seen(task.train, rng.permutation(count)[: samples or count])
