"""The multi-task baselines of Table 2 (1703.03400, appendix C): the mean of the parameters of many regressors, one per task.

"We sequentially trained 500 separate models on 500 tasks", each "initialized randomly and trained on a large amount of data from
its assigned task"; "we then took the average parameter vector across models and fine-tuned on 5 datapoints with a tuned step size".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinymeta import compile, nets, ops, optim, trees
from tinymeta.data.sine import SineTasks, sine_points, sine_tasks
from tinymeta.engine.transforms import value_and_grad
from tinymeta.experiments.maml_sine_tasks import Params, mse, on_grid
from tinymeta.lab import Run, stream

FITS = 0.02  # "the error of the individual regressors was low: less than 0.02 on their respective sine waves"

Anchor = Callable[[Params, int], Params | None]  # of a penalty on ‖θ - anchor‖², given the mean of so many regressors
Descent = Callable[..., tuple[Params, Any]]  # params, Adam's state, points, anchor, strength -> params, state


@dataclass(frozen=True)
class Regressors:
    """What the configuration says of the regressors: how many (0 for none), trained how, and the strengths tried of a penalty.

    The paper's is "as high as possible without significantly deterring performance": the greatest with which the first
    `tuning_regressors`, on waves of their own, have a mean error below 0.02, or the least if none does. Each starts from random
    weights of its own, as the paper says, or with `shared_start` all from the same ones.
    """

    seed: int = 0
    hidden: tuple[int, ...] = (40, 40)
    sigma: float = 0.01
    regressors: int = 500
    regressor_iterations: int = 6_000
    regressor_points: int = 20
    regressor_lr: float = 1e-2
    penalties: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    tuning_regressors: int = 20
    shared_start: bool = False
    compiled: bool = True


class Averaged(NamedTuple):
    """The mean parameters of all regressors, the mean squared error of each on its own wave, and the penalty's strength."""

    mean: Params
    errors: list[float]
    strength: float


KINDS: dict[str, Anchor | None] = {
    "multi-task": None,
    "multi-task, l2": lambda mean, count: trees.map(np.zeros_like, mean),
    "multi-task, to the mean": lambda mean, count: mean if count else None,
}


def averaged(config: Regressors, run: Run, name: str) -> Averaged:
    """The baseline of this name, with its penalty at the strength that was found for it."""
    anchor, descend = KINDS[name], _descent(config)

    def train(stage: str, part: str, count: int, strength: float) -> dict[str, Any]:
        step = partial(_with_one_more, config, descend, part, anchor, strength)
        return run.stage(stage, count, lambda: _none_yet(config), step)

    def fits(strength: float) -> bool:
        tuned = train(f"{name}, strength {strength!r}", "tuning regressors", config.tuning_regressors, strength)
        return bool(np.mean(tuned["errors"]) < FITS)

    strength = max(filter(fits, config.penalties), default=min(config.penalties)) if anchor else 0.0
    return Averaged(**train(name, "regressors", config.regressors, strength), strength=strength)


def _none_yet(config: Regressors) -> dict[str, Any]:
    return {"mean": trees.map(np.zeros_like, _initial(config, _common(config))), "errors": []}


def _with_one_more(
    config: Regressors,
    descend: Descent,
    part: str,
    anchor: Anchor | None,
    strength: float,
    state: dict[str, Any],
    i: int,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The mean and the errors with those of regressor i."""
    rng, mean = stream(config.seed, part, i), state["mean"]
    task, params = sine_tasks(rng, 1), _initial(config, _common(config) if config.shared_start else rng)
    drawn_to = anchor(mean, i) if anchor else None
    strength = 0.0 if drawn_to is None else strength
    moments = _adam(config).init(params)._replace(step=np.asarray(0))  # an array: one program for all steps
    for batch in _batches(config, task, rng):
        params, moments = descend(params, moments, batch, drawn_to or mean, np.float32(strength))
    error = float(mse(params, on_grid(task, 100))[0])
    mean = trees.map(lambda m, p: (m * i + p) / np.float32(i + 1), mean, params)
    return {"mean": mean, "errors": [*state["errors"], error]}, {"loss": error}


def _common(config: Regressors) -> np.random.Generator:
    return stream(config.seed, "regressor start")


def _initial(config: Regressors, rng: np.random.Generator) -> Params:
    return nets.init_mlp(rng, (1, *config.hidden, 1), config.sigma)


def _batches(config: Regressors, task: SineTasks, rng: np.random.Generator) -> Iterator[Any]:
    """Fresh points of the wave for every iteration, x and y of shape (points, 1)."""
    drawn = sine_points(task, rng, config.regressor_iterations * config.regressor_points)
    return zip(*(z.reshape(config.regressor_iterations, -1, 1) for z in drawn), strict=True)


def _adam(config: Regressors) -> optim.Optimizer:
    return optim.adam(optim.cosine(config.regressor_lr, config.regressor_iterations))


def _descent(config: Regressors) -> Descent:
    """A step of Adam on the squared error and the penalty."""
    adam = _adam(config)

    def objective(params: Params, batch: Any, anchor: Params, strength: Any) -> Any:
        distance = [ops.sum(ops.square(p - a)) for p, a in zip(trees.leaves(params), trees.leaves(anchor), strict=True)]
        return mse(params, batch) + strength * sum(distance[1:], distance[0])

    def descend(params: Params, moments: Any, *data: Any) -> tuple[Params, Any]:
        _, gradient = value_and_grad(objective)(params, *data)
        updates, moments = adam.update(gradient, moments)
        return optim.apply_updates(params, updates), moments

    return compile(descend) if config.compiled else descend
