"""A learned optimizer beside hand-designed ones, each at its best learning rate on problems of the same kind: table and claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import l2l
from tinymeta.lab import Claim, Outcome, Row, Run, UserError, mean_ci95, stream
from tinymeta.lab.records import read_config

from .l2l_training import MakeProblem, Training, meta_train

LEARNED = "LSTM"


class Setting(NamedTuple):
    """Problems on which all optimizers take so many steps; the baselines are tuned for just these problems and steps.

    - name: how these problems differ from those that the optimizer is trained on, "" if they do not;
    - published: losses at the last step by method, and as "ratio" that of the LSTM to the best baseline's;
    - fails: the paper reports that the learned optimizer fails here.
    """

    name: str
    steps: int
    make_problem: MakeProblem
    published: Mapping[str, float] = {}
    source: str = ""
    fails: bool = False

    @property
    def title(self) -> str:
        """For people: the name, if there is one, and the number of steps."""
        return f"{self.name}, {self.steps} steps" if self.name else f"{self.steps} steps"


class Goal(NamedTuple):
    """The paper's ratio of the LSTM's loss to the best baseline's, and on what the paper has it."""

    ratio: float
    where: str


class Comparison(NamedTuple):
    """What was found in one setting.

    - grid: final loss on validation problems by baseline and learning rate, rates: the best of each;
    - curves: by method, the losses (steps + 1, problems) on test problems.
    """

    setting: Setting
    grid: dict[str, dict[float, float]]
    rates: dict[str, float]
    curves: dict[str, NDArray]

    def final(self, last: int) -> dict[str, NDArray]:
        """By method, the final loss of every test problem: the mean over the `last` last mini-batches."""
        return {name: curve[-last:].mean(axis=0) for name, curve in self.curves.items()}

    def rate(self, name: str) -> str:
        """For people: a baseline's learning rate, and whether a wider grid might have had a better one."""
        rate, grid = self.rates[name], self.grid[name]
        return f"learning rate {rate:g}{', at the end of its grid' if rate in (min(grid), max(grid)) else ''}"


def run_comparison(config: Training, run: Run, settings: Sequence[Setting], problems: str) -> Outcome:
    """Meta-train on the problems of the first setting, compare in all of them, and save the optimizer with what made it; what it
    is trained on is called `problems`."""
    first = settings[0]
    optimizer, history = meta_train(config, run, first.make_problem)
    where = f"on the {problems} of meta-training, {first.steps} steps"
    goal = Goal(first.published["ratio"], where) if "ratio" in first.published else None
    found = [compare(config, run, optimizer, setting) for setting in settings]
    outcome = Outcome(
        [row for comparison in found for row in rows(comparison, config.final_steps)],
        [
            claim
            for comparison in found
            for claim in (
                *claims(comparison, config.final_steps, goal),
                *lasts(comparison, config),
            )
        ],
        {"history": history, "trained_for": config.steps, "settings": [series(comparison) for comparison in found]},
    )
    save_optimizer(optimizer, run, outcome)
    return outcome


def save_optimizer(optimizer: Any, run: Run, outcome: Outcome) -> None:
    """Write the run folder's optimizer.npz: the optimizer with experiment, preset, seed, config, versions and result."""
    record = read_config(run.folder)
    made_by = {key: record[key] for key in ("experiment", "preset", "seed", "config", "versions")}
    optimizer.save(run.folder / "optimizer.npz", **made_by, result={row.quantity: row.ours for row in outcome.rows})


# ---- tuning and testing ----


def compare(
    config: Training, run: Run, optimizer: Any, setting: Setting, others: Mapping[str, Any] | None = None
) -> Comparison:
    """Tune the baselines on validation problems, then run all methods on the same test problems, from the same θ_0; `others` are
    further learned optimizers by name."""
    grid = tune_baselines(config, run, setting)
    rates = _best_rates(grid, setting)
    baselines = {name: l2l.BASELINES[name](lr) for name, lr in rates.items()}
    methods = {LEARNED: optimizer, **(others or {}), **baselines}
    problem = setting.make_problem(stream(config.seed, "test"), config.test_problems, "test")

    def step(curves: dict[str, NDArray], i: int) -> tuple[dict[str, NDArray], dict[str, float]]:
        name = list(methods)[i]
        with np.errstate(over="ignore", invalid="ignore"):  # a method that diverges ends with the loss it ends with
            curve = l2l.optimize(methods[name], problem, setting.steps)
        return {**curves, name: curve}, {"loss": float(np.mean(curve[-1]))}

    return Comparison(setting, grid, rates, run.stage(f"test, {setting.title}", len(methods), dict, step))


