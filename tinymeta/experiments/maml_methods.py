"""The meta-learning methods that the MAML experiments compare, by name, and one step of their outer loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinymeta import compile, maml, optim, trees
from tinymeta.experiments.settings import expect_once


@dataclass(frozen=True)
class InnerLoop:
    """What an experiment's configuration says of the inner loop: `inner_steps` of `inner_lr`.

    `variant_steps` are the inner steps of the methods that need several, Reptile and MAML++. Implicit MAML has its own, which are
    to come near its minimum: `implicit_steps` of `implicit_lr`, with λ = `strength`. Its meta-gradient knows nothing of the steps,
    and so keeps no curvature away that they cannot descend: the rate must be small. `compiled` replays the meta-gradient by
    tm.compile; without it every op runs on its own, ten times slower.
    """

    inner_lr: float = 0.01
    inner_steps: int = 1
    variant_steps: int = 5
    implicit_lr: float = 2e-3
    implicit_steps: int = 25
    strength: float = 20.0
    cg_steps: int = 5
    compiled: bool = True


class Entry(NamedTuple):
    """A method's name in tables, how it is made of a setting and the part of the parameters that the inner loop changes, and which
    key of the setting has the number of inner steps that it is trained for."""

    name: str
    build: Callable[[Any, maml.Part | None], maml.Method]
    steps: str = "inner_steps"


METHODS: dict[str, Entry] = {
    "maml": Entry("MAML", lambda c, part: maml.maml(c.inner_lr, c.inner_steps, part=part)),
    "first-order": Entry("first-order MAML", lambda c, part: maml.maml(c.inner_lr, c.inner_steps, 1, part)),
    "anil": Entry("ANIL", lambda c, part: maml.anil(c.inner_lr, c.inner_steps)),
    "meta-sgd": Entry("Meta-SGD", lambda c, part: maml.meta_sgd(c.inner_lr, c.inner_steps)),
    "maml++": Entry("MAML++", lambda c, part: maml.maml_plus_plus(c.inner_lr, c.variant_steps), "variant_steps"),
    "reptile": Entry("Reptile", lambda c, part: maml.reptile(c.inner_lr, c.variant_steps), "variant_steps"),
    "implicit": Entry(
        "implicit MAML",
        lambda c, part: maml.implicit(c.implicit_lr, c.implicit_steps, c.strength, c.cg_steps),
        "implicit_steps",
    ),
}


def check_methods(key: str, config: InnerLoop) -> None:
    """ValueError for a name that is not in METHODS or comes twice, and for a setting that one of them refuses."""
    expect_once(config, [key])
    for name in getattr(config, key):
        if name not in METHODS:
            raise ValueError(f"{key} has {name!r}, expected names among {', '.join(METHODS)}")
        METHODS[name].build(config, None)  # now, and not after the methods before it are trained


def trained_steps(name: str, config: InnerLoop) -> int:
    """The inner steps that a method is trained for."""
    return getattr(config, METHODS[name].steps)


def multi_step(name: str, config: InnerLoop, progress: float) -> dict[str, Any]:
    """The further argument of MAML++'s meta-gradient: its multi-step loss is annealed over the first tenth of training.

    After that the loss of the last step alone counts, as in the authors' code (few_shot_learning_system.py, `forward`).
    """
    annealing = name == "maml++" and 10 * progress < 1
    return {"weights": maml.step_weights(config.variant_steps, 10 * progress)} if annealing else {}


def begin(method: maml.Method, params: Any, optimizer: optim.Optimizer) -> dict[str, Any]:
    """The state before the first meta-step."""
    meta = method.init(params)
    return {"meta": meta, "adam": optimizer.init(meta)}


def gradient_of(config: InnerLoop, method: maml.Method, loss: Any) -> Any:
    """The method's meta-gradient of a loss: (meta, support, query) -> (value, gradient)."""

    def meta_gradient(meta: Any, support: Any, query: Any, **more: Any) -> Any:
        return method.meta_gradient(loss, meta, support, query, **more)

    return compile(meta_gradient) if config.compiled else meta_gradient


def meta_step(
    gradient: Any,
    optimizer: optim.Optimizer,
    state: dict[str, Any],
    support: Any,
    query: Any,
    clip: float = 0.0,
    **more: Any,
) -> tuple[dict[str, Any], float]:
    """The state after one step of the outer optimizer along a meta-gradient, and the mean query loss before it.

    Each element of the meta-gradient is cut at ± clip, unless that is 0.
    """
    value, grads = gradient(state["meta"], support, query, **more)
    grads = trees.map(lambda g: np.clip(g, -clip, clip), grads) if clip else grads
    updates, moments = optimizer.update(grads, state["adam"])
    return {**state, "meta": optim.apply_updates(state["meta"], updates), "adam": moments}, float(value)
