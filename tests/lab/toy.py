"""A toy experiment: least squares by SGD in two stages, quick, seeded, with a hook before each step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, stream
from tinymeta.lab import figures as look


@dataclass(frozen=True)
class Config:
    """`sizes` are those of the weights, `pause` is waited in each step."""

    seed: int = 0
    steps: int = 60
    learning_rate: float = 0.05
    sizes: tuple[int, ...] = (4, 3)
    momentum: bool = True
    label: str = "toy"
    pause: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps = {self.steps}, expected 0 or more")


class Velocity(NamedTuple):
    value: np.ndarray | float
    steps: int


def nothing(stage: str, i: int) -> None:
    """Called before each step; tests put something that fails in its place."""


before_step: Callable[[str, int], None] = nothing


@contextmanager
def failing_at(n: int, error: BaseException) -> Iterator[None]:
    """The toy raises `error` at its n-th step within this block."""
    global before_step
    left = itertools.count(n, -1)

    def hook(stage: str, i: int) -> None:
        if next(left) == 0:
            raise error

    before_step = hook
    try:
        yield
    finally:
        before_step = nothing


def train(config: Config, run: Run) -> Outcome:
    def descend(stage: str) -> Callable:
        def step(state, i):
            before_step(stage, i)
            time.sleep(config.pause)
            rng = stream(config.seed, stage, i)
            x, noise = rng.standard_normal((8, config.sizes[0])), rng.standard_normal((8, config.sizes[1]))
            error = x @ state["w"] - noise
            velocity = 0.9 * config.momentum * state["velocity"].value + x.T @ error
            w = state["w"] - config.learning_rate / 8 * velocity
            moved = Velocity(velocity.T.copy().T, state["velocity"].steps + 1)
            return {"w": w, "velocity": moved, "seen": state["seen"] + 8}, {"loss": np.mean(error**2)}

        return step

    def begin():
        return {"w": stream(config.seed, "w").standard_normal(config.sizes), "velocity": Velocity(0.0, 0), "seen": 0}

    first = run.stage("pretrain", config.steps, begin, descend("pretrain"))
    last = run.stage("finetune", config.steps // 2, lambda: first, descend("finetune"))
    norm = float(np.linalg.norm(last["w"]))
    rows = [Row("norm of w", norm, 1.0, 0.01, source="<made up> & escaped"), Row("seen", last["seen"])]
    claims = [Claim("w stays finite", bool(np.isfinite(norm)), f"norm {norm:.3g}"), Claim("w is 0", norm == 0, "no")]
    return Outcome(rows, claims, {"w": last["w"], "norm": norm})


def draw(outcome: Outcome):
    figure, axes = look.subplots(caption="The weights <w> at the end.")
    axes.plot(np.ravel(outcome.series["w"]), **look.line("SGD"))
    axes.legend()
    return {"weights": figure}


EXPERIMENT = Experiment(
    name="toy",
    title="Least squares <by> SGD",
    paper="Nobody 2016, arXiv 1606.04474",
    summary="A line is fitted & drawn.",
    how_to_read="Lower is better.",
    config=Config,
    presets={"quick": {"steps": 20}, "paper": {}},
    train=train,
    draw=draw,
    minutes={"quick": 0.1, "paper": 120},
)


def contents(folder: Path) -> dict[str, bytes]:
    """What must be equal bit for bit: results, metrics, final states and figures."""
    names = ["result.json", "metrics.jsonl", "checkpoint.npz", "figures/weights.png", "figures/weights.svg"]
    return {name: (folder / name).read_bytes() for name in names}
