"""Random quadratics (1606.04474, section 3.1): the first problem on which the learned optimizer beats the hand-designed ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymeta import l2l
from tinymeta.data import quadratics
from tinymeta.lab import Experiment, Outcome, Run

from .l2l_training import draw, run_comparison

# Loss at step 100, read off Fig. 4; the paper's scale cannot be recovered from its text, so only the ratio is compared.
PUBLISHED = {"ratio": 0.039 / 0.052}


@dataclass(frozen=True)
class Config:
    """The paper's protocol; what it does not state (meta-learning rate, epochs, problems per meta-step) is ours."""

    seed: int = 0
    kind: str = "gaussian"  # entries of W and y: N(0, 1), or "uniform" as in the authors' code
    dim: int = 10
    sigma: float = 0.01  # θ_0 ~ N(0, sigma²)
    steps: int = 100
    unroll_length: int = 20
    hidden_units: tuple[int, ...] = (20, 20)
    scale: float = 1.0
    p: float = 0.0  # 0: no preprocessing
    meta_epochs: int = 1000
    meta_batch: int = 128
    meta_lr: float = 0.003
    validate_every: int = 10
    validation_problems: int = 256
    test_problems: int = 512


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
