"""Tasks learned in turn by a method that does or does not protect the old ones: what all EWC experiments share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import compile, nets, ops
from tinymeta.engine import trees
from tinymeta.engine.transforms import value_and_grad
from tinymeta.ewc import PathIntegral
from tinymeta.lab import Run, stream

from .ewc_memory import Learner, penalty_of, remember
from .ewc_steps import adam_, sgd_, squares_
from .ewc_tasks import CLASSES, Task, accuracies, logits, take_batch

DROPPED = (0.2, 0.5)  # of inputs and of hidden units: Goodfellow et al. 2014, and the EWC paper

Params = tuple[nets.Layer, ...]
State = dict[str, Any]  # params, moments m and v, penalty, si, accuracy: what a checkpoint holds
Draw = Callable[..., np.random.Generator]


@dataclass(frozen=True)
class Protocol:
    """How each task is learned: `steps` steps of SGD or Adam on minibatches of shuffled epochs.

    init is "he" (normal, biases 0) or "uniform" (weights and biases within 1/√fan_in, as PyTorch's linear layers). Adam's
    moments go on from task to task. `fisher_samples` training images give the Fisher (0: all), `evaluations` the points per task
    of a curve. With `paths` learners can use SI, with `squares` the Fisher kind "squisher".
    """

    hidden: tuple[int, ...]
    optimizer: str
    steps: int
    batch_size: int
    init: str = "he"
    fisher_samples: int = 0
    evaluations: int = 1
    paths: bool = False
    squares: bool = False


class Course(NamedTuple):
    """What learners have in common: the protocol, the tasks, where random numbers come from, a name for stages of a run.

    There is nothing to forget in the first task, so learners that begin alike share it: `begun` holds what it gave.
    """

    name: str
    protocol: Protocol
    tasks: Sequence[Task]
    draw: Draw
    begun: dict[str, State]


class Found(NamedTuple):
    """Accuracies in % on test images (points, tasks) from before the first step on, and on validation images at the end,
    (tasks,); max lr λ F of the penalty at the end."""

    accuracy: NDArray[np.float64]
    validation: NDArray[np.float64]
    stability: float


def course(name: str, protocol: Protocol, tasks: Sequence[Task], seed: int, *words: str | int) -> Course:
    """Weights, minibatches and all that is drawn depend on seed and words alone, not on the learner."""
    return Course(name, protocol, tasks, partial(stream, seed, *words), {})


def learn(run: Run, at: Course, learner: Learner) -> Found:
    """What a learner makes of the tasks of a course, one after the other."""
    return Found(**learn_until(run, at, learner, summed_up))


def learn_until(run: Run, at: Course, learner: Learner, finish: Callable[[Course, Learner, State], State]) -> State:
    """finish(course, learner, state) of the state after the last task; all that is kept of it, so that checkpoints stay small.

    One stage of the run for the first task, if no learner has begun like this one yet, and one for the others.
    """
    done, key = at.protocol.steps, learner.beginning
    if key not in at.begun:
        first = partial(_step, at, learner)
        at.begun[key] = run.stage(f"{at.name}, task 1 at {key}", done, partial(begin, at), first, in_place=True)
    steps = (len(at.tasks) - 1) * done

    def step(state: State, i: int) -> tuple[State, dict[str, float]]:
        state, metrics = _step(at, learner, state, done + i)
        return (finish(at, learner, state) if i + 1 == steps else state), metrics

    # steps change arrays in place, and the next learner needs them as they are
    last = run.stage(f"{at.name}, {learner.name}", steps, lambda: _copy(at.begun[key], learner), step, in_place=True)
    return last if steps else finish(at, learner, last)


def summed_up(at: Course, learner: Learner, state: State) -> State:
    """The fields of Found."""
    return {
        "accuracy": state["accuracy"],
        "validation": accuracies(state["params"], at.tasks, "validation"),
        "stability": penalty_of(learner, state).stability(learner.learning_rate),
    }


def _copy(state: State, learner: Learner) -> State:
    state = state if learner.method == "SI" else {**state, "si": None}
    return trees.map(lambda leaf: leaf.copy() if isinstance(leaf, np.ndarray) else leaf, state)


# ---- one step ----


def begin(at: Course) -> State:
    """Before the first step."""
    protocol = at.protocol
    params = INITS[protocol.init](at.draw("weights"), (len(at.tasks[0].permutation), *protocol.hidden, CLASSES))
    zeros = lambda needed: trees.map(np.zeros_like, params) if needed else None
    adam = protocol.optimizer == "adam"
    return {
        "params": params,
        "m": zeros(adam),
        "v": zeros(adam or protocol.squares),
        "penalty": None,
        "si": PathIntegral.begin(params) if protocol.paths else None,
        "accuracy": accuracies(params, at.tasks)[None],
    }


def uniform_mlp(rng: np.random.Generator, sizes: Sequence[int]) -> Params:
    """Layers with weights and biases uniform within 1/√fan_in, float32."""

    def layer(fan_in: int, fan_out: int) -> nets.Layer:
        draw = lambda *shape: (rng.uniform(-1, 1, shape) / np.sqrt(fan_in)).astype(np.float32)
        return nets.Layer(draw(fan_in, fan_out), draw(fan_out))

    return tuple(layer(a, b) for a, b in itertools.pairwise(sizes))


INITS: dict[str, Callable[[np.random.Generator, Sequence[int]], Params]] = {
    "he": nets.init_mlp,
    "uniform": uniform_mlp,
}


def _step(at: Course, learner: Learner, state: State, i: int) -> tuple[State, dict[str, float]]:
    """Step i of the whole sequence: of task i // steps, before which the task just learned is remembered."""
    number, step = divmod(i, at.protocol.steps)
    if number > 0 and step == 0:
        state = look_back(at, learner, state, number - 1)
    loss = descend(at, learner, state, number, step)
    if _is_due(step, at.protocol):
        now = accuracies(state["params"], at.tasks)[None]
        state = {**state, "accuracy": np.concatenate([state["accuracy"], now])}
    return state, {"loss": loss}


def look_back(at: Course, learner: Learner, state: State, number: int) -> State:
    """The state with task `number`, just learned, in its penalty."""
    protocol, task = at.protocol, at.tasks[number]
    state = remember(learner, state, task, protocol, at.draw("fisher", number))
    if protocol.squares:
        trees.map(lambda v: v.fill(0), state["v"])
    return state


def descend(at: Course, learner: Learner, state: State, number: int, step: int) -> float:
    """Step number `step` in task `number`, in place; the mean cross-entropy of its minibatch before it."""
    protocol, params = at.protocol, state["params"]
    x, y, mask = _batch(at, learner, number, step)
    kept = drop(at.draw("dropout", number, step), params, len(x)) if learner.dropout else None
    penalty = penalty_of(learner, state)
    with np.errstate(over="ignore", invalid="ignore"):  # a λ that diverges ends with weights that are not finite
        loss, grads = _loss_and_grad(params, x, y, mask, kept)
        if protocol.squares:
            squares_(grads, state["v"])
        if protocol.optimizer == "adam":
            t = number * protocol.steps + step + 1
            before = trees.map(np.copy, params) if state["si"] else None
            adam_(params, grads, penalty, learner.learning_rate, state["m"], state["v"], t)
            if state["si"]:
                state["si"] = state["si"].step(grads, before, params)
        else:
            sgd_(params, grads, penalty, learner.learning_rate)
    return float(loss)


def cross_entropy(params: Params, x: Any, y: Any, mask: Any = None, kept: Any = None) -> Any:
    """The mean over a minibatch; `kept` as `dropout` takes it, None to keep all units."""
    z = logits(params, x, mask) if kept is None else dropout(params, x, kept)
    return ops.mean(ops.softmax_cross_entropy(z, y))


_loss_and_grad = compile(value_and_grad(cross_entropy))


def dropout(params: Params, x: Any, kept: Sequence[Any]) -> Any:
    """Logits when inputs and hidden units of each layer are multiplied by `kept`: 0, or 1 / (1 - rate)."""
    for layer, factors in zip(params[:-1], kept[:-1], strict=True):
        x = ops.relu(nets.mlp((layer,), x * factors))
    return nets.mlp(params[-1:], x * kept[-1])


def drop(rng: np.random.Generator, params: Params, n: int) -> list[NDArray[np.float32]]:
    """What `dropout` multiplies the n rows of each layer's input by, at the rates DROPPED."""
    rates = (DROPPED[0], *[DROPPED[1]] * (len(params) - 1))
    shapes = [(n, len(layer.w)) for layer in params]
    kept = [rng.random(shape, np.float32) >= p for p, shape in zip(rates, shapes, strict=True)]
    return [units.astype(np.float32) / np.float32(1 - p) for p, units in zip(rates, kept, strict=True)]


def _is_due(step: int, protocol: Protocol) -> bool:
    """Whether `step` of a task is one of the evenly spaced ones, the last among them, after which accuracies are taken."""
    points = min(protocol.evaluations, protocol.steps)
    return (step + 1) * points // protocol.steps > step * points // protocol.steps


def _batch(at: Course, learner: Learner, number: int, step: int) -> tuple[NDArray, NDArray, NDArray | None]:
    size, task = at.protocol.batch_size, at.tasks[number]
    if learner.method == "offline" and number > 0:  # the first task is the same for all learners
        return take_batch(at.tasks[: number + 1], at.draw("joint", number, step), size)
    epoch, batch = divmod(step, max(1, len(task.train.y) // size))
    order = _order(at.draw, number, epoch, len(task.train.y))
    return *task.seen(task.train, order[batch * size : (batch + 1) * size]), task.mask


@lru_cache(maxsize=1)
def _order(draw: Draw, number: int, epoch: int, n: int) -> NDArray[np.int64]:
    return draw("order", number, epoch).permutation(n)
