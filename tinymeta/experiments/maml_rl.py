"""What the reinforcement learning experiments share: meta-training by TRPO, and adaptation to tasks that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tinymeta import rl
from tinymeta.experiments.settings import expect, expect_at_least, expect_interval, expect_once
from tinymeta.lab import Row, Run, figures, mean_ci95, stream
from tinymeta.rl.policy import distribution, log_prob

AT_LEAST_ONE = ("iterations", "meta_batch", "episodes", "horizon", "test_episodes", "updates", "hidden")

Returns = dict[str, NDArray]  # by method: average returns (goals, updates + 1)


class World(Protocol):
    """A family of tasks."""

    @property
    def observation_size(self) -> int: ...
    @property
    def action_size(self) -> int: ...
    def goals(self, rng: np.random.Generator, tasks: int) -> NDArray: ...
    def sample(self, policy: rl.Policy, goals: NDArray, episodes: int, rng: np.random.Generator) -> rl.Episodes: ...


@dataclass(frozen=True)
class RLConfig:
    """The paper's protocol (section 5.3 and appendix A.2); constants that it leaves open are the authors' code's.

    An iteration samples `episodes` for each of `meta_batch` tasks, before and after adaptation. `keep` is "best", for the policy
    of the iteration with the best average return, or "last". `inner_lr` is the rate of MAML's first update; those of the policies
    that are not meta-trained are tuned among `rates`; further updates have half the rate. `spread` is that of differences in
    place of Hessian-vector products (see rl.trpo_step), 0 for exact products.
    """

    seed: int = 0
    hidden: tuple[int, ...] = (100, 100)
    iterations: int = 500
    keep: str = "best"
    meta_batch: int = 20
    episodes: int = 20
    horizon: int = 100
    inner_lr: float = 0.1
    rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5)
    max_kl: float = 0.01
    spread: float = 0.0
    discount: float = 0.99
    test_goals: int = 40
    test_episodes: int = 40
    updates: int = 4

    def __post_init__(self) -> None:
        expect_at_least(1, self, AT_LEAST_ONE)
        expect_interval(self, ("test_goals",))
        expect(self, "inner_lr", self.inner_lr > 0, "more than 0")
        expect(self, "rates", len(self.rates) > 0 and min(self.rates) > 0, "one or more, each above 0")
        expect_once(self, ("rates",))
        expect(self, "max_kl", self.max_kl > 0, "more than 0: with no divergence allowed no step is taken")
        expect(self, "keep", self.keep in ("best", "last"), "best or last")
        expect(self, "spread", 0 <= self.spread < np.inf, "0 for exact products, or more")
        expect(self, "discount", 0 <= self.discount <= 1, "0 to 1")


def meta_train(config: RLConfig, run: Run, world: World, name: str, adapts: bool) -> rl.Policy:
    """The last policy or the one with the best average return, after adaptation if it `adapts`; else this is pretraining on all
    tasks. The return is that on the iteration's own training goals, as in the paper: no validation, and no early stopping."""

    def begin() -> dict[str, Any]:
        policy = first_policy(config, world)
        return {"policy": policy, "best": policy, "best_return": np.array(-np.inf)}

    def step(state: dict[str, Any], i: int) -> tuple[dict[str, Any], dict[str, float]]:
        rng = stream(config.seed, name, i)
        goals = world.goals(rng, config.meta_batch)
        policy = state["policy"]
        sampled, returns = _sampled(config, world, policy, goals, rng, adapts)
        taken = rl.trpo_step(
            lambda p: rl.surrogate_loss(p, sampled, config.inner_lr),
            lambda p: rl.kl_divergence(p, sampled, config.inner_lr),
            policy,
            config.max_kl,
            spread=config.spread or None,
        )
        better = returns[-1] > state["best_return"]
        best = (
            {"best": policy, "best_return": np.array(returns[-1])}
            if better
            else {k: state[k] for k in ("best", "best_return")}
        )
        metrics = {
            "return_before": returns[0],
            "return": returns[-1],
            "kl": taken.kl,
            "accepted": float(taken.accepted),
        }
        return {"policy": taken.params} | best, metrics

    state = run.stage(name, config.iterations, begin, step)
    return state["policy" if config.keep == "last" else "best"]


def first_policy(config: RLConfig, world: World) -> rl.Policy:
    """The policy before any training."""
    return rl.init_policy(stream(config.seed, "init"), world.observation_size, world.action_size, config.hidden)


def sample_episodes(
    world: World, policy: rl.Policy, goals: NDArray, count: int, rng: np.random.Generator
) -> rl.Episodes:
    """What the world returns, before anything is computed of it: rl.ContractError if that is not what was asked for."""
    episodes = world.sample(policy, goals, count, rng)
    rl.check_episodes(episodes, (len(goals), count, world.observation_size, world.action_size))
    return episodes


