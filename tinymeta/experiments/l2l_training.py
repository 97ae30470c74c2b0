"""What the L2L experiments share: the settings of meta-training, and the loop that keeps the best optimizer by validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from tinymeta import l2l, optim
from tinymeta.lab import Run, stream

from .settings import expect, expect_at_least, expect_interval

MakeProblem = Callable[[np.random.Generator, int, str], l2l.Problem]  # (rng, problems, "train" | "validation" | "test")
State = dict[str, Any]
GUIDE = optim.adam(0.01)  # takes the steps before a late start
READ = 100  # so many of its last gradients the LSTM has read then

AT_LEAST_ONE = (
    "steps", "unroll_length", "hidden_units", "meta_epochs", "meta_batch", "validate_every", "validation_problems", "final_steps",
)  # fmt: skip
AT_LEAST_ZERO = ("sigma", "meta_lr", "coordinates", "spread", "late_start", "validation_steps", "patience")

# What train.py of the authors' code sets, for presets `code`. Other than there, the meta-learning rate falls along half a cosine,
# the meta-gradient is clipped, and the baselines are tuned: their evaluate.py has ADAM alone, at a rate of one's own.
AUTHORS = {"meta_lr": 0.001, "meta_epochs": 10_000, "validate_every": 1000}
AUTHORS_VALIDATION = 20  # epochs of evaluation, each on problems of its own


@dataclass(frozen=True)
class Training:
    """What every L2L experiment sets. The paper states steps, unroll_length and hidden_units; scale and p where it uses them;
    the meta-learning rate ("by random search", ADAM), epochs and problems per meta-step are ours."""

    seed: int = 0
    sigma: float = 0.01  # θ_0 ~ N(0, sigma²)
    steps: int = 100
    unroll_length: int = 20
    hidden_units: tuple[int, ...] = (20, 20)
    scale: float = 0.1
    p: float = 10.0  # 0: no preprocessing
    meta_epochs: int = 1000
    meta_batch: int = 4
    meta_lr: float = 0.005  # at first; it falls to 3 % of this along half a cosine
    second_derivatives: bool = False  # True keeps ∂∇_t/∂φ, the dashed edges that the paper drops
    coordinates: int = 0  # of each parameter on which dL/dφ is estimated, see l2l.Sample; 0: all of them
    curriculum: tuple[int, ...] = ()  # steps in each of as many equal parts of meta-training; (): `steps` throughout
    spread: float = 0.0  # of the random scaling of coordinates in meta-training, see l2l.rescaled
    start: str = ""  # a shipped optimizer from which meta-training goes on; "": random weights
    late_start: int = 0  # in some epochs the optimizees have taken 1 to so many steps of ADAM before
    late_share: float = 0.5  # of the epochs that start late, if late_start is not 0
    clip_norm: float = (
        1.0  # of the meta-gradient; a small one gives each meta-step the same weight, whatever its losses
    )
    validate_every: int = 10
    validation_steps: int = (
        0  # after which the validation loss is taken that decides which optimizer is kept; 0: `steps`
    )
    patience: int = (
        0  # meta-training ends after so many validations without a better one; 0: never before its last epoch
    )
    rates: tuple[float, ...] = l2l.RATES  # the grid on which the baselines are tuned
    validation_problems: int = 8
    test_problems: int = 24
    final_steps: int = 1  # "the loss at step n" is the mean over so many mini-batches up to it

    def __post_init__(self) -> None:
        expect_at_least(1, self, AT_LEAST_ONE)
        expect_at_least(0, self, AT_LEAST_ZERO)
        expect_interval(self, ("test_problems",))
        self.check_final_steps(min(self.steps, self.decisive))
        if self.coordinates and self.second_derivatives:
            raise ValueError(
                "coordinates is for second_derivatives = False, with which dL/dφ is a sum over coordinates"
            )
        if not 0 <= self.late_share <= 1:
            raise ValueError(f"late_share is {self.late_share}, expected 0 to 1")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}, expected more than 0")
        if min(self.rates, default=0) <= 0:
            raise ValueError(f"rates is {self.rates}, expected at least one learning rate, all above 0")
        if self.start:
            self._shipped()
        for steps in (self.steps, *self.curriculum):
            if steps < 1 or steps % self.unroll_length:
                raise ValueError(f"unroll_length is {self.unroll_length}, expected a divisor of steps, {steps}")
        if not 0 <= self.p < 88:
            raise ValueError(f"p is {self.p}, expected 0 (no preprocessing) to 88, so that e^p fits in float32")

    def check_final_steps(self, shortest: int) -> None:
        """ValueError if the final loss after so many steps would be the mean of more losses than there are."""
        fits = self.final_steps <= shortest + 1
        expect(self, "final_steps", fits, f"at most {shortest + 1}, the losses after 0 to {shortest} steps")

    def horizon(self, epoch: int) -> int:
        """How many steps the optimizees of this meta-training epoch take."""
        parts = self.curriculum or (self.steps,)
        return parts[epoch * len(parts) // self.meta_epochs]

    @property
    def decisive(self) -> int:
        """The number of steps after which the validation loss decides."""
        return self.validation_steps or self.steps

    @property
    def longest(self) -> int:
        """The number of the last step that a problem of meta-training or validation is asked for."""
        return max(self.late_start + max((self.steps, *self.curriculum)), self.validation_steps)

    def untrained(self, *words: str) -> l2l.LSTMOptimizer:
        """The optimizer with which meta-training begins; with random weights, one for each choice of words."""
        if self.start:
            return self._shipped()
        rng = stream(self.seed, "weights", *words)
        return l2l.LSTMOptimizer.create(rng, self.hidden_units, self.scale, self.p or None)

    def _shipped(self) -> l2l.LSTMOptimizer:
        found = l2l.LSTMOptimizer.pretrained(self.start)
        kind = tuple(b.size // 4 for _, b in found.weights.layers), found.scale, found.p
        if kind != (expected := (self.hidden_units, self.scale, self.p or None)):
            raise ValueError(f"start is {self.start!r}, whose (hidden_units, scale, p) are {kind}, expected {expected}")
        return found

    def steps_before(self, epoch: int) -> int:
        """How many steps of ADAM the optimizees of this meta-training epoch have taken."""
        rng = stream(self.seed, "late start", epoch)
        late = self.late_start > 0 and rng.random() < self.late_share
        return int(rng.integers(1, self.late_start + 1)) if late else 0


def meta_train(
    config: Training, run: Run, make_problem: MakeProblem, untrained: Any = None, stage: str = "meta-training"
) -> tuple[Any, dict[str, list]]:
    """The optimizer with the lowest validation loss, and the validation losses by epoch.

    One step of the stage is one unroll; a problem of `meta_batch` optimizees lasts for an epoch, and its θ and LSTM state go
    from unroll to unroll.
    """
    blank = untrained or config.untrained()
    unrolls = [(e, k) for e in range(config.meta_epochs) for k in range(config.horizon(e) // config.unroll_length)]
    adam = optim.adam(optim.cosine(config.meta_lr, len(unrolls)))
    validation = make_problem(stream(config.seed, "validation"), config.validation_problems, "validation")

    @lru_cache(maxsize=1)
    def problem(epoch: int) -> l2l.Problem:
        drawn = make_problem(stream(config.seed, "problem", epoch), config.meta_batch, "train")
        return l2l.rescaled(drawn, stream(config.seed, "scaling", epoch), config.spread) if config.spread else drawn

    def started(optimizer: Any, epoch: int) -> l2l.Carry:
        return l2l.late_carry(optimizer, problem(epoch), GUIDE, config.steps_before(epoch), READ)

    def begin() -> State:
        weights = blank.weights
        return {"weights": weights, "adam": adam.init(weights), "carry": started(blank, 0),
                "best": weights, "best_loss": np.inf, "stale": 0, "epochs": [], "losses": []}  # fmt: skip

    def step(state: State, i: int) -> tuple[State, dict[str, float]]:
        epoch, part = unrolls[i]
        optimizer = blank.with_weights(state["weights"])
        carry = state["carry"] if part else started(optimizer, epoch)
        optimizer, moments, carry, loss = l2l.meta_step(
            optimizer, problem(epoch), carry, adam, state["adam"],
            config.unroll_length, config.clip_norm, second_derivatives=config.second_derivatives,
            sample=l2l.Sample(stream(config.seed, "sample", i), config.coordinates) if config.coordinates else None,
        )  # fmt: skip
        state = {**state, "weights": optimizer.weights, "adam": moments, "carry": carry}
        done = epoch + 1
        at_end = i + 1 == len(unrolls) or unrolls[i + 1][0] == done
        if at_end and (done % config.validate_every == 0 or done == config.meta_epochs):
            state = _validated(state, done, _final_loss(config, optimizer, validation))
        return state, {"loss": loss, "best": state["best_loss"]}

    def patience_is_over(state: State) -> bool:
        return 0 < config.patience <= state["stale"]

    state = run.stage(stage, len(unrolls), begin, step, until=patience_is_over)
    history = {"steps": config.decisive, "epochs": state["epochs"], "losses": state["losses"]}
    return blank.with_weights(state["best"]), history


def _final_loss(config: Training, optimizer: Any, problem: l2l.Problem) -> float:
    return l2l.final_loss(optimizer, problem, config.decisive, config.final_steps)


def _validated(state: State, epoch: int, loss: float) -> State:
    if loss < state["best_loss"]:
        state = {**state, "best": state["weights"], "best_loss": loss, "stale": 0}
    else:
        state = {**state, "stale": state["stale"] + 1}
    return {**state, "epochs": [*state["epochs"], epoch], "losses": [*state["losses"], loss]}
