"""Training a small MLP on MNIST (1606.04474, section 3.2) with the learned optimizer, and other MLPs than it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import l2l, ops
from tinymeta.data import minibatch_indices, mnist, mnist_subset
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_comparison import Setting, run_comparison
from .l2l_figures import loss_curves, meta_training
from .l2l_trace import trace_of
from .l2l_training import AUTHORS, AUTHORS_VALIDATION, MakeProblem, Training
from .settings import expect_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "1606.04474 Fig. {}, read off the figure (3-5 %)"
PUBLISHED = {  # by the number of steps
    100: {"LSTM": 0.26, "NAG": 0.33, "RMSprop": 0.36, "ADAM": 0.37, "SGD": 0.46, "ratio": 0.26 / 0.33},
    200: {"LSTM": 0.21, "NAG": 0.26, "RMSprop": 0.29, "ADAM": 0.30, "SGD": 0.33, "ratio": 0.21 / 0.26},
}


class Variant(NamedTuple):
    """Another MLP, and the published losses after 100 steps; `fails` if the paper's learned optimizer does."""

    hidden: tuple[int, ...]
    activation: Callable
    published: Mapping[str, float]
    fails: bool = False


VARIANTS = {
    "40 units": Variant(
        (40,), ops.sigmoid,
        {"LSTM": 0.19, "NAG": 0.31, "RMSprop": 0.32, "ADAM": 0.33, "SGD": 0.45, "ratio": 0.19 / 0.31},
    ),
    "two layers": Variant(
        (20, 20), ops.sigmoid,
        {"LSTM": 0.33, "NAG": 0.76, "RMSprop": 0.75, "ADAM": 0.72, "SGD": 1.82, "ratio": 0.33 / 0.72},
    ),
    "ReLU": Variant(
        (20,), ops.relu,
        {"LSTM": 2.6, "NAG": 0.37, "RMSprop": 0.41, "ADAM": 0.37, "SGD": 0.45, "ratio": 2.6 / 0.37}, fails=True,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Mnist(Training):
    """The paper's protocol: preprocessing with p = 10, output scaled by 0.1, mini-batches of 128.

    Preset `code` has the authors' p and scale, one MLP an epoch, and their schedule (`l2l_training.AUTHORS`), chosen by the loss
    after 100 steps; still ours are the estimate of dL/dφ on `coordinates`, and the mean over `final_steps` as "the" final loss.
    """

    images: str = "full"  # or "subset", the 10,000 + 2,000 images that travel with the package
    pool: int = 1  # average over pool x pool pixels: 4 makes images 7 x 7 and the MLP thirteen times smaller
    hidden: tuple[int, ...] = (20,)
    batch_size: int = 128
    meta_epochs: int = 5000
    meta_batch: int = 2
    meta_lr: float = 0.003
    coordinates: int = 4000
    validate_every: int = 100
    validation_steps: int = 200  # trained for 100; of equally good optimizers the one that goes on best is kept
    final_steps: int = 5  # as the published losses were read off their figures

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images not in ("full", "subset"):
            raise ValueError(f"images is {self.images!r}, expected 'full' or 'subset'")
        if self.pool < 1 or 28 % self.pool:
            raise ValueError(f"pool is {self.pool}, expected a divisor of 28")
        if min((self.batch_size, *self.hidden)) < 1:
            raise ValueError(f"batch_size and hidden are {self.batch_size} and {self.hidden}, expected 1 or more")

    def problems(self, steps: int, hidden: tuple[int, ...] = (), activation: Callable = ops.sigmoid) -> MakeProblem:
        """MLPs that differ in θ_0 and mini-batches: on training images, on others kept for validation, on test images."""

        def make_problem(rng: np.random.Generator, problems: int, part: str) -> l2l.Problem:
            images, labels = _sets(self.images, self.pool)[part]
            longest = max(steps, self.longest)
            draws = [list(minibatch_indices(rng, len(images), self.batch_size, longest + 1)) for _ in range(problems)]
            return l2l.mlp_problem(
                images, labels, np.array(draws), rng, hidden or self.hidden, activation, sigma=self.sigma
            )

        return make_problem


@dataclass(frozen=True)
class Config(Mnist):
    """`horizons` are the numbers of steps after which the MLP of meta-training is compared, `variants` other MLPs."""

    horizons: tuple[int, ...] = (100, 200)
    variants: tuple[str, ...] = tuple(VARIANTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.horizons, default=0) < 1:
            raise ValueError(f"horizons is {self.horizons}, expected at least one number of steps, 1 or more")
        expect_once(self, ("horizons", "variants"))
        self.check_final_steps(min(self.horizons))
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"variants has {name!r}, expected some of {', '.join(VARIANTS)}")


@cache
def _sets(images: str, pool: int) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """(pixels, labels) of each part; a fifth of the training images is kept for validation."""
    load = mnist if images == "full" else mnist_subset
    (x, y), test = ((_pixels(part.x, pool), part.y.astype(np.int64)) for part in (load("train"), load("test")))
    cut = len(x) * 4 // 5
    return {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:]), "test": test}


