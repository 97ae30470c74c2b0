"""What MAML asks of its arguments, each said in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.batched import raw
from ..engine.tensor import describe, examine

Axes = tuple[int, ...]
NUMBERS = ("f", "i", "u")  # kinds of dtype


def check_setting(steps: Any, order: Any) -> None:
    check_whole("steps", steps, 0)
    if not isinstance(order, (int, np.integer)) or isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"maml: order = {order!r}, expected 2 (through the inner gradient) or 1 (it is a constant)")


def check_whole(name: str, count: Any, least: int) -> None:
    if not isinstance(count, (int, np.integer)) or isinstance(count, bool) or count < least:
        raise ValueError(f"maml: {name} = {count!r}, expected a whole number, {least} or more")


def check_weights(weights: Any, steps: int) -> None:
    if steps == 0:
        raise ValueError("maml: weights with steps = 0, expected 1 or more: there is one weight for each step")
    if np.shape(weights) != (steps,) or not hasattr(weights, "dtype"):
        raise ValueError(
            f"maml: weights is {describe(weights)}, expected an array of one weight per inner step: shape [{steps}]"
        )
    examine(_refuse_unless_finite, raw(weights))


def _refuse_unless_finite(weights: Any) -> None:
    if not np.isfinite(weights).all():
        raise FloatingPointError(f"maml: weights is {weights}, expected finite numbers")


def check_rate(method: str, lr: Any) -> float:
    """A rate that is one number as a Python float."""
    if not (isinstance(lr, Real) or getattr(lr, "shape", None) == ()) or not math.isfinite(lr):
        raise ValueError(f"{method}: lr = {lr!r}, expected a finite number")
    return float(lr)


def check_parameters(params: Any) -> None:
    if not trees.leaves(params):
        raise ValueError("maml: the parameters that the inner loop changes are an empty tree, expected arrays")


def checked_rates(lr: Any, params: Any) -> Any:
    """A rate for each leaf: `lr` itself, if it is a tree like the parameters, or a number for all of them."""
    one = isinstance(lr, Real) or getattr(lr, "shape", None) == ()
    try:
        rates = trees.map(lambda _, *rate: _array(rate[0]) if rate else lr, params, *([] if one else [lr]))
    except ValueError as error:
        raise ValueError(
            f"maml: lr is of type {type(lr).__name__}, expected a number, a tree like the parameters with a rate for each leaf or "
            f"element, or a function that gives one of these for each step: {error}"
        ) from error
    for path, rate in trees.items(lr) if lr is not None else [("", None)]:
        if not isinstance(rate, (int, float)) and getattr(getattr(rate, "dtype", None), "kind", "") not in NUMBERS:
            raise TypeError(f"maml: lr{path} is {rate!r}, expected a number or an array of numbers")
        if isinstance(rate, (float, np.generic, np.ndarray)) and not np.isfinite(rate).all():
            raise ValueError(f"maml: lr{path} is {rate}, expected finite numbers")
    for path, misfit in [] if one else trees.items(trees.map(_misfit, params, rates)):
        if misfit:
            raise ValueError(f"maml: the rate of the parameters{path} is {misfit}")
    return rates


def _array(rate: Any) -> Any:
    """A list of rates, one for each element of an array, as an array."""
    return np.asarray(rate) if isinstance(rate, list) else rate


def _misfit(p: Any, rate: Any) -> str:
    """Why the rate does not belong to the parameter; "" if it does."""
    if _fits(np.shape(rate), np.shape(p)):
        return ""
    return f"{describe(rate)}, expected a number or a shape that broadcasts to that of {describe(p)}"


def _fits(rate: Axes, p: Axes) -> bool:
    return len(rate) <= len(p) and all(r in (1, n) for r, n in zip(rate[::-1], p[::-1], strict=False))


def losses_on(name: str, loss: Callable[[Any, Any], Any], params: Any, data: Any) -> Any:
    """loss(params, data); where its arrays do not fit together, the error says which set that was and what is in it."""
    _check_points(name, data)
    try:
        with quiet():
            return loss(params, data)
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        arrays = ", ".join(f"{name}{path} is {describe(x)}" for path, x in trees.items(data))
        raise ValueError(
            f"maml: the loss of the {name} set fails: {str(error).rstrip()}. {arrays}: expected arrays that fit the parameters, "
            "with as many points in each and, of many tasks, as many tasks"
        ) from error


def _check_points(name: str, data: Any) -> None:
    for path, x in trees.items(data):
        shape = getattr(x, "shape", ())
        if 0 in (shape[:-1] or shape):  # there may be no features
            raise ValueError(f"maml: {name}{path} is {describe(x)}, expected 1 task or more, each of 1 point or more")


def losses_of_each(tasks: Axes, loss: Callable[[Any, Any], Any], params: Any, data: Any) -> Any:
    """loss(params, data) of parameters with task axes; where it fails, how it came to be taken for a loss of many tasks."""
    try:
        return loss(params, data)
    except ValueError as error:
        if not tasks or type(error) is not ValueError:
            raise
        raise ValueError(
            f"maml: the loss of shared parameters has shape {_shape(tasks)}, so it was taken for one value for each of "
            f"{_count(tasks)} tasks, but it fails with parameters of each task: {str(error).rstrip()}. For one task return a "
            "scalar, a mean over its points; for many take a leading task axis in parameters and data, or use tm.vmap"
        ) from error


def quiet() -> np.errstate:
    """A task that diverges is reported by name, not by NumPy's warnings."""
    return np.errstate(over="ignore", invalid="ignore")