def _sampled(
    config: RLConfig, world: World, policy: rl.Policy, goals: NDArray, rng: np.random.Generator, adapts: bool
) -> tuple[rl.Sampled, list[float]]:
    """Episodes before and after adaptation, the policies that sampled the latter, and both average returns."""
    returns, before, adapted = [], None, policy
    if adapts:
        episodes = sample_episodes(world, policy, goals, config.episodes, rng)
        returns.append(float(rl.mean_returns(episodes).mean()))
        before = rl.transitions(episodes, config.discount)
        adapted = rl.adapt_policy(policy, before, config.inner_lr, order=1)
    episodes = sample_episodes(world, adapted, goals, config.episodes, rng)
    returns.append(float(rl.mean_returns(episodes).mean()))
    after = rl.transitions(episodes, config.discount)
    log_probs = log_prob(adapted, after.observations, after.actions)
    return rl.Sampled(before, after, log_probs, distribution(adapted, after.observations)), returns


class Compared(NamedTuple):
    """By method: the policy, the rate of its first update, and its returns on the same new goals; of the oracle returns alone."""

    policies: dict[str, rl.Policy]
    rates: dict[str, float]
    returns: Returns


def compare(config: RLConfig, run: Run, world: World, oracle: World) -> Compared:
    """Meta-train, pretrain and train the oracle, which is told the goal; then adapt each but that one to new goals."""
    policies = {
        "MAML": meta_train(config, run, world, "maml", adapts=True),
        "pretrained": meta_train(config, run, world, "pretrained", adapts=False),
        "random": first_policy(config, world),
    }
    told = meta_train(config, run, oracle, "oracle", adapts=False)
    rates = {name: config.inner_lr if name == "MAML" else tuned_rate(config, world, p) for name, p in policies.items()}
    returns = {
        name: returns_after_updates(config, world, p, config.updates, rates[name]) for name, p in policies.items()
    }
    return Compared(
        policies, rates, returns | {"oracle": returns_after_updates(config, oracle, told, 0, config.inner_lr)}
    )


def tuned_rate(config: RLConfig, world: World, policy: rl.Policy) -> float:
    """The rate with the highest returns, over all updates, on goals of its own ("manually tuned", A.2); not one that diverges."""

    def after(rate: float) -> float:
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                found = returns_after_updates(config, world, policy, config.updates, rate, "tuning")
            return float(found[:, 1:].mean())
        except (FloatingPointError, rl.ContractError):
            return -np.inf

    return max(config.rates, key=after) if len(config.rates) > 1 else config.rates[0]


def returns_after_updates(
    config: RLConfig, world: World, policy: rl.Policy, updates: int, lr: float, part: str = "test"
) -> NDArray:
    """Average returns (goals, updates + 1) on goals that were not trained on: every step on episodes of the policy before it,
    all but the first with half of `lr`."""
    rng = stream(config.seed, part)
    goals = world.goals(rng, config.test_goals)
    found = []
    for update in range(updates + 1):
        episodes = sample_episodes(world, policy, goals, config.test_episodes, rng)
        found.append(rl.mean_returns(episodes))
        policy = _updated(config, policy, episodes, lr, update) if update < updates else policy
    return np.stack(found, axis=1)


def _updated(config: RLConfig, policy: rl.Policy, episodes: rl.Episodes, lr: float, update: int) -> rl.Policy:
    """One policy for each task."""
    batch = rl.transitions(episodes, config.discount)
    return rl.adapt_further(policy, batch, lr / 2) if update else rl.adapt_policy(policy, batch, lr, order=1)


def rows(compared: Compared, published: dict[str, list[float]], source: str) -> list[Row]:
    """One for each number of updates of each method, and one for each rate."""
    returns = [
        row for name, r in compared.returns.items() for row in _of_updates(name, r, published.get(name, []), source)
    ]
    return [*returns, *(Row(f"{name}, rate of the first update", rate, None) for name, rate in compared.rates.items())]


def _of_updates(method: str, returns: NDArray, published: list[float], source: str) -> list[Row]:
    known = [*published, *[None] * (returns.shape[1] - len(published))]
    mean, ci95 = mean_ci95(returns)
    return [
        Row(
            f"{method}, return after {n} updates",
            float(mean[n]),
            known[n],
            float(ci95[n]),
            source=source if known[n] else "",
        )
        for n in range(returns.shape[1])
    ]


def draw_returns(series: dict[str, Any], caption: str) -> Any:
    """Returns against updates, for every method that has more than one, and the rest as levels."""
    figure, panel = figures.subplots(caption=caption)
    updates = np.arange(max(len(curve["mean"]) for curve in series.values()))
    for method, curve in series.items():
        look = figures.line(method)
        mean, half = (np.array(curve[key]) * np.ones(len(updates)) for key in ("mean", "ci95"))
        panel.plot(updates, mean, **look)
        panel.fill_between(updates, mean - half, mean + half, color=look["color"], alpha=0.2, linewidth=0)
    panel.set(xlabel="gradient updates", ylabel="average return", xticks=updates)
    panel.legend()
    return figure


def curves(found: Returns) -> dict[str, Any]:
    """What is kept of the returns of every method for the figure."""
    return {method: dict(zip(("mean", "ci95"), mean_ci95(returns), strict=True)) for method, returns in found.items()}
