"""What the L2L experiments share: meta-training with the best optimizer kept by validation, tuning, comparing, drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinymeta import l2l, optim
from tinymeta.lab import Claim, Outcome, Row, Run, mean_ci95, stream
from tinymeta.lab.figures import line, subplots

FIGURE_READ = "1606.04474 Fig. 4, read off the figure (3-5 %)"
MakeProblem = Callable[[np.random.Generator, int, str], l2l.Problem]  # (rng, problems, "train" | "validation" | "test")


@dataclass(frozen=True)
class Training:
    """What every L2L experiment sets. The paper states steps, unroll_length and hidden_units; scale and p where it uses them;
    the meta-learning rate ("by random search"), epochs and problems per meta-step are ours."""

    seed: int = 0
    sigma: float = 0.01  # θ_0 ~ N(0, sigma²)
    steps: int = 100
    unroll_length: int = 20
    hidden_units: tuple[int, ...] = (20, 20)
    scale: float = 0.1
    p: float = 10.0  # 0: no preprocessing
    meta_epochs: int = 1000
    meta_batch: int = 4
    meta_lr: float = 0.005
    second_derivatives: bool = False  # True keeps ∂∇_t/∂φ, the dashed edges that the paper drops
    validate_every: int = 10
    validation_problems: int = 8
    test_problems: int = 24

    def __post_init__(self) -> None:
        for name in ("steps", "unroll_length", "meta_epochs", "meta_batch", "validate_every", "validation_problems"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.test_problems < 2:
            raise ValueError(f"test_problems is {self.test_problems}, expected 2 or more, for a confidence interval")
        if self.steps % self.unroll_length:
            raise ValueError(f"unroll_length is {self.unroll_length}, expected a divisor of steps, {self.steps}")
        if not 0 <= self.p < 88:
            raise ValueError(f"p is {self.p}, expected 0 (no preprocessing) to 88, so that e^p fits in float32")


def run_comparison(config: Training, run: Run, make_problem: MakeProblem, published: dict[str, float]) -> Outcome:
    """Meta-train, tune the baselines on validation problems, and compare all on fresh test problems."""
    validation = make_problem(stream(config.seed, "validation"), config.validation_problems, "validation")
    optimizer, history = meta_train(config, run, make_problem, validation)
    grid = tune_baselines(config, run, validation)
    optimizer.save(run.folder / "optimizer.npz", experiment=run.experiment, seed=config.seed)
    test = make_problem(stream(config.seed, "test"), config.test_problems, "test")
    chosen = {name: l2l.best_rate(results) for name, results in grid.items()}
    methods = {"LSTM": optimizer, **{name: l2l.BASELINES[name](lr) for name, lr in chosen.items()}}
    curves = {name: l2l.optimize(method, test, config.steps) for name, method in methods.items()}
    series = {
        "curves": {
            name: dict(zip(("mean", "ci95"), _lists(mean_ci95(c.T)), strict=True)) for name, c in curves.items()
        },
        "history": history,
        "rates": chosen,
        "grid": {name: {str(lr): loss for lr, loss in results.items()} for name, results in grid.items()},
    }
    return Outcome(_rows(curves, published, config.steps), [_claim(curves, chosen, config.steps)], series)


def meta_train(
    config: Training, run: Run, make_problem: MakeProblem, validation: l2l.Problem
) -> tuple[l2l.LSTMOptimizer, dict[str, list]]:
    """The optimizer with the lowest validation loss at the last step, and the validation losses by epoch."""
    unrolls = config.steps // config.unroll_length
    meta_steps = config.meta_epochs * unrolls
    adam = optim.adam(optim.cosine(config.meta_lr, meta_steps))
    blank = l2l.LSTMOptimizer.create(
        stream(config.seed, "weights"), config.hidden_units, config.scale, config.p if config.p else None
    )

    def init() -> dict[str, Any]:
        start = make_problem(stream(config.seed, "problem", 0), config.meta_batch, "train")
        carry = l2l.Carry(start.theta, blank.init(start.theta), 0)
        weights = blank.weights
        return {"weights": weights, "adam": adam.init(weights), "carry": carry, "best": weights, "best_loss": np.inf,
                "epochs": [], "losses": []}  # fmt: skip

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        epoch, part = divmod(i, unrolls)
        problem = make_problem(stream(config.seed, "problem", epoch), config.meta_batch, "train")
        optimizer, adam_state, carry, loss = l2l.meta_step(
            blank.with_weights(state["weights"]), problem, state["carry"] if part else None, adam, state["adam"],
            config.unroll_length, second_derivatives=config.second_derivatives,
        )  # fmt: skip
        state = {**state, "weights": optimizer.weights, "adam": adam_state, "carry": carry}
        if part + 1 == unrolls and ((epoch + 1) % config.validate_every == 0 or epoch + 1 == config.meta_epochs):
            state = _validated(state, optimizer, validation, config.steps, epoch + 1)
        return state, {"loss": loss}

    state = run.stage("meta-training", meta_steps, init, step)
    history = {"epochs": state["epochs"], "losses": state["losses"]}
    return blank.with_weights(state["best"]), history


def _validated(
    state: dict[str, Any], optimizer: l2l.LSTMOptimizer, problem: l2l.Problem, steps: int, epoch: int
) -> dict:
    loss = l2l.final_loss(optimizer, problem, steps)
    better = {"best": optimizer.weights, "best_loss": loss} if loss < state["best_loss"] else {}
    return {**state, **better, "epochs": [*state["epochs"], epoch], "losses": [*state["losses"], loss]}


def tune_baselines(config: Training, run: Run, problem: l2l.Problem) -> dict[str, dict[float, float]]:
    """Final loss of each baseline at each rate of the grid, on validation problems: the paper's rule takes the best."""
    pairs = [(name, lr) for name in l2l.BASELINES for lr in l2l.RATES]

    def step(losses: list[float], i: int) -> tuple[list[float], dict[str, float]]:
        name, lr = pairs[i]
        loss = l2l.final_loss(l2l.BASELINES[name](lr), problem, config.steps)
        return [*losses, loss], {"lr": lr, "loss": loss}

    losses = run.stage("tuning the baselines", len(pairs), list, step)
    grid: dict[str, dict[float, float]] = {name: {} for name in l2l.BASELINES}
    for (name, lr), loss in zip(pairs, losses, strict=True):
        grid[name][lr] = loss
    return grid


