"""Random quadratics (1606.04474, section 3.1): the first problem on which the learned optimizer beats the hand-designed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymeta import l2l
from tinymeta.data import quadratics
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_training import Training, draw, run_comparison

# Loss at step 100, read off Fig. 4; the paper's scale cannot be recovered from its text, so only the ratio is compared.
PUBLISHED = {"ratio": 0.039 / 0.052}


@dataclass(frozen=True)
class Config(Training):
    """The paper's protocol: neither preprocessing nor scaling of the output."""

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


def train(config: Config, run: Run) -> Outcome:
    """Meta-train on fresh quadratics every epoch; validation and test problems are drawn apart."""

    def make_problem(rng: np.random.Generator, problems: int, part: str) -> l2l.Problem:
        drawn = quadratics(rng, problems, config.dim, config.kind)  # type: ignore[arg-type]
        theta = config.sigma * rng.normal(size=(problems, config.dim))
        return l2l.quadratic_problem(drawn.W, drawn.y, theta.astype(np.float32))

    return run_comparison(config, run, make_problem, PUBLISHED)


def figures(outcome: Outcome) -> dict[str, Any]:
    return draw(outcome, "quadratics", "Quadratics")


EXPERIMENT = Experiment(
    name="l2l-quadratic",
    title="A learned optimizer on random quadratics",
    paper="Andrychowicz et al. 2016, arXiv 1606.04474, section 3.1",
    summary="A two-layer LSTM, the same for every coordinate, is trained to minimise random 10-dimensional quadratics and is "
    "then compared with SGD, Nesterov momentum, RMSprop and ADAM, each with its best learning rate, on quadratics that it has "
    "never seen.",
    how_to_read="Lower is better. The thick curve is the learned optimizer; every other curve is a hand-designed one at the "
    "learning rate that gives it the lowest final loss.",
    config=Config,
    presets={
        "quick": {"meta_epochs": 150, "meta_batch": 32, "validate_every": 5},
        "paper": {},
        "code": {"kind": "uniform"},
    },
    train=train,
    draw=figures,
    minutes={"quick": 1, "paper": 15, "code": 15},
)
