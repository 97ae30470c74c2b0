"""How far two tasks use the same weights, layer by layer: Fig. 2C of Kirkpatrick et al. 2016 (arXiv 1612.00796).

Task A is MNIST, task B is MNIST with the pixels of a centred square shuffled: 8x8, which leaves most of the image alone, or
26x26, which leaves the border. The paper's table gives six hidden layers of 100, SGD at 1e-3, 100 epochs per task, and no
numbers for the overlaps; minibatch size and λ are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinymeta import ewc
from tinymeta.data.permutations import centre_permutation
from tinymeta.ewc import KINDS
from tinymeta.lab import Claim, Experiment, Outcome, Run, stream
from tinymeta.lab import figures as look

from .ewc_memory import Learner, task_fisher
from .ewc_report import mean_se, row, with_se
from .ewc_settings import check_settings
from .ewc_tasks import IMAGES, accuracies, digits_of_repeat, task_of
from .ewc_training import Course, Protocol, State, course, learn_until
from .settings import expect

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 28
COLOURS = (look.GREY, look.BLACK, look.BLUE, look.GREEN)
SOURCE = "1612.00796, Fig. 2C: curves, no numbers"
TRACES = ("layer", "network")  # which trace is made 1: the paper does not say


@dataclass(frozen=True)
class Config:
    """The network learns A and then B with EWC, at a λ that is not tuned. The overlap is that of A's Fisher, at the weights that
    A ended with, and B's, at those that B ended with. `fisher_samples` training images give a Fisher (0: all)."""

    seed: int = 0
    hidden: tuple[int, ...] = (100, 100, 100, 100, 100, 100)
    learning_rate: float = 1e-3
    epochs: int = 100
    squares: tuple[int, ...] = (8, 26)
    images: str = "mnist"
    batch_size: int = 10
    lam: float = 100.0
    fisher: str = "exact"
    fisher_samples: int = 10_000
    unit_trace: str = "layer"
    validation: int = 5000
    repeats: int = 3

    def __post_init__(self) -> None:
        check_settings(
            self,
            known={"images": IMAGES, "fisher": KINDS, "unit_trace": TRACES},
            positive=("hidden", "epochs", "batch_size", "validation", "repeats"),
            grids=("squares",),
            not_negative=("learning_rate", "lam"),
        )
        expect(self, "squares", max(self.squares) <= SIDE, f"squares of at most {SIDE}")


