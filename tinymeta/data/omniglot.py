"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015), which travels with the package, and few-shot tasks made of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.embedded import Embedded
from tinymeta.data.sets import check_counts, labelled

EMBEDDED = Path(__file__).with_name("omniglot.npz")
CHARACTERS, DRAWINGS, SIDE = 1623, 20, 28


class Omniglot(NamedTuple):
    """`images`, bool (1623, 20, 28, 28), True is ink, read-only; `characters`, a name like "Greek/character01" each."""

    images: NDArray[np.bool_]
    characters: tuple[str, ...]


class FewShotTasks(NamedTuple):
    """T tasks: x float32 (T, ways * shots, 28, 28), ink is 1, and y int64 (T, ways * shots), the class within the task.

    The examples are ordered by class; the query part has `queries` in place of `shots`.
    """

    support_x: NDArray[np.float32]
    support_y: NDArray[np.int64]
    query_x: NDArray[np.float32]
    query_y: NDArray[np.int64]


@cache
def omniglot() -> Omniglot:
    """All 1,623 characters, each drawn by 20 people: the 964 background characters, then the 659 of evaluation.

    The originals have 105 x 105 pixels of 1 bit. Here they are resized as grey images with Pillow's LANCZOS and a pixel
    is ink if it is darker than half grey, which keeps strokes connected. (The MAML authors ask for LANCZOS on the 1-bit
    image, for which Pillow always takes the nearest pixel: this breaks some strokes. Like them we invert: ink is 1.)
    DataError if the installed file is damaged.
    """
    embedded = Embedded(EMBEDDED)
    bits = embedded.array("images", (CHARACTERS, DRAWINGS, SIDE * SIDE // 8))
    images = np.unpackbits(bits, axis=-1).view(np.bool_).reshape(CHARACTERS, DRAWINGS, SIDE, SIDE)
    images.flags.writeable = False
    return Omniglot(images, tuple(embedded.text("characters.txt").split()))


def split(rng: np.random.Generator, train: int = 1200) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of `train` random characters, irrespective of alphabet, and of the rest (MAML section 5.2), both in random order."""
    if not 0 <= train <= CHARACTERS:
        raise ValueError(f"train = {train}, expected 0 to {CHARACTERS} characters")
    order = rng.permutation(CHARACTERS)
    return order[:train], order[train:]


def few_shot_tasks(
    images: NDArray[np.bool_],
    characters: NDArray[np.int64],
    rng: np.random.Generator,
    ways: int,
    shots: int,
    queries: int,
    tasks: int,
) -> FewShotTasks:
    """Draw tasks from `images`, bool (C, D, 28, 28): `ways` of the `characters`, `shots` + `queries` drawings of each.

    No drawing occurs twice in a task. Each class of each task is rotated by one random multiple of 90 degrees, the same
    for support and query (MAML section 5.2 and its data_generator.py; rotations are not classes of their own).
    """
    check_counts(ways, shots, queries, tasks)
    if ways > len(characters) or shots + queries > images.shape[1]:
        raise ValueError(
            f"{ways} ways of {shots} + {queries} drawings were asked for, "
            f"but there are {len(characters)} characters of {images.shape[1]} drawings; ask for fewer"
        )
    classes = _choose(rng, np.broadcast_to(characters, (tasks, len(characters))), ways)
    drawings = _choose(
        rng, np.broadcast_to(np.arange(images.shape[1]), (tasks, ways, images.shape[1])), shots + queries
    )
    x = images[classes[:, :, None], drawings]
    quarter_turns = rng.integers(4, size=(tasks, ways))
    for turns in (1, 2, 3):
        turned = quarter_turns == turns
        x[turned] = np.rot90(x[turned], turns, axes=(-2, -1))
    ink = x.astype(np.float32)
    return FewShotTasks(*labelled(ink[:, :, :shots]), *labelled(ink[:, :, shots:]))


def _choose(rng: np.random.Generator, items: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` different items of each row of the last axis, in random order."""
    return rng.permuted(items, axis=-1)[..., :count]
