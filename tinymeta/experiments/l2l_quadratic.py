"""Random quadratics (1606.04474, section 3.1): the first problem on which the learned optimizer beats the hand-designed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinymeta import l2l
from tinymeta.data import quadratics
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_comparison import Setting, run_comparison
from .l2l_figures import loss_curves, meta_training
from .l2l_trace import trace_of
from .l2l_training import AUTHORS, AUTHORS_VALIDATION, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The paper's scale cannot be recovered from its text (its curves start at 1), so only the ratio is compared.
PUBLISHED = {"ratio": 0.039 / 0.052}  # LSTM / ADAM at step 100
SOURCE = "1606.04474 Fig. 4, read off the figure (3-5 %)"


@dataclass(frozen=True)
class Config(Training):
    """The paper's protocol: neither preprocessing nor scaling of the output. Preset `code` has the authors' quadratics, of which a
    batch of 128 lasts for an epoch as here, and their schedule (`l2l_training.AUTHORS`)."""

    kind: str = "gaussian"  # entries of W and y: N(0, 1), or "uniform" as in the authors' code
    dim: int = 10
    scale: float = 1.0
    p: float = 0.0
    meta_batch: int = 128
    meta_lr: float = 0.003
    validation_problems: int = 256
    test_problems: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("gaussian", "uniform"):
            raise ValueError(f"kind is {self.kind!r}, expected 'gaussian' or 'uniform'")
        if self.dim < 1:
            raise ValueError(f"dim is {self.dim}, expected 1 or more")


def make_problems(config: Config, rng: np.random.Generator, problems: int) -> l2l.Problem:
    """Fresh quadratics: those of training, validation and test differ by their random streams alone."""
    drawn = quadratics(rng, problems, config.dim, config.kind)  # type: ignore[arg-type]
    theta = config.sigma * rng.normal(size=(problems, config.dim))
    return l2l.quadratic_problem(drawn.W, drawn.y, theta.astype(np.float32))


def settings(config: Config) -> list[Setting]:
    """The steps of meta-training, as in the paper, and twice as many."""

    def make_problem(rng: np.random.Generator, problems: int, part: str) -> l2l.Problem:
        return make_problems(config, rng, problems)

    once = Setting("", config.steps, make_problem, PUBLISHED if config.steps == 100 else {}, SOURCE)
    return [once, Setting("", 2 * config.steps, make_problem)]


def train(config: Config, run: Run) -> Outcome:
    """Meta-train on fresh quadratics every epoch; compare on others."""
    return run_comparison(config, run, settings(config), "quadratics")


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`loss-curves` after Fig. 4 (left) of the paper."""
    found = outcome.series["settings"]
    return {
        "loss-curves": loss_curves(found, outcome.series["trained_for"], "quadratics"),
        "meta-training": meta_training(outcome.series["history"], found),
    }


EXPERIMENT = Experiment(
    name="l2l-quadratic",
    title="A learned optimizer on random quadratics",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.1",
    summary="A two-layer LSTM, the same for every coordinate, is trained to minimise random 10-dimensional quadratics and is "
    "then compared with SGD, Nesterov momentum, RMSprop and ADAM, each with its best learning rate, on quadratics that it has "
    "never seen, for as many steps as it was trained for and for twice as many.",
    how_to_read="Lower is better. The thick curve is the learned optimizer; every other curve is a hand-designed one at the "
    "learning rate that gives it the lowest final loss. Right of the dotted line the learned optimizer has never been.",
    config=Config,
    presets={
        "quick": {"meta_epochs": 150, "meta_batch": 32, "validate_every": 5},
        "paper": {},
        "code": AUTHORS | {"kind": "uniform", "validation_problems": 128 * AUTHORS_VALIDATION},
    },
    train=train,
    draw=draw,
    minutes={"quick": 0.5, "paper": 3, "code": 30},
    trace=trace_of(lambda config, folder: settings(config)[0]),
)
