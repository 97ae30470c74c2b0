"""Few-shot classification by meta-learning, whatever the images: meta-training with meta-validation, and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import compile, maml, nets, ops, optim
from tinymeta.experiments.maml_methods import (
    METHODS,
    InnerLoop,
    begin,
    check_methods,
    gradient_of,
    meta_step,
    multi_step,
    trained_steps,
)
from tinymeta.experiments.settings import expect, expect_at_least, expect_interval
from tinymeta.lab import Run, stream

AT_LEAST_ONE = (
    "shots", "filters", "inner_steps", "variant_steps", "implicit_steps", "cg_steps", "meta_batch", "iterations",
    "validate_every", "validation_tasks", "test_steps",
)  # fmt: skip
CHUNK = 20  # tasks that are evaluated at once, for memory

Batch = tuple[NDArray, NDArray]  # images (T, examples, C, H, W) and labels (T, examples)
# part, rng, tasks, queries -> support, query
Draw = Callable[[str, np.random.Generator, int, int], tuple[Batch, Batch]]
# what is meta-learned, support -> parameters before and after each inner step
Path = Callable[[Any, Batch], list[Any]]
State = dict[str, Any]


@dataclass(frozen=True)
class FewShot(InnerLoop):
    """The protocol of MAML's section 5.2; `methods` are trained one after the other (see maml_methods.py).

    `queries` and `test_queries` are drawings a class in query sets, 0 for as many as `shots`. `cross_entropy` is the scale of the
    loss, and so of `inner_lr`: "per shot" sums over examples and divides by shots, as in the authors' code; "mean" is the mean over
    examples. A set of as many examples a class as shots thus has `ways` times the mean, a larger query set more (for Reptile, which
    descends that too, the steps on it are longer). Batch norm takes the statistics of the batch at hand in training and in tests;
    norm="shared" leaves its parameters out of the inner loop (authors: a shift only, for scaled=False), "adapted" has them in it.
    `norm_eps` is added to its variances: 1e-3 in the authors' code, the default of tf.contrib.layers.

    Methods are selected and judged after `test_steps` inner steps, those that are trained for more after as many as that.
    `clip` bounds each element of the meta-gradient, 0 for no bound. The parameters with the best validation accuracy are kept,
    and training ends after `patience` validations without a better one, for 0 never. Inductive results, for which each query
    image is classified in a batch of its own with the support set (1803.02999), are of the first `inductive_tasks` test tasks.
    """

    seed: int = 0
    methods: tuple[str, ...] = ("maml",)
    ways: int = 5
    shots: int = 1
    queries: int = 0
    filters: int = 64
    norm: str = "shared"
    scaled: bool = False
    norm_eps: float = 1e-5
    cross_entropy: str = "per shot"
    inner_lr: float = 0.4
    implicit_lr: float = 0.1
    implicit_steps: int = 15
    strength: float = 2.0
    meta_lr: float = 1e-3
    meta_batch: int = 32
    iterations: int = 60_000
    clip: float = 0.0
    validate_every: int = 500
    validation_tasks: int = 600
    patience: int = 0
    test_tasks: int = 600
    test_steps: int = 3
    test_queries: int = 0
    inductive_tasks: int = 100

    def __post_init__(self) -> None:
        expect_at_least(1, self, AT_LEAST_ONE)
        expect_at_least(2, self, ("ways",))
        expect_interval(self, ("test_tasks", "inductive_tasks"))
        expect_at_least(0, self, ("queries", "test_queries", "patience", "clip", "inner_lr", "implicit_lr", "meta_lr"))
        expect(self, "norm_eps", self.norm_eps > 0, "more than 0")
        expect(self, "norm", self.norm in ("shared", "adapted"), "shared or adapted")
        expect(self, "cross_entropy", self.cross_entropy in ("per shot", "mean"), "per shot or mean")
        expect(self, "methods", len(self.methods) > 0, "one or more, each once")
        check_methods("methods", self)
        whole = set(self.methods) - {"maml", "first-order", "anil"}
        if self.norm == "shared" and whole:
            raise ValueError(
                f"norm = shared, but {', '.join(sorted(whole))} adapts all parameters: expected norm=adapted"
            )

    def check_images(self, per_class: int) -> None:
        """ValueError if a task needs more images of a class than there are."""
        queries = max(self.queries or self.shots, self.test_queries or self.shots)
        if self.shots + queries > per_class:
            raise ValueError(
                f"shots = {self.shots} and {queries} queries, expected at most the {per_class} images of a class together"
            )


class Net(NamedTuple):
    """A network: its initial parameters, and apply(params, images) -> logits."""

    params: Any
    apply: Callable[[Any, Any], Any]


class Trained(NamedTuple):
    """What a method has meta-learned, and its mean validation accuracies (in %) after these numbers of iterations."""

    meta: Any
    iterations: list[int]
    accuracies: list[float]


def loss_of(config: FewShot, net: Net) -> Callable[[Any, Batch], Any]:
    """The cross-entropy of each task, on the scale that the configuration asks for."""

    def loss(params: Any, data: Batch) -> Any:
        x, y = data
        scale = y.shape[-1] / config.shots if config.cross_entropy == "per shot" else 1
        return scale * ops.mean(ops.softmax_cross_entropy(net.apply(params, x), y), axis=-1)

    return loss


def method_of(config: FewShot, key: str) -> maml.Method:
    """A method of METHODS; for norm="shared" its inner loop leaves the parameters of batch norm as they are."""
    return METHODS[key].build(config, without_norms if config.norm == "shared" else None)


def without_norms(params: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters but those of batch norm, and how they go back."""
    return _weights(params), lambda fast: _with_weights(params, fast)