def tune_baselines(config: Training, run: Run, setting: Setting) -> dict[str, dict[float, float]]:
    """Final loss of each baseline at each rate of the grid, on validation problems: the paper's rule takes the best."""
    pairs = [(name, lr) for name in l2l.BASELINES for lr in config.rates]
    problem = setting.make_problem(stream(config.seed, "validation"), config.validation_problems, "validation")

    def step(losses: list[float], i: int) -> tuple[list[float], dict[str, float]]:
        name, lr = pairs[i]
        loss = l2l.final_loss(l2l.BASELINES[name](lr), problem, setting.steps, config.final_steps)
        return [*losses, loss], {"lr": lr, "loss": loss}

    losses = run.stage(f"tuning, {setting.title}", len(pairs), list, step)
    grid: dict[str, dict[float, float]] = {name: {} for name in l2l.BASELINES}
    for (name, lr), loss in zip(pairs, losses, strict=True):
        grid[name][lr] = loss
    return grid


def _best_rates(grid: Mapping[str, Mapping[float, float]], setting: Setting) -> dict[str, float]:
    rates = {}
    for name, results in grid.items():
        try:
            rates[name] = l2l.best_rate(results)
        except ValueError as error:
            raise UserError(
                f"{name}, {setting.title}: {error} by --set rates=..., in a new run: this one keeps its rates and "
                "cannot be finished"
            ) from error
    return rates


# ---- what is reported ----


def rows(comparison: Comparison, last: int) -> list[Row]:
    """The final loss of every method beside the published one, and the ratio of the LSTM's to the best baseline's."""
    setting, final = comparison.setting, comparison.final(last)
    known, where = setting.published, f"{setting.name}, " if setting.name else ""
    found = [
        _row(f"{method}, {where}loss at step {setting.steps}", *mean_ci95(losses), setting, known.get(method))
        for method, losses in final.items()
    ]
    best = best_baseline(final)
    quantity = (
        f"{LEARNED} / best baseline ({best}){f', {setting.name},' if setting.name else ''} at step {setting.steps}"
    )
    return [*found, _row(quantity, _ratio(final), None, setting, known.get("ratio"))]


def _row(quantity: str, ours: float, ci95: float | None, setting: Setting, published: float | None) -> Row:
    return Row(quantity, ours, published, ci95, source=setting.source if published else "")


def best_baseline(losses: Mapping[str, NDArray]) -> str:
    """The baseline with the lowest mean over the problems."""
    return min((name for name in losses if name in l2l.BASELINES), key=lambda name: _mean(losses[name]))


def _mean(losses: NDArray) -> float:
    """Infinite where a problem's loss is no finite number: the method has diverged there."""
    return float(np.mean(losses)) if np.isfinite(losses).all() else np.inf


def _ratio(final: Mapping[str, NDArray]) -> float:
    """The LSTM's mean loss, of the best baseline's."""
    return float(np.mean(final[LEARNED]) / np.mean(final[best_baseline(final)]))


def claims(comparison: Comparison, last: int, goal: Goal | None = None) -> list[Claim]:
    """That the LSTM ends below every baseline, and by the ratio of the `goal`; that it fails, where the paper's does; and of
    further learned optimizers that they end below every baseline."""
    setting, final = comparison.setting, comparison.final(last)
    if setting.fails:
        worse = apart(final[best_baseline(final)], final[LEARNED])
        return [
            Claim(
                f"{setting.title}: the learned optimizer fails, as in the paper",
                worse,
                _beside(comparison, final, LEARNED),
            )
        ]
    found = [_below(comparison, final, name) for name in final if name not in l2l.BASELINES]
    if goal is not None:
        found.append(_reaches(comparison, _ratio(final), goal))
    return found


def _reaches(comparison: Comparison, ratio: float, goal: Goal) -> Claim:
    sentence = f"its loss is at most {goal.ratio:.2f} of the best baseline's, the paper's ratio {goal.where}"
    known = comparison.setting.published.get("ratio", goal.ratio)
    detail = f"ratio {ratio:.3f}{f'; the paper has {known:.3f} here' if known != goal.ratio else ''}"
    return Claim(f"{comparison.setting.title}: {sentence}", ratio <= goal.ratio, detail)


