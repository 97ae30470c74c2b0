"""Variants of MAML behind one interface, and those of them that differentiate through the unrolled inner loop.

All four are `meta_loss` with other rules: what is learned beside the initial parameters, which rates the inner steps have, and
which part of the parameters they change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..engine import trees
from ..engine.tensor import describe
from ..engine.transforms import value_and_grad
from .checks import check_rate, check_setting, check_whole
from .inner import Loss, Rate, adaptation_path
from .outer import meta_loss

Part = Callable[[Any], tuple[Any, Callable[[Any], Any]]]  # params -> (what the inner loop changes, how to put it back)


class Method(NamedTuple):
    """A meta-learning method as three pure functions of trees; losses, support and query as in tinymeta.maml.

    init(params) -> meta: what is meta-learned, `params` itself or a tree that has more in it.
    meta_gradient(loss, meta, support, query) -> (value, gradient): the mean query loss of the adapted parameters, and a tree like
    `meta` for an outer optimizer. The unrolled methods also take `weights`, see `meta_loss`.
    path(loss, meta, support, steps) -> the parameters before and after each step of adaptation, steps + 1 trees that `loss`
    takes; a task that diverges goes on as inf and NaN.
    """

    init: Callable[[Any], Any]
    meta_gradient: Callable[..., tuple[Any, Any]]
    path: Callable[[Loss, Any, Any, int], list[Any]]


class WithRates(NamedTuple):
    """Initial parameters, and the learned inner rates: a tree like them (Meta-SGD), or one of scalars for each step (MAML++)."""

    params: Any
    rates: Any


def maml(lr: Rate, steps: int, order: int = 2, part: Part | None = None) -> Method:
    """MAML (1703.03400, algorithm 1), first-order MAML for order=1; steps=0 is training on all tasks at once.

    With `part` the inner loop changes only that part of the parameters: part(params) -> (it, a function that puts it back).
    """
    return _unrolled(steps, order, lambda params: params, lambda meta: (meta, lr), part)


def anil(lr: Rate, steps: int, order: int = 2) -> Method:
    """Almost no inner loop (1909.09157, section 4): only the head, the last entry of the parameters, is adapted.

    Parameters are a tuple, list, NamedTuple or dict of layers; ValueError for others, whose head `maml(part=...)` can name.
    """
    return maml(lr, steps, order, head)


def meta_sgd(lr: float, steps: int, order: int = 2) -> Method:
    """Meta-SGD (1707.09835, eq. 1 and 2): a learned rate α for each element of the parameters, which begins at `lr`."""

    first = check_rate("meta_sgd", lr)

    def init(params: Any) -> WithRates:
        return WithRates(params, trees.map(lambda p: np.full_like(p, first), params))

    return _unrolled(steps, order, init, lambda meta: (meta.params, meta.rates))


def maml_plus_plus(lr: float, steps: int, order: int = 2) -> Method:
    """MAML++ (1810.09502, section 4): a learned rate for each leaf and step, which begins at `lr`, and the multi-step loss.

    Give `meta_gradient` the weights of `step_weights` up to progress 1, and none from then on, for only the last loss then counts.
    Steps beyond the last take the rates of the last. Of the paper's other changes, derivative-order annealing is another `order`
    and cosine annealing another optim rate; batch norm by step is not here.
    """

    if steps == 0:
        raise ValueError("maml_plus_plus: steps = 0, expected 1 or more: there are rates for each step")

    first = check_rate("maml_plus_plus", lr)

    def init(params: Any) -> WithRates:
        return WithRates(
            params, tuple(trees.map(lambda p: np.full_like(p, first, shape=()), params) for _ in range(steps))
        )

    def rate(rates: Any) -> Callable[[int], Any]:
        return lambda step: rates[min(step, steps - 1)]

    return _unrolled(steps, order, init, lambda meta: (meta.params, rate(meta.rates)))


def head(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The last entry of layers, such as those of nets.mlp and nets.conv4, and how to put another in its place."""
    if isinstance(params, dict) and params:
        key = [*params][-1]
        return params[key], lambda last: params | {key: last}
    if isinstance(params, (tuple, list)) and params:
        build = getattr(params, "_make", type(params))
        return params[-1], lambda last: build([*params[:-1], last])
    raise ValueError(
        f"anil: the parameters are {describe(params)}, expected layers in a tuple, list, NamedTuple or dict, whose last is the "
        "head; of others name the part that is adapted by maml(part=...)"
    )


def step_weights(steps: int, progress: float, least: float = 0.03, dtype: Any = np.float32) -> NDArray:
    """The weights (steps,) of MAML++'s multi-step loss: equal at progress 0, from progress 1 on all but the last at least / steps.

    In between they fall as 1 - progress, after the authors' code (get_per_step_loss_importance_vector); their sum is 1.
    """
    check_whole("steps", steps, 1)
    if not (progress >= 0 and 0 <= least <= 1):
        raise ValueError(
            f"step_weights: progress = {progress}, least = {least}; expected progress from 0 on and least from 0 to 1"
        )
    early = max(1.0 - progress, least) / steps
    return np.array([early] * (steps - 1) + [1.0 - early * (steps - 1)], dtype)


def _unrolled(
    steps: int, order: int, init: Callable, start: Callable[[Any], tuple[Any, Rate]], part: Part | None = None
) -> Method:
    """A method whose meta-gradient is the derivative of `meta_loss`; start(meta) -> (initial parameters, inner rates)."""
    check_setting(steps, order)

    def split(loss: Loss, meta: Any) -> tuple[Loss, Any, Rate, Callable]:
        params, lr = start(meta)
        fast, join = part(params) if part else (params, lambda fast: fast)
        return lambda fast, data: loss(join(fast), data), fast, lr, join

    def meta_gradient(loss: Loss, meta: Any, support: Any, query: Any, weights: Any = None) -> tuple[Any, Any]:
        def objective(meta: Any) -> Any:
            fast_loss, fast, lr, _ = split(loss, meta)
            return meta_loss(fast_loss, fast, support, query, lr, steps, order, weights)

        return value_and_grad(objective)(meta)

    def path(loss: Loss, meta: Any, support: Any, steps: int) -> list[Any]:
        fast_loss, fast, lr, join = split(loss, meta)
        return [join(fast) for fast in adaptation_path(fast_loss, fast, support, lr, steps, order=1)]

    return Method(init, meta_gradient, path)
