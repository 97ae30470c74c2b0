"""A convolutional network on CIFAR-10 and on subsets of its labels (1606.04474, section 3.3, Fig. 7), by two LSTMs at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tinymeta import l2l
from tinymeta.data import cifar10, minibatch_indices
from tinymeta.data.cifar import IMAGE
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_comparison import Setting, claims, compare, curve_claims, rows, save_optimizer, series
from .l2l_figures import loss_curves, meta_training
from .l2l_training import MakeProblem, Training, meta_train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "1606.04474 Fig. 7: curves, no numbers"
LABELS = {"CIFAR-10": range(10), "CIFAR-5": range(5), "CIFAR-2": range(2)}
HELD_OUT = range(5, 10)  # the labels on which LSTM-sub is trained: in neither CIFAR-5 nor CIFAR-2
SUB = "LSTM-sub"
POOLS = 1, 2, 4


@dataclass(frozen=True)
class Config(Training):
    """The paper's net and horizon. It says neither the number of filters nor the mini-batch nor the scale of the output: the
    first two are those of the authors' code, the scale and p those of the paper's MNIST experiment.

    Meta-training averages images over pool x pool pixels, comparisons over each of `test_pools` (none: over `pool` alone): an
    optimizer of single coordinates can be trained on small images, where nets are cheap, and used on whole ones.

    Preset `code` has the authors' p, scale and first meta-learning rate; horizon and number of epochs are those of `paper`, where
    theirs are 100 steps and 10,000 epochs.
    """

    steps: int = 1000
    pool: int = 1  # 2 makes images 16 x 16 and the net four times cheaper
    test_pools: tuple[int, ...] = ()
    filters: tuple[int, ...] = (16, 16, 16)
    hidden: int = 32
    batch_size: int = 128
    meta_batch: int = 1
    meta_epochs: int = 100
    coordinates: int = 1000
    rates: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    validation_problems: int = 4
    final_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool not in POOLS:
            raise ValueError(f"pool is {self.pool}, expected 1, 2 or 4: three convolutions halve the images")
        if not set(self.test_pools) <= set(POOLS) or len(set(self.test_pools)) < len(self.test_pools):
            raise ValueError(f"test_pools is {self.test_pools}, expected some of 1, 2 and 4, each once")
        if min((self.batch_size, self.hidden, *self.filters)) < 1:
            sizes = self.batch_size, self.hidden, self.filters
            raise ValueError("batch_size, hidden and filters are {}, {} and {}, expected 1 or more".format(*sizes))
        if len(self.filters) > 3:
            raise ValueError(
                f"filters is {self.filters}, expected at most three numbers: each convolution halves the images"
            )

    def problems(self, labels: range, pool: int) -> MakeProblem:
        """Nets that differ in θ_0 and mini-batches, on images with these labels: training images, others of them, test images."""

        def make_problem(rng: np.random.Generator, problems: int, part: str) -> l2l.Problem:
            x, y = _sets(pool, labels)[part]
            steps = self.longest + 1
            draws = [list(minibatch_indices(rng, len(x), self.batch_size, steps)) for _ in range(problems)]
            return l2l.conv_problem(x, y, np.array(draws), rng, self.filters, self.hidden, self.sigma)

        return make_problem

    def untrained_pair(self) -> l2l.Grouped:
        """One LSTM for the weights of the convolutions and one for all else, as in the authors' code; the paper names them those
        of convolutional and of fully connected layers, and does not say which has the shifts of batch norm."""
        return l2l.Grouped({name: self.untrained(name) for name in ("conv", "rest")}, label)


def label(path: str) -> str:
    """Which LSTM updates the parameter of a `ConvNet` at this path."""
    return "conv" if path.startswith("['conv']") and path.endswith("['w']") else "rest"


@cache
def _sets(pool: int, labels: range) -> dict[str, tuple[NDArray, NDArray[np.int64]]]:
    """(images, labels) of each part; a fifth of the training images is kept for validation."""
    found = {}
    for split in ("train", "test"):
        images = cifar10(split)
        chosen = np.isin(images.y, labels)
        found[split] = _pooled(images.x[chosen], pool), images.y[chosen].astype(np.int64) - labels.start
    (x, y), cut = found["train"], len(found["train"][0]) * 4 // 5
    return {"train": (x[:cut], y[:cut]), "validation": (x[cut:], y[cut:]), "test": found["test"]}


def _pooled(images: NDArray, pool: int) -> NDArray:
    if pool == 1:
        return images
    n, channels, side, _ = images.shape
    blocks = images.reshape(n, channels, side // pool, pool, side // pool, pool)
    return np.round(blocks.mean(axis=(3, 5), dtype=np.float32)).astype(np.uint8)


def settings(config: Config, pool: int) -> dict[str, Setting]:
    """By the name of their set of labels: all, as in meta-training, then fewer. Titles say which copy of the images this is, and
    their size where it is not that of meta-training."""
    data, size = cifar10("test").source, "" if pool == config.pool else f", {_size(pool)}"
    return {
        name: Setting(data.replace("CIFAR-10", name) + size, config.steps, config.problems(labels, pool), source=SOURCE)
        for name, labels in LABELS.items()
    }


def train(config: Config, run: Run) -> Outcome:
    """Meta-train on all labels and, as LSTM-sub, on held-out ones; compare on all labels, and both on fewer."""
    pair, pools = config.untrained_pair(), config.test_pools or (config.pool,)
    optimizer, history = meta_train(config, run, config.problems(LABELS["CIFAR-10"], config.pool), pair)
    sub, _ = meta_train(config, run, config.problems(HELD_OUT, config.pool), pair, f"meta-training of {SUB}")
    by_size = {
        _size(pool): [
            compare(config, run, optimizer, setting, {} if name == "CIFAR-10" else {SUB: sub})
            for name, setting in settings(config, pool).items()
        ]
        for pool in pools
    }
    found = [comparison for comparisons in by_size.values() for comparison in comparisons]
    outcome = Outcome(
        [row for comparison in found for row in rows(comparison, config.final_steps)],
        [
            claim
            for comparison in found
            for claim in (*claims(comparison, config.final_steps), *curve_claims(comparison))
        ],
        {
            "history": history,
            "trained_for": config.steps,
            "trained_on": _size(config.pool),
            "settings": {size: [series(comparison) for comparison in part] for size, part in by_size.items()},
        },
    )
    save_optimizer(optimizer, run, outcome)
    return outcome


def _size(pool: int) -> str:
    side = IMAGE[-1] // pool
    return f"{side} x {side} pixels"


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`loss-curves` after Fig. 7 of the paper, for each size of images: the loss while the net is trained."""
    by_size, trained_for = outcome.series["settings"], outcome.series["trained_for"]
    curves = {
        f"loss-curves-{size.split()[0]}": loss_curves(found, trained_for, f"nets on images of the test set, {size}")
        for size, found in by_size.items()
    }
    validated_on = by_size.get(outcome.series["trained_on"], [])[:1]
    return curves | {"meta-training": meta_training(outcome.series["history"], validated_on)}