def train(config: Config, run: Run) -> Outcome:
    """A and B with every square, in every repeat from other weights."""
    found: dict[int, list[State]] = {square: [] for square in config.squares}
    learner = Learner("EWC", config.learning_rate, config.lam, config.fisher)
    for repeat in range(config.repeats):
        digits = digits_of_repeat(config, repeat)
        steps = config.epochs * (len(digits["train"].y) // config.batch_size)
        protocol = Protocol(config.hidden, "sgd", steps, config.batch_size, fisher_samples=config.fisher_samples)
        begun: dict[str, State] = {}  # task A is the same for all squares
        for square, results in found.items():
            shuffled = centre_permutation(stream(config.seed, "repeat", repeat, "square", square), square)
            tasks = [task_of(digits, order) for order in (np.arange(SIDE * SIDE), shuffled)]
            at = course(f"repeat {repeat + 1}, {_title(square)}", protocol, tasks, config.seed, "repeat", repeat)
            at = at._replace(begun=begun)
            results.append(learn_until(run, at, learner, _overlaps(config)))
    return _report(found)


def _overlaps(config: Config) -> Any:
    """All that is kept of a learned pair: overlap (layers,), and the accuracies of A and B."""

    def finish(at: Course, learner: Learner, state: State) -> State:
        overlap = np.full(len(config.hidden) + 1, np.nan)  # where training has diverged
        with suppress(ewc.NotFinite):
            if state["penalty"] is not None:
                overlap = np.array(ewc.overlap(state["penalty"]["fisher"], of_b(at, state), config.unit_trace))
        return {"overlap": overlap, "accuracy": accuracies(state["params"], at.tasks)}

    def of_b(at: Course, state: State) -> Any:
        rng, size = at.draw("fisher", 1), at.protocol.batch_size
        return task_fisher(state["params"], at.tasks[1], config.fisher, config.fisher_samples, rng, size)

    return finish


def _title(square: int) -> str:
    return f"{square} x {square}"


# ---- what was found ----


def _report(found: Mapping[int, list[State]]) -> Outcome:
    overlap = {square: np.stack([one["overlap"] for one in results]) for square, results in found.items()}
    accuracy = {square: np.stack([one["accuracy"] for one in results]) for square, results in found.items()}
    rows = [
        row(f"{_title(square)}, overlap of layer {layer + 1}", values[:, layer], source=SOURCE, unit="")
        for square, values in overlap.items()
        for layer in range(values.shape[1])
    ]
    rows += [
        row(f"{_title(square)}, test accuracy on task {task} at the end", values[:, k])
        for square, values in accuracy.items()
        for k, task in enumerate("AB")
    ]
    curves = {
        _title(square): dict(zip(("mean", "se"), mean_se(values), strict=True)) for square, values in overlap.items()
    }
    return Outcome(rows, _claims(overlap), {"curves": curves})


def _claims(overlap: Mapping[int, NDArray]) -> list[Claim]:
    """Judged on the means over repeats; the details give standard errors."""
    small, large = min(overlap), max(overlap)
    mean = {square: values.mean(axis=0) for square, values in overlap.items()}
    shown = {
        square: f"{with_se(v[:, 0])} in the first layer, {with_se(v[:, -1])} in the last"
        for square, v in overlap.items()
    }
    claims = []
    if small != large:
        claims.append(
            Claim(
                "The more alike the tasks, the more weights they share, in every layer but the last",
                bool((mean[small] > mean[large])[:-1].all()),
                "; ".join(f"{_title(square)}: {text}" for square, text in shown.items()),
            )
        )
    return [
        *claims,
        Claim(
            "Unlike tasks use other weights near the input and the same ones near the output",
            bool(mean[large][0] < mean[large][-1]),
            f"{_title(large)}: {shown[large]}",
        ),
    ]


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Fig. 2C."""
    caption = "Overlap of the Fishers of task A (MNIST) and task B (a centred square of it shuffled). Bars: one standard error."
    figure, axes = look.subplots(caption=caption)
    for k, (title, curve) in enumerate(outcome.series["curves"].items()):
        mean, error = (np.array(curve[name], float) for name in ("mean", "se"))
        layers = np.arange(1, len(mean) + 1)
        axes.errorbar(
            layers, mean, np.nan_to_num(error), marker="o", markersize=4, capsize=2, color=COLOURS[k % 4], label=title
        )
    axes.set(xlabel="layer (the last gives the logits)", ylabel="Fisher overlap", ylim=(0, 1), xticks=layers)
    axes.legend(title="shuffled square")
    return {"overlap": figure}


EXPERIMENT = Experiment(
    name="ewc-overlap",
    title="How far two tasks use the same weights",
    paper="Kirkpatrick et al. 2016, Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796, Fig. 2C",
    summary=(
        "A deep network learns MNIST and then MNIST with a square in its middle shuffled, under EWC. The Fisher says which weights "
        "each task needs; the overlap of two Fishers, 0 to 1, says how far they are the same."
    ),
    how_to_read=(
        "The grey curve (tasks that are alike) should lie above the black one (tasks that are not), and the black one should "
        "rise: near the output even unlike tasks share weights, for the classes are the same. The paper prints curves only."
    ),
    config=Config,
    presets={
        "quick": {
            "learning_rate": 0.05,
            "epochs": 10,
            "images": "subset",
            "batch_size": 50,
            "lam": 100.0,
            "fisher_samples": 2000,
            "validation": 1000,
        },
        "full-mnist": {"learning_rate": 0.05, "epochs": 10, "batch_size": 50, "lam": 100.0},
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 2, "full-mnist": 5, "paper": 200},
)
