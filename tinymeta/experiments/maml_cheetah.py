"""MAML for reinforcement learning: HalfCheetah with a goal velocity or direction, Figure 5 of 1703.03400 (section 5.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tinymeta import rl
from tinymeta.experiments import maml_rl
from tinymeta.lab import Claim, Experiment, Outcome, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = {  # average returns of 40 goals after 0, 1, ... updates
    "velocity": {
        "MAML": [-129.5, -78.6, -66.6, -60.8],
        "pretrained": [-158.0, -135.4, -128.5, -133.6],
        "random": [-254.8, -254.3, -246.8, -230.8],
        "oracle": [-54.5],
    },
    "direction": {
        "MAML": [-50.69, 293.19, 313.48, 315.65],
        "pretrained": [-43.0, -24.8, -12.9, 19.6],
        "random": [-35.7, 21.8, 62.3, 86.2],
        "oracle": [442.7],
    },
}
SOURCE = "results files of the authors' code (cbfinn/maml_rl, icml/), with rllab's simulator"


QUICK = {
    "goal": "direction", "iterations": 15, "meta_batch": 10, "episodes": 10, "horizon": 100, "test_goals": 10, "test_episodes": 10,
    "updates": 2, "max_kl": 0.02, "rates": (0.1,),
}  # fmt: skip


@dataclass(frozen=True)
class Config(maml_rl.RLConfig):
    """The paper's protocol; `workers` processes simulate, and any number of them gives the same episodes."""

    goal: str = "velocity"
    workers: int = 2
    meta_batch: int = 40
    horizon: int = 200
    test_episodes: int = 20
    updates: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.world()  # which checks its settings

    def world(self) -> rl.Cheetah:
        return rl.Cheetah(self.goal, self.horizon, self.workers)


def train(config: Config, run: Run) -> Outcome:
    """Each method's returns on the same goals."""
    world = config.world()
    compared = maml_rl.compare(config, run, world, replace(world, tell_goal=True))
    found, known = compared.returns, PUBLISHED[config.goal] if config.horizon == 200 else {}
    series = {"returns": maml_rl.curves(found), "goal": config.goal}
    return Outcome(maml_rl.rows(compared, known, SOURCE), [_claim(found)], series)


def _claim(found: maml_rl.Returns) -> Claim:
    gained = (found[name][:, 1] - found[name][:, 0] for name in ("MAML", "pretrained"))
    (ours, ci), (theirs, their_ci) = map(maml_rl.mean_ci95, gained)
    detail = f"the first update gains {ours:.1f} ± {ci:.1f}, the pretrained policy's {theirs:.1f} ± {their_ci:.1f}"
    return Claim(
        "One update helps MAML's policy more than the pretrained one", bool(ours - ci > theirs + their_ci), detail
    )


def draw(outcome: Outcome) -> dict[str, Figure]:
    """`returns` after Figure 5 of the paper."""
    goals = f"goals ({outcome.series['goal']}) that were not trained on"
    caption = f"Average return on {goals}, after each update; the oracle is told the goal. 95 % bands."
    return {"returns": maml_rl.draw_returns(outcome.series["returns"], caption)}


EXPERIMENT = Experiment(
    name="maml-cheetah",
    title="MAML: a simulated cheetah that learns from one update how fast, or which way, to run",
    paper="Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.3",
    summary=(
        "Each task is a velocity, or a direction, in which a simulated cheetah is to run; the policy is not told which. MAML "
        "trains a policy that one policy gradient step on a few episodes turns to the task. Needs Gymnasium with MuJoCo."
    ),
    how_to_read=(
        "Higher is better. The first update should lift MAML's return at once, and the pretrained policy's hardly. The quick "
        "presets run the whole procedure on a small fraction of the paper's budget, too little to show that."
    ),
    config=Config,
    presets={
        "quick": QUICK,
        "quick-velocity": QUICK | {"goal": "velocity"},
        "paper": {},
        "paper-direction": {"goal": "direction", "max_kl": 0.02},
        "code": {"goal": "direction", "iterations": 800, "max_kl": 0.02, "spread": 1.0},
    },
    train=train,
    draw=draw,
    minutes={"quick": 5, "quick-velocity": 5, "paper": 2000, "paper-direction": 2000, "code": 3200},
)