REDUCED = {
    "steps": 100, "meta_batch": 2, "meta_epochs": 600, "meta_lr": 0.003, "validate_every": 20, "coordinates": 2000,
}  # fmt: skip

EXPERIMENT = Experiment(
    name="l2l-cifar10",
    title="Two learned optimizers train a convolutional network on CIFAR-10",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.3, Fig. 7",
    summary="Three convolutions with batch norm and max-pooling and a hidden layer of 32 units are trained by two LSTMs at once, "
    "one for the weights of the convolutions and one for all other parameters. LSTM-sub has been trained on the labels 5 to 9 "
    "alone and is judged on others. Losses are on mini-batches of test images, on which the nets are trained, as on MNIST. The "
    "quick preset averages the images to 8 x 8 pixels and takes 100 steps on mini-batches of 32; medium trains the optimizer on "
    "16 x 16 pixels and compares there and on whole images.",
    how_to_read="Lower is better. All methods start from the same weights and see the same mini-batches; a loss at a step is the "
    "mean over the last ten mini-batches up to it. Claims are made on it and on the whole curve; the baselines are tuned for the "
    "last loss alone, as in the paper. The name of each data set says where its pixels are not exact.",
    config=Config,
    presets={
        "quick": {
            "pool": 4, "batch_size": 32, "steps": 100, "meta_batch": 2, "meta_epochs": 60, "validate_every": 5,
            "coordinates": 500, "validation_problems": 4,
        },
        "small": REDUCED | {"pool": 4, "batch_size": 32},
        "medium": REDUCED | {"pool": 2, "batch_size": 64, "test_pools": (2, 1)},
        "paper": {},
        "code": {"p": 5.0, "scale": 0.01, "meta_lr": 0.001},
    },
    train=train,
    draw=draw,
    minutes={"quick": 3, "small": 12, "medium": 75, "paper": 600, "code": 600},
)  # fmt: skip