def _pixels(images: np.ndarray, pool: int) -> np.ndarray:
    n, side = len(images), 28 // pool
    pooled = images.reshape(n, side, pool, side, pool).mean(axis=(2, 4), dtype=np.float32)
    return (pooled / np.float32(255)).reshape(n, side * side)


def settings(config: Config) -> list[Setting]:
    """The MLP of meta-training for all horizons, then the other MLPs for the first."""
    first = config.horizons[0]
    found = [
        Setting("", steps, config.problems(steps), _known(config, PUBLISHED.get(steps, {})), SOURCE.format(4))
        for steps in config.horizons
    ]
    for name in config.variants:
        hidden, activation, published, fails = VARIANTS[name]
        problems = config.problems(first, hidden, activation)
        known = _known(config, published if first == 100 else {})
        found.append(Setting(name, first, problems, known, SOURCE.format(5), fails))
    return found


def _known(config: Config, published: Mapping[str, float]) -> Mapping[str, float]:
    """The published losses are for the full problem: not to be put beside those of a smaller one."""
    return published if config.pool == 1 else {k: v for k, v in published.items() if k == "ratio"}


def train(config: Config, run: Run) -> Outcome:
    """Meta-train on the MLP, compare on it and on the others."""
    return run_comparison(config, run, settings(config), "MLP")


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`loss-curves` after Fig. 4 (center, right) of the paper, `generalisation` after Fig. 5."""
    found, trained_for = outcome.series["settings"], outcome.series["trained_for"]
    same, other = ([s for s in found if bool(s["name"]) == named] for named in (False, True))
    figures = {"loss-curves": loss_curves(same, trained_for, "MNIST problems")}
    if other:
        figures["generalisation"] = loss_curves(other, trained_for, "MNIST problems with another MLP")
    return figures | {"meta-training": meta_training(outcome.series["history"], same)}


EXPERIMENT = Experiment(
    name="l2l-mnist",
    title="A learned optimizer trains a network on MNIST",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.2",
    summary="The same kind of LSTM learns to train a small neural network on handwritten digits. It sees only gradients: its "
    "training problems use other images, other initial weights and other mini-batches than the problems on which it is judged. "
    "Then it is asked for more than it was trained for: more steps, more hidden units, more layers, ReLUs in place of sigmoids. "
    "The quick preset averages the images to 7 x 7 pixels, so that it runs in about a minute; the paper's uses 28 x 28.",
    how_to_read="Lower is better. All methods start from the same weights and see the same mini-batches; a loss at a step is the "
    "mean over the last few mini-batches up to it. The learned optimizer should fall fastest and end lowest, but for the ReLUs, "
    "where the paper's fails. Right of a dotted line it takes more steps than it was trained for. Losses are on mini-batches of "
    "test images, on which the nets are trained; these come round again after 78 steps, in the quick preset after 15, and all "
    "curves fall a little there.",
    config=Config,
    presets={
        "quick": {
            "images": "subset", "pool": 4, "meta_epochs": 48, "meta_batch": 4, "meta_lr": 0.005, "coordinates": 0,
            "validate_every": 3, "validation_steps": 0,
        },
        "paper": {},
        "code": AUTHORS | {
            "p": 5.0, "scale": 0.01, "meta_batch": 1, "validation_problems": AUTHORS_VALIDATION, "validation_steps": 0,
        },
        "long": {
            "start": "mnist-mlp", "late_start": 900, "late_share": 0.8, "unroll_length": 100, "clip_norm": 0.01,
            "meta_epochs": 2400, "meta_lr": 0.004, "validate_every": 40, "validation_steps": 1000, "validation_problems": 6,
            "horizons": (100, 1000), "variants": (),
        },
    },
    train=train,
    draw=draw,
    minutes={"quick": 1, "paper": 45, "code": 65, "long": 55},
    trace=trace_of(lambda config, folder: settings(config)[0]),
)  # fmt: skip