def _rows(curves: dict[str, np.ndarray], published: dict[str, float], steps: int) -> list[Row]:
    final = {name: mean_ci95(curve[-1]) for name, curve in curves.items()}
    rows = [
        Row(
            f"{name}, loss at step {steps}",
            mean,
            published.get(name),
            ci95,
            source=FIGURE_READ if name in published else "",
        )
        for name, (mean, ci95) in final.items()
    ]
    best = _best_baseline(curves)
    return [*rows, Row(f"LSTM / best baseline ({best}) at step {steps}", final["LSTM"][0] / final[best][0],
                       published.get("ratio"), source=FIGURE_READ)]  # fmt: skip


def _best_baseline(curves: dict[str, np.ndarray]) -> str:
    return min((name for name in curves if name != "LSTM"), key=lambda name: float(np.mean(curves[name][-1])))


def _claim(curves: dict[str, np.ndarray], chosen: dict[str, float], steps: int) -> Claim:
    """The comparison is paired: every method starts from the same θ_0 on the same problem with the same mini-batches."""
    best = _best_baseline(curves)
    mean, ci95 = mean_ci95(curves[best][-1] - curves["LSTM"][-1])
    detail = (
        f"at step {steps} its loss is {np.mean(curves['LSTM'][-1]):.3g}, that of the best baseline, {best} with learning rate "
        f"{chosen[best]:g}, {np.mean(curves[best][-1]):.3g}; difference on the same {curves[best].shape[1]} held-out problems "
        f"{mean:.3g} ± {ci95:.2g}"
    )
    return Claim("The learned optimizer ends below every tuned baseline on held-out problems", mean > ci95, detail)


def draw(outcome: Outcome, problem: str, trained_for: str) -> dict[str, Any]:
    """The loss curves of the paper's Fig. 4, and the validation loss over meta-training."""
    series = outcome.series
    figure, axes = subplots(
        caption=f"Loss on held-out {problem} against optimization steps; the band is the 95 % CI of the mean."
    )
    for name, curve in series["curves"].items():
        mean, ci95 = np.array(curve["mean"]), np.array(curve["ci95"])
        axes.plot(mean, **line(name))
        axes.fill_between(
            np.arange(len(mean)), mean - ci95, mean + ci95, color=line(name)["color"], alpha=0.15, linewidth=0
        )
    top = max(curve["mean"][0] for curve in series["curves"].values())
    axes.set(yscale="log", xlabel="step", ylabel="loss", ylim=(None, 1.6 * top), title=trained_for)
    axes.legend(ncols=2)
    learning, right = subplots(
        caption="Validation loss at the last step while the optimizer itself is being trained; the best is kept."
    )
    right.plot(series["history"]["epochs"], series["history"]["losses"], **line("LSTM"))
    for name, lr in series["rates"].items():
        right.axhline(series["grid"][name][str(lr)], **{**line(name), "linewidth": 1.2})
    right.set(yscale="log", xlabel="meta-training epoch", ylabel="validation loss", title="The optimizer learns")
    right.legend(ncols=2)
    return {"loss-curves": figure, "meta-training": learning}


def _lists(arrays: tuple[Any, ...]) -> list[list[float]]:
    return [np.asarray(a, np.float64).tolist() for a in arrays]