def _below(comparison: Comparison, final: Mapping[str, NDArray], learned: str) -> Claim:
    sentence = f"{comparison.setting.title}: {_who(learned)} ends below every tuned baseline, 95 % intervals apart"
    held = all(apart(final[learned], final[name]) for name in final if name in l2l.BASELINES)
    return Claim(sentence, held, _beside(comparison, final, learned))


def _who(learned: str) -> str:
    return "the learned optimizer" if learned == LEARNED else learned


def curve_claims(comparison: Comparison) -> list[Claim]:
    """Of each learned optimizer that the mean loss over all its steps is below every baseline's on the same problems."""
    mean = {name: curve[1:].mean(axis=0) for name, curve in comparison.curves.items()}
    steps = comparison.setting.steps
    return [
        Claim(
            f"{comparison.setting.title}: the whole curve of {_who(name)}, the mean loss over steps 1 to {steps}, is below every "
            "baseline's, 95 % interval of the paired difference above 0",
            below_paired(mean, name),
            _beside(comparison, mean, name),
        )
        for name in mean
        if name not in l2l.BASELINES
    ]


def below_paired(losses: Mapping[str, NDArray], learned: str) -> bool:
    """Whether its losses are below every baseline's on the same problems: 95 % intervals of the mean difference above 0."""
    baselines = [losses[name] for name in losses if name in l2l.BASELINES and _mean(losses[name]) < np.inf]
    gains = (mean_ci95(baseline - losses[learned]) for baseline in baselines)
    return _mean(losses[learned]) < np.inf and all(bool(gain - half > 0) for gain, half in gains)


def lasts(comparison: Comparison, config: Training) -> list[Claim]:
    """Of 10 times the steps of meta-training or more, that the LSTM still ends below tuned ADAM there. The sentence names the steps
    that ADAM takes before a late start: with them the optimizer has been trained on θ from beyond its own steps."""
    setting, final = comparison.setting, comparison.final(config.final_steps)
    trained_for = max((config.steps, *config.curriculum))
    if setting.steps < 10 * trained_for:
        return []
    late = f" (in {100 * config.late_share:g} % of its epochs after 1 to {config.late_start} steps of ADAM)"
    times = (
        f"{setting.steps / trained_for:.3g} times the {trained_for} of meta-training{late if config.late_start else ''}"
    )
    sentence = f"{setting.title}, {times}: the learned optimizer ends below tuned ADAM"
    (ours, ci), (theirs, their_ci) = mean_ci95(final[LEARNED]), mean_ci95(final["ADAM"])
    rate = comparison.rate("ADAM")
    detail = f"{ours:.3g} ± {ci:.2g}; ADAM at {rate}, tuned for these steps: {theirs:.3g} ± {their_ci:.2g}"
    return [Claim(sentence, apart(final[LEARNED], final["ADAM"]), detail)]


def apart(lower: NDArray, upper: NDArray) -> bool:
    """Whether the 95 % interval of the mean of one lies below that of the other, which for one that has diverged is infinite."""
    if not _mean(lower) < np.inf or not _mean(upper) < np.inf:
        return _mean(lower) < _mean(upper)
    (low, low_ci), (high, high_ci) = mean_ci95(lower), mean_ci95(upper)
    return bool(low + low_ci < high - high_ci)


def _beside(comparison: Comparison, losses: Mapping[str, NDArray], learned: str) -> str:
    """The difference is paired: every method starts from the same θ_0 on the same problem with the same mini-batches."""
    best = best_baseline(losses)
    (ours, ci), (theirs, their_ci) = mean_ci95(losses[learned]), mean_ci95(losses[best])
    difference, its_ci = mean_ci95(losses[best] - losses[learned])
    return (
        f"{ours:.3g} ± {ci:.2g}; best baseline {best} at {comparison.rate(best)}: {theirs:.3g} ± {their_ci:.2g}; "
        f"difference on the same {len(losses[best])} held-out problems {difference:.3g} ± {its_ci:.2g}"
    )


def series(comparison: Comparison) -> dict[str, Any]:
    """What the figures are drawn from."""
    curves = {name: dict(zip(("mean", "ci95"), mean_ci95(c.T), strict=True)) for name, c in comparison.curves.items()}
    grid = {name: {str(lr): loss for lr, loss in results.items()} for name, results in comparison.grid.items()}
    setting = comparison.setting
    return {
        "name": setting.name,
        "title": setting.title,
        "steps": setting.steps,
        "curves": curves,
        "rates": comparison.rates,
        "grid": grid,
    }