def task_axes(losses: Any) -> Axes:
    """The shape of what a loss returned: () for one task, (T,) for T tasks."""
    if not isinstance(losses, (int, float)) and not hasattr(losses, "shape"):
        raise TypeError(f"maml: the loss returned a {describe(losses)}, expected a scalar, or an array of one per task")
    return np.shape(losses)


def check_some(tasks: Axes) -> None:
    if 0 in tasks:
        raise ValueError("maml: the loss of the support set is one value for each of 0 tasks, expected 1 task or more")


def check_data(name: str, data: Any, tasks: Axes) -> None:
    """Every array of the data begins with the task axes."""
    for path, x in trees.items(data):
        if hasattr(x, "shape") and x.shape[: len(tasks)] != tasks:
            raise ValueError(
                f"maml: {name}{path} is {describe(x)}, but the loss of the support set is one value for each of "
                f"{_count(tasks)} tasks: expected shape {_shape(tasks, '...')}, or, of one task, a loss that is a scalar"
            )


def check_tasks(losses: Any, tasks: Axes) -> None:
    """The loss kept the task axes when the parameters got them too."""
    if task_axes(losses) != tasks:
        raise ValueError(
            f"maml: the loss returned {describe(losses)} for adapted parameters and {_shape(tasks)} for the shared ones: "
            "expected one value per task both times: reduce over all other axes, and start from parameters without a task axis"
        )


def check_query_tasks(losses: Any, tasks: Axes) -> None:
    """There are as many query sets as support sets."""
    if task_axes(losses) != tasks:
        raise ValueError(
            f"maml: the loss of the query set is {describe(losses)}, that of the support set has shape {_shape(tasks)}: expected "
            "one value for each task in both, and scalars for one task"
        )


def check_adapted(adapted: Any, params: Any, steps: int) -> None:
    """No task's parameters have diverged in the last step, of which no loss was looked at."""
    for (path, x), p in zip(trees.items(adapted), trees.leaves(params), strict=True):
        _examine_finite(x, np.ndim(x) - np.ndim(p), f"an entry of the parameters{path}", f"after {steps} inner steps")


def check_finite(losses: Any, name: str, when: str) -> None:
    """No task's loss has diverged."""
    _examine_finite(losses, np.ndim(losses), name, when)


def _examine_finite(x: Any, tasks: int, name: str, when: str) -> None:
    """The axes of x are those of examples of a vmap, of `tasks`, and its own."""
    own = np.ndim(x) - tasks

    def check(x: Any) -> None:
        finite = np.isfinite(x)
        if not finite.all():
            at = tuple(int(i[0]) for i in np.nonzero(~finite)) if finite.ndim else ()
            examples = len(at) - tasks - own
            where = _of("task", at[examples : len(at) - own]) + _of("the vmap's example", at[:examples])
            found = x[at] if at else x
            raise FloatingPointError(f"maml: {name}{where} {when} is {found}: lower lr, or look at that task's data")

    examine(check, raw(x))


def _of(what: str, at: Axes) -> str:
    return f" of {what} {', '.join(map(str, at))}" if at else ""


def _count(tasks: Axes) -> str:
    return " x ".join(map(str, tasks))


def _shape(tasks: Axes, *rest: str) -> str:
    return f"[{','.join([*map(str, tasks), *rest])}]"