def _weights(tree: Any) -> Any:
    if isinstance(tree, nets.NormLayer):
        return tree.w
    return tree if isinstance(tree, nets.Layer) else tuple(map(_weights, tree))


def _with_weights(tree: Any, fast: Any) -> Any:
    if isinstance(tree, nets.NormLayer):
        return tree._replace(w=fast)
    return fast if isinstance(tree, nets.Layer) else tuple(map(_with_weights, tree, fast))


def judged_steps(config: FewShot, key: str) -> int:
    """The inner steps after which a method is judged: fewer than it was trained for would say nothing of it."""
    return max(config.test_steps, trained_steps(key, config))


def path_of(config: FewShot, key: str, net: Net, steps: int) -> Path:
    """The adaptation of a method in so many inner steps, compiled as its meta-gradient is."""
    method, loss = method_of(config, key), loss_of(config, net)

    def path(meta: Any, support: Batch) -> list[Any]:
        return method.path(loss, meta, support, steps)

    return compile(path) if config.compiled else path


def meta_train(config: FewShot, run: Run, key: str, net: Net, draw: Draw) -> Trained:
    """Adam on the meta-gradient, a fresh meta-batch at every iteration; the parameters of the best validation are kept."""
    method, loss, adam = method_of(config, key), loss_of(config, net), optim.adam(config.meta_lr)
    gradient, path = gradient_of(config, method, loss), path_of(config, key, net, judged_steps(config, key))

    def first() -> State:
        state = begin(method, net.params, adam)
        return {**state, "best": state["meta"], "stale": 0, "iterations": [], "accuracies": []}

    def step(state: State, i: int) -> tuple[State, dict[str, float]]:
        rng = stream(config.seed, "train", i)
        support, query = draw("train", rng, config.meta_batch, config.queries or config.shots)
        more = multi_step(key, config, i / config.iterations)
        state, value = meta_step(gradient, adam, state, support, query, config.clip, **more)
        done = i + 1
        if done % config.validate_every == 0 or done == config.iterations:
            state = _validated(state, done, validation_accuracy(config, path, net, state["meta"], draw))
        return state, {"loss": value, "best": max(state["accuracies"], default=0.0)}

    def patience_is_over(state: State) -> bool:
        return 0 < config.patience <= state["stale"]

    state = run.stage(key, config.iterations, first, step, until=patience_is_over)
    return Trained(state["best"], state["iterations"], state["accuracies"])


def _validated(state: State, done: int, accuracy: float) -> State:
    if accuracy > max(state["accuracies"], default=-1.0):
        state = {**state, "best": state["meta"], "stale": 0}
    else:
        state = {**state, "stale": state["stale"] + 1}
    return {**state, "iterations": [*state["iterations"], done], "accuracies": [*state["accuracies"], accuracy]}


def validation_accuracy(config: FewShot, path: Path, net: Net, meta: Any, draw: Draw) -> float:
    """The mean accuracy, in %, after the last step of a path on validation tasks, the same each time."""
    found = [
        accuracies(net, path(meta, support)[-1], query)
        for support, query in _chunks(config, draw, "validation", config.validation_tasks)
    ]
    return float(np.mean(np.concatenate(found)))


def test_accuracies(config: FewShot, path: Path, net: Net, meta: Any, draw: Draw) -> tuple[NDArray, NDArray]:
    """In %, before and after each step of a path: of all test tasks (T, steps + 1), the query set of a task being one batch, and
    of the first tasks (T', steps + 1), each query image being classified on its own."""
    together, alone = [], []
    for number, (support, query) in enumerate(_chunks(config, draw, "test", config.test_tasks)):
        adapted = path(meta, support)
        together.append(np.stack([accuracies(net, params, query) for params in adapted], axis=1))
        if number * CHUNK < config.inductive_tasks:
            alone.append(np.stack([accuracies_alone(net, params, support, query) for params in adapted], axis=1))
    return np.concatenate(together), np.concatenate(alone)[: config.inductive_tasks]


def _chunks(config: FewShot, draw: Draw, part: str, tasks: int) -> Any:
    """The support and query sets of the tasks of validation or test, a few at a time."""
    for number in range(0, tasks, CHUNK):
        rng = stream(config.seed, part, number)
        yield draw(part, rng, min(CHUNK, tasks - number), config.test_queries or config.shots)


def accuracies(net: Net, params: Any, query: Batch) -> NDArray:
    """The share, in %, of each task's query images that are classified rightly as one batch (transductive)."""
    x, y = query
    return 100 * np.mean(_classes(net, params, x) == y, axis=-1)


def accuracies_alone(net: Net, params: Any, support: Batch, query: Batch) -> NDArray:
    """As `accuracies`, but each query image is in a batch with the support set only, and knows of no other (inductive)."""
    (s, _), (x, y) = support, query
    found = [_classes(net, params, np.concatenate([s, x[:, i : i + 1]], axis=1))[:, -1] for i in range(x.shape[1])]
    return 100 * np.mean(np.stack(found, axis=1) == y, axis=-1)


def _classes(net: Net, params: Any, x: NDArray) -> NDArray:
    with np.errstate(over="ignore", invalid="ignore"):  # a task that diverged classifies as it does
        return np.argmax(net.apply(params, x), axis=-1)
