"""The tasks that EWC's experiments learn in turn: MNIST with its pixels shuffled, or its digits two by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import nets
from tinymeta.data import mnist, mnist_subset, permutations, permuted
from tinymeta.lab import UserError, stream

IMAGES = {"mnist": mnist, "subset": mnist_subset}
CLASSES = 10
SCENARIOS = ("task", "domain", "class")
EXCLUDED = -1e4  # added to a logit: its probability is 0
CHUNK = 1000  # images in memory at a time while accuracies are taken

Pixels = NDArray[np.uint8]  # (N, side, side)
Labels = NDArray[np.uint8]  # (N,)


class Digits(NamedTuple):
    """Images uint8 (N, side, side) and labels uint8 (N,)."""

    x: Pixels
    y: Labels


class Task(NamedTuple):
    """Digits in three parts, the permutation under which they are seen, and what is added to the logits: None, or (10,).

    `mask` is very negative for the classes that a task with a head of its own cannot answer.
    """

    permutation: NDArray[np.int64]
    train: Digits
    validation: Digits
    test: Digits
    mask: NDArray[np.float32] | None = None

    def seen(self, digits: Digits, rows: Any) -> tuple[NDArray[np.float32], Labels]:
        """Inputs float32 (n, pixels) in [0, 1] and labels of some of them."""
        return permuted(digits.x[rows], self.permutation), digits.y[rows]


def load_digits(images: str, rng: np.random.Generator, validation: int, padding: int = 0) -> dict[str, Digits]:
    """`train`, `validation` (so many of the training images, drawn by `rng`) and `test`, with a border of `padding` pixels."""
    training, test = (_padded(Digits(*IMAGES[images](split)), padding) for split in ("train", "test"))
    held, kept = np.split(rng.permutation(len(training.x)), [validation])
    if not len(kept):
        raise UserError(f"validation = {validation} leaves nothing to train on: there are {len(training.x)} images")
    parts = {"train": kept, "validation": held}
    return {name: Digits(training.x[rows], training.y[rows]) for name, rows in parts.items()} | {"test": test}


def digits_of_repeat(config: Any, repeat: int) -> dict[str, Digits]:
    """The digits of an experiment's repeat, split anew; UserError unless they fill a minibatch."""
    digits = load_digits(config.images, stream(config.seed, "repeat", repeat, "split"), config.validation)
    images = len(digits["train"].y)
    if images < config.batch_size:
        raise UserError(f"batch_size = {config.batch_size} is more than the {images} training images")
    return digits


def tasks_of_repeat(config: Any, repeat: int, tasks: int) -> list[Task]:
    """The digits of a repeat under so many permutations of its own."""
    rng = stream(config.seed, "repeat", repeat, "permutations")
    return permuted_tasks(digits_of_repeat(config, repeat), rng, tasks)


def permuted_tasks(digits: dict[str, Digits], rng: np.random.Generator, tasks: int) -> list[Task]:
    """The same digits under a random permutation of all pixels each, none of which is the identity on purpose."""
    pixels = digits["train"].x[0].size
    return [task_of(digits, permutation) for permutation in permutations(rng, tasks, pixels)]


def task_of(digits: dict[str, Digits], permutation: NDArray[np.int64], mask: NDArray[np.float32] | None = None) -> Task:
    """The three parts of `digits` under a permutation."""
    return Task(permutation, digits["train"], digits["validation"], digits["test"], mask)


def split_tasks(digits: dict[str, Digits], scenario: str) -> list[Task]:
    """Digits 0 and 1, 2 and 3, ...: with logits of their own ("task"), two shared ones ("domain") or all ten ("class")."""
    return [_pair(digits, first, scenario) for first in range(0, CLASSES, 2)]


def _pair(digits: dict[str, Digits], first: int, scenario: str) -> Task:
    def part(one: Digits) -> Digits:
        rows = one.y // 2 == first // 2
        return Digits(one.x[rows], one.y[rows] % 2 if scenario == "domain" else one.y[rows])

    answers = {"task": [first, first + 1], "domain": [0, 1], "class": range(CLASSES)}[scenario]
    mask = np.full(CLASSES, EXCLUDED, np.float32)
    mask[list(answers)] = 0
    parts = {name: part(one) for name, one in digits.items()}
    return task_of(parts, np.arange(digits["train"].x[0].size), mask)


def take_batch(tasks: Sequence[Task], rng: np.random.Generator, size: int) -> tuple[NDArray, NDArray, NDArray | None]:
    """Training inputs, labels and masks of `size` examples, each from a task drawn at random: joint training."""
    drawn = np.sort(rng.integers(len(tasks), size=size))
    parts = []
    for number in np.unique(drawn):
        task, n = tasks[number], int(np.sum(drawn == number))
        x, y = task.seen(task.train, rng.integers(len(task.train.y), size=n))
        parts.append((x, y, np.zeros((n, CLASSES), np.float32) + (0 if task.mask is None else task.mask)))
    x, y, masks = (np.concatenate(part) for part in zip(*parts, strict=True))
    return x, y, None if tasks[0].mask is None else masks


def logits(params: Any, x: Any, mask: Any = None) -> Any:
    """Those of the network, (N, 10); with the mask of a task, of its own classes alone."""
    z = nets.mlp(params, x)
    return z if mask is None else z + mask


def accuracies(params: Any, tasks: Sequence[Task], part: str = "test") -> NDArray[np.float64]:
    """(tasks,), in %."""
    return np.array([accuracy(params, task, getattr(task, part)) for task in tasks])


def accuracy(params: Any, task: Task, digits: Digits) -> float:
    """In %; weights that are not finite answer with class 0, as argmax has it."""
    right = 0
    for start in range(0, len(digits.y), CHUNK):
        x, y = task.seen(digits, slice(start, start + CHUNK))
        right += int(np.sum(np.argmax(logits(params, x, task.mask), axis=1) == y))
    return 100 * right / len(digits.y)


def _padded(digits: Digits, padding: int) -> Digits:
    return digits._replace(x=np.pad(digits.x, ((0, 0), (padding, padding), (padding, padding))))
