"""Training a small MLP on MNIST (1606.04474, section 3.2) with the learned optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymeta import l2l
from tinymeta.data import minibatch_indices, mnist, mnist_subset
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_training import Training, draw, run_comparison

PUBLISHED = {"LSTM": 0.26, "NAG": 0.33, "RMSprop": 0.36, "ADAM": 0.37, "SGD": 0.46, "ratio": 0.26 / 0.33}


@dataclass(frozen=True)
class Config(Training):
    """The paper's protocol: preprocessing with p = 10, output scaled by 0.1, mini-batches of 128."""

    images: str = "full"  # or "subset", the 10,000 + 2,000 images that travel with the package
    pool: int = 1  # average over pool x pool pixels: 4 makes images 7 x 7 and the MLP thirteen times smaller
    hidden: tuple[int, ...] = (20,)
    batch_size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images not in ("full", "subset"):
            raise ValueError(f"images is {self.images!r}, expected 'full' or 'subset'")
        if self.pool < 1 or 28 % self.pool:
            raise ValueError(f"pool is {self.pool}, expected a divisor of 28")
        if min((self.batch_size, *self.hidden)) < 1:
            raise ValueError(f"batch_size and hidden are {self.batch_size} and {self.hidden}, expected 1 or more")


def train(config: Config, run: Run) -> Outcome:
    """Optimizees differ in θ_0 and mini-batches; the test problems are on the test images, validation on held-out training ones."""
    load = mnist if config.images == "full" else mnist_subset
    x, y = _pixels(load("train").x, config.pool), load("train").y.astype(np.int64)
    cut = len(x) * 4 // 5
    sets = {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:])}
    sets["test"] = (_pixels(load("test").x, config.pool), load("test").y.astype(np.int64))

    def make_problem(rng: np.random.Generator, problems: int, part: str) -> l2l.Problem:
        images, labels = sets[part]
        draws = [
            list(minibatch_indices(rng, len(images), config.batch_size, config.steps + 1)) for _ in range(problems)
        ]
        return l2l.mlp_problem(images, labels, np.array(draws), rng, config.hidden, sigma=config.sigma)

    # the published figures are for the full problem: not to be put beside those of a smaller one
    published = PUBLISHED if config.pool == 1 else {"ratio": PUBLISHED["ratio"]}
    return run_comparison(config, run, make_problem, published)


def figures(outcome: Outcome) -> dict[str, Any]:
    return draw(outcome, "MNIST problems", "MNIST, a small MLP")


def _pixels(images: np.ndarray, pool: int) -> np.ndarray:
    n, side = len(images), 28 // pool
    pooled = images.reshape(n, side, pool, side, pool).mean(axis=(2, 4), dtype=np.float32)
    return (pooled / np.float32(255)).reshape(n, side * side)


EXPERIMENT = Experiment(
    name="l2l-mnist",
    title="A learned optimizer trains a network on MNIST",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.2",
    summary="The same kind of LSTM learns to train a small neural network on handwritten digits. It sees only gradients: its "
    "training problems use other images, other initial weights and other mini-batches than the problems on which it is judged. "
    "The quick preset averages the images to 7 x 7 pixels, so that it runs in about a minute; the paper's uses 28 x 28.",
    how_to_read="Lower is better. All methods start from the same weights and see the same mini-batches; the learned optimizer "
    "should fall fastest and end lowest.",
    config=Config,
    presets={
        "quick": {"images": "subset", "pool": 4, "meta_epochs": 48, "validate_every": 3},
        "paper": {},
        "code": {"p": 5.0, "scale": 0.01},
    },
    train=train,
    draw=figures,
    minutes={"quick": 1.5, "paper": 120, "code": 120},
)
