"""The multi-task baselines of Table 2 (1703.03400, appendix C): the mean of the parameters of many regressors, one per task.

"We sequentially trained 500 separate models on 500 tasks, each initialized randomly and trained on a large amount of data", then
"took the average parameter vector across models and fine-tuned on 5 datapoints with a tuned step size". We train them in blocks,
so the mean "thus far" that the third variant is drawn to is that of the blocks before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinymeta import compile, nets, ops, optim, trees
from tinymeta.data.sine import SineTasks, sine_points, sine_tasks
from tinymeta.engine.transforms import value_and_grad
from tinymeta.experiments.maml_sine_tasks import Params, mse, on_grid
from tinymeta.lab import Run, stream


@dataclass(frozen=True)
class Regressors:
    """What the configuration says of the regressors: how many (0 for none), trained how, and the strengths of their penalties.

    The paper's strengths are "as high as possible without significantly deterring performance".
    """

    seed: int = 0
    hidden: tuple[int, ...] = (40, 40)
    sigma: float = 0.01
    regressors: int = 500
    regressor_block: int = 50
    regressor_iterations: int = 3_000
    regressor_points: int = 20
    regressor_lr: float = 5e-3
    l2: float = 1e-3
    to_mean: float = 1e-3
    compiled: bool = True


class Kind(NamedTuple):
    """The strength of the penalty on ‖θ - anchor‖², and the anchor, given the mean of the regressors trained so far."""

    strength: Callable[[Any], float]
    anchor: Callable[[Params], Params]


def _zero(mean: Params) -> Params:
    return trees.map(np.zeros_like, mean)


KINDS: dict[str, Kind] = {
    "multi-task": Kind(lambda c: 0.0, _zero),
    "multi-task, l2": Kind(lambda c: c.l2, _zero),
    "multi-task, to the mean": Kind(lambda c: c.to_mean, lambda mean: mean),
}


def averaged(config: Regressors, run: Run, name: str) -> tuple[Params, list[float]]:
    """The mean parameters of all regressors, and the mean squared error of each on its own wave."""
    kind, length = KINDS[name], config.regressor_iterations
    sizes = [len(part) for part in np.array_split(np.arange(config.regressors), _blocks(config))]
    adam = optim.adam(optim.cosine(config.regressor_lr, length))

    def objective(params: Params, data: Any, anchor: Params, strength: float) -> Any:
        distance = [ops.sum(ops.square(p - a)) for p, a in zip(trees.leaves(params), trees.leaves(anchor), strict=True)]
        return ops.sum(mse(params, data)) + strength * sum(distance[1:], distance[0])

    descent = compile(value_and_grad(objective)) if config.compiled else value_and_grad(objective)

    def begin() -> dict[str, Any]:
        params = _fresh(config, 0, sizes[0])
        return {
            "params": params,
            "adam": adam.init(params),
            "mean": trees.map(lambda p: p[0] * 0, params),
            "errors": [],
        }

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        block, at = divmod(i, length)
        if at == 0 and block:
            params = _fresh(config, block, sizes[block])
            state = {**state, "params": params, "adam": adam.init(params)}
        tasks = sine_tasks(stream(config.seed, "regressors", block), sizes[block])
        data = sine_points(tasks, stream(config.seed, "regressor points", i), config.regressor_points)
        drawn_to = kind.strength(config) if block or kind.anchor is _zero else 0.0
        value, gradient = descent(state["params"], data, kind.anchor(state["mean"]), drawn_to)
        updates, moments = adam.update(gradient, state["adam"])
        state = {**state, "params": optim.apply_updates(state["params"], updates), "adam": moments}
        return (_finished(state, tasks) if at + 1 == length else state), {"loss": float(value) / sizes[block]}

    state = run.stage(name, length * len(sizes), begin, step)
    return state["mean"], state["errors"]


def _blocks(config: Regressors) -> int:
    return -(-config.regressors // config.regressor_block)


def _fresh(config: Regressors, block: int, count: int) -> Params:
    """The initial parameters of a block of regressors, with a leading axis."""
    rng = stream(config.seed, "regressor init", block)
    each = [nets.init_mlp(rng, (1, *config.hidden, 1), config.sigma) for _ in range(count)]
    return trees.map(lambda *leaves: np.stack(leaves), *each)


def _finished(state: dict[str, Any], tasks: SineTasks) -> dict[str, Any]:
    """The state with a trained block in its mean and its errors."""
    done, new = len(state["errors"]), len(tasks.phase)
    mean = trees.map(lambda m, p: (m * done + p.sum(axis=0)) / np.float32(done + new), state["mean"], state["params"])
    errors = mse(state["params"], on_grid(tasks, 100))
    return {**state, "mean": mean, "errors": [*state["errors"], *map(float, errors)]}
