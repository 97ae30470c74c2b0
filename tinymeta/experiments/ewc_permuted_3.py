"""Three permuted-MNIST tasks in a row: Fig. 2A of Kirkpatrick et al. 2016 (arXiv 1612.00796; Fig. 3A in PNAS).

The paper's table of hyperparameters gives two hidden layers of 400 ReLUs, plain SGD at 1e-3, 20 epochs per task and no
dropout. It gives no minibatch size, lambda, momentum or number of Fisher samples, and no accuracy as a number: those are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta import nets, ops
from tinymeta.data import mnist, mnist_subset, permutations, permuted
from tinymeta.engine import trees
from tinymeta.engine.transforms import value_and_grad
from tinymeta.ewc import KINDS, Penalty, fisher_diagonal, uniform_fisher, warn_if_unstable
from tinymeta.lab import Claim, Experiment, Outcome, Row, Run, UserError, mean_ci95, stream
from tinymeta.lab import figures as look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = "ABC"
METHODS = ("SGD", "L2", "EWC")
IMAGES = {"mnist": mnist, "subset": mnist_subset}
FISHER_BATCH = 250
SOURCE = "1612.00796, Fig. 2A: curves, no numbers"

Params = tuple[nets.Layer, ...]
Accuracies = NDArray[np.floating]  # in %
State = dict[str, dict[str, Any]]  # "params" and "curves", each by learner


@dataclass(frozen=True)
class Config:
    """The first four are the paper's; from `batch_size` on it is silent. No momentum.

    Each method has the lambda of its grid that is best on validation images. `images` is "mnist", or "subset" for those in
    the package, `validation` the number of them that are kept from training, `evaluations` the points per task of a curve,
    `repeats` the number of sequences with other permutations, weights and minibatches.
    """

    seed: int = 0
    hidden: tuple[int, ...] = (400, 400)
    learning_rate: float = 1e-3
    epochs: int = 20
    images: str = "mnist"
    batch_size: int = 10
    l2_lams: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    ewc_lams: tuple[float, ...] = (10.0, 30.0, 100.0, 300.0)
    fisher: str = "exact"
    validation: int = 10_000
    evaluations: int = 20
    repeats: int = 1

    def __post_init__(self) -> None:
        for name, known in (("images", IMAGES), ("fisher", KINDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} = {getattr(self, name)!r}, expected one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "validation", "evaluations", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}, expected 1 or more")
        if min(self.hidden, default=1) < 1:
            raise ValueError(f"hidden = {self.hidden}, expected layers of 1 or more")
        for name in ("l2_lams", "ewc_lams"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}, expected at least one value, none negative")

    @property
    def learners(self) -> dict[str, tuple[str, float]]:
        """(method, lambda) of everything that is trained, by a name."""
        grids = {"SGD": (0.0,), "L2": self.l2_lams, "EWC": self.ewc_lams}
        return {f"{method} {lam!r}": (method, lam) for method in METHODS for lam in grids[method]}


class Task(NamedTuple):
    """A permutation, training images uint8 (N, 28, 28) with labels, and (x, y) of the validation and the test images."""

    permutation: NDArray[np.int64]
    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    validation: tuple[NDArray[np.float32], NDArray[np.uint8]]
    test: tuple[NDArray[np.float32], NDArray[np.uint8]]


def train(config: Config, run: Run) -> Outcome:
    """Learn the tasks in turn by all methods and lambdas, from the same weights and minibatches, and choose the lambdas.

    Fishers are not saved: a resumed run computes those of finished tasks again, from the saved weights.
    """
    found = [_learn_in_turn(config, run, repeat) for repeat in range(config.repeats)]
    joined = {name: {key: np.stack([one[name][key] for one in found]) for key in config.learners} for name in found[0]}
    return _report(config, **joined)


# ---- one sequence of tasks ----


def _learn_in_turn(config: Config, run: Run, repeat: int) -> State:
    """By learner: `curves` (points, tasks) on test images, `validation` (tasks,) at the end, `stability` of the penalty."""
    draw = partial(stream, config.seed, "repeat", repeat)
    tasks = _tasks(config, draw)
    weights = nets.init_mlp(draw("weights"), (784, *config.hidden, 10))
    before = _accuracies(weights, [task.test for task in tasks])[None]
    state: State = {"params": {"all": weights}, "curves": {"all": before}}
    state = _learn(config, run, repeat, 0, tasks, state, {"all": Penalty(0.0)})
    # there was nothing to forget, so all learners share the first task
    state = {name: dict.fromkeys(config.learners, values["all"]) for name, values in state.items()}
    penalties = {key: Penalty(lam) for key, (_, lam) in config.learners.items()}
    for number in range(1, len(tasks)):
        penalties = _remember(config, tasks[number - 1], state["params"], penalties, partial(draw, "labels", number))
        state = _learn(config, run, repeat, number, tasks, state, penalties)
    validation = {key: _accuracies(w, [task.validation for task in tasks]) for key, w in state["params"].items()}
    stability = {key: penalty.stability(config.learning_rate) for key, penalty in penalties.items()}
    return {"curves": state["curves"], "validation": validation, "stability": stability}


def _tasks(config: Config, draw: Any) -> list[Task]:
    training, test = IMAGES[config.images]("train"), IMAGES[config.images]("test")
    held, kept = np.split(draw("split").permutation(len(training.x)), [config.validation])
    if len(kept) < config.batch_size:
        raise UserError(
            f"validation = {config.validation} and batch_size = {config.batch_size} leave nothing to train on"
        )
    images, labels = training.x[kept], training.y[kept]

    def task(permutation: NDArray[np.int64]) -> Task:
        validation = permuted(training.x[held], permutation), training.y[held]
        return Task(permutation, images, labels, validation, (permuted(test.x, permutation), test.y))

    return [task(permutation) for permutation in permutations(draw("permutations"), len(TASKS))]


def _learn(
    config: Config,
    run: Run,
    repeat: int,
    number: int,
    tasks: Sequence[Task],
    state: State,
    penalties: Mapping[str, Penalty],
) -> State:
    """Task `number`, for every learner in `state` with its penalty; the curves go on."""
    task = tasks[number]
    batches = len(task.images) // config.batch_size
    steps = config.epochs * batches
    points = min(config.evaluations, steps)
    for penalty in penalties.values():
        warn_if_unstable(penalty, config.learning_rate)

    def step(state: State, i: int) -> tuple[State, dict[str, float]]:
        epoch, batch = divmod(i, batches)
        order = _order(config.seed, repeat, number, epoch, len(task.images))
        rows = order[batch * config.batch_size : (batch + 1) * config.batch_size]
        x, y = permuted(task.images[rows], task.permutation), task.labels[rows]
        with np.errstate(over="ignore", invalid="ignore"):  # a lambda that diverges ends with the accuracy of chance
            new = {key: _descend(w, x, y, penalties[key], config.learning_rate) for key, w in state["params"].items()}
        params, curves = {key: w for key, (w, _) in new.items()}, state["curves"]
        if (i + 1) * points // steps > i * points // steps:
            now = {key: _accuracies(w, [t.test for t in tasks])[None] for key, w in params.items()}
            curves = {key: np.concatenate([curves[key], now[key]]) for key in curves}
        return {"params": params, "curves": curves}, {"loss": float(np.mean([loss for _, loss in new.values()]))}

    return run.stage(f"repeat {repeat + 1}, task {TASKS[number]}", steps, lambda: state, step)


@lru_cache(maxsize=1)
def _order(seed: int, repeat: int, number: int, epoch: int, n: int) -> NDArray[np.int64]:
    return stream(seed, "repeat", repeat, "order", number, epoch).permutation(n)


_loss_and_grad = value_and_grad(lambda w, x, y: ops.mean(ops.softmax_cross_entropy(nets.mlp(w, x), y)))


def _descend(params: Params, x: NDArray, y: NDArray, penalty: Penalty, lr: float) -> tuple[Params, float]:
    """A step of SGD on cross-entropy + penalty, Eq. 3; the cross-entropy before it."""
    loss, grads = _loss_and_grad(params, x, y)
    if penalty.lam > 0:
        grads = trees.map(np.add, grads, penalty.grad(params))
    return trees.map(lambda w, g: w - lr * g, params, grads), float(loss)


def _remember(
    config: Config, task: Task, params: Mapping[str, Params], penalties: Mapping[str, Penalty], draw: Any
) -> dict[str, Penalty]:
    """The penalties with one more task, as each learner has learned it; not for SGD, nor where training has diverged."""
    x = permuted(task.images, task.permutation)
    fisher = partial(fisher_diagonal, nets.mlp, x=x, y=task.labels, kind=config.fisher, batch_size=FISHER_BATCH)
    fishers: dict[int, Any] = {}  # by weights: after the first task they are the same for all learners
    longer = dict(penalties)
    for key, w in params.items():
        method, _ = config.learners[key]
        if method == "SGD" or not all(np.isfinite(leaf).all() for leaf in trees.leaves(w)):
            continue
        if method == "EWC" and id(w) not in fishers:
            fishers[id(w)] = fisher(w, rng=draw())
        longer[key] = penalties[key].add_task(w, fishers[id(w)] if method == "EWC" else uniform_fisher(w))
    return longer


def _accuracies(params: Params, sets: Sequence[tuple[NDArray, NDArray]]) -> Accuracies:
    return np.array([100 * np.mean(np.argmax(nets.mlp(params, x), axis=1) == y) for x, y in sets])


# ---- what was found ----


def _report(
    config: Config, curves: dict[str, Accuracies], validation: dict[str, Accuracies], stability: dict[str, NDArray]
) -> Outcome:
    """From, by learner, curves (repeats, points, tasks), validation (repeats, tasks) and stability (repeats,)."""
    best = {
        method: max(
            (key for key in config.learners if config.learners[key][0] == method), key=lambda k: validation[k].mean()
        )
        for method in METHODS
    }
    chosen = {method: curves[key] for method, key in best.items()}
    series = {
        "epochs": np.linspace(0, len(TASKS) * config.epochs, curves[best["SGD"]].shape[1]),
        "curves": {method: dict(zip(("mean", "ci95"), mean_ci95(c), strict=True)) for method, c in chosen.items()},
        "chosen": {method: config.learners[key][1] for method, key in best.items()},
        "grid": [
            {
                "method": method,
                "lambda": lam,
                "validation": validation[key].mean(),
                "test": curves[key][:, -1].mean(),
                "lr_lambda_max_fisher": stability[key].max(),
            }
            for key, (method, lam) in config.learners.items()
        ],
    }
    points = (curves[best["SGD"]].shape[1] - 1) // len(TASKS)
    return Outcome(_rows(chosen), _claims(chosen, points), series)


def _rows(chosen: Mapping[str, Accuracies]) -> list[Row]:
    """Test accuracies after the last task: per method and task, and the mean over the tasks."""
    rows = []
    for method, curve in chosen.items():
        final = curve[:, -1]
        for name, values in [
            *((f"task {t}", final[:, k]) for k, t in enumerate(TASKS)),
            ("mean of tasks", final.mean(1)),
        ]:
            mean, ci95 = mean_ci95(values)
            rows.append(Row(f"{method}, {name} after C", mean, None, _known(ci95), "%", SOURCE))
    return rows


def _known(ci95: float) -> float | None:
    return ci95 if np.isfinite(ci95) else None


def _claims(chosen: Mapping[str, Accuracies], points: int) -> list[Claim]:
    """Judged in every repeat by itself; the details give means."""
    lost = {method: curve[:, points, 0] - curve[:, -1, 0] for method, curve in chosen.items()}
    mean = {method: curve[:, -1].mean(axis=1) for method, curve in chosen.items()}
    margin = mean["EWC"] - np.maximum(mean["SGD"], mean["L2"])
    kept = (lost["EWC"] < lost["SGD"] / 2) & (lost["SGD"] > 1)
    fall = ", ".join(f"{values.mean():.1f} with {method}" for method, values in lost.items())
    means = ", ".join(f"{method} {values.mean():.1f} %" for method, values in mean.items())
    return [
        Claim(
            "EWC keeps task A where SGD loses it: it loses less than half as much",
            bool(kept.all()),
            f"points lost on A while B and C are learned: {fall}",
        ),
        Claim(
            "EWC's mean accuracy over the three tasks is above SGD's and L2's, each with its best lambda",
            bool((margin > 0).all()),
            f"{means}; least margin in {len(margin)} repeats {margin.min():.1f} points",
        ),
    ]


# ---- figures ----


def draw(outcome: Outcome) -> dict[str, Figure]:
    """Fig. 2A, and what the choice of lambda did."""
    return {"accuracy": _draw_curves(outcome.series), "lambda": _draw_grid(outcome.series)}


def _draw_curves(series: Mapping[str, Any]) -> Figure:
    caption = "Test accuracy on each task, from when its training begins. Bands: 95 % confidence."
    figure, panels = look.subplots(len(TASKS), 1, height=6.0, caption=caption, sharex=True, sharey=True)
    epochs, points = np.array(series["epochs"]), (len(series["epochs"]) - 1) // len(TASKS)
    learned = [np.array(c["mean"])[(k + 1) * points :, k] for c in series["curves"].values() for k in range(len(TASKS))]
    for k, (task, axes) in enumerate(zip(TASKS, panels, strict=True)):
        shown = slice(k * points, None)
        for method, curve in series["curves"].items():
            mean, ci95 = (np.array(curve[name])[shown, k] for name in ("mean", "ci95"))
            axes.plot(epochs[shown], mean, **look.line(method))
            if np.isfinite(ci95).all():
                axes.fill_between(epochs[shown], mean - ci95, mean + ci95, color=look.line(method)["color"], alpha=0.15)
        for boundary in epochs[points:-1:points]:
            axes.axvline(boundary, color=look.GREY, linestyle=":", linewidth=1)
        axes.set(title=f"Task {task}", ylabel="accuracy (%)", ylim=(min(map(np.min, learned)) - 5, 100))
    panels[-1].set_xlabel(f"epochs: {', then '.join(f'task {task}' for task in TASKS)}")
    panels[-1].legend(loc="lower left")
    return figure


def _draw_grid(series: Mapping[str, Any]) -> Figure:
    caption = (
        "Mean accuracy over the three tasks on validation images, by which each method's lambda is chosen (rings)."
    )
    figure, axes = look.subplots(caption=caption)
    for method in METHODS:
        grid = [(point["lambda"], point["validation"]) for point in series["grid"] if point["method"] == method]
        if method == "SGD":
            axes.axhline(grid[0][1], **look.line(method))
            continue
        axes.plot(*zip(*grid, strict=True), marker=".", **look.line(method))
        axes.plot(
            *max(grid, key=lambda pair: pair[1]), "o", markersize=10, mfc="none", color=look.line(method)["color"]
        )
    axes.set(xscale="log", xlabel="lambda", ylabel="mean accuracy (%)")
    axes.legend()
    return figure


EXPERIMENT = Experiment(
    name="ewc-permuted-3",
    title="EWC on three permuted-MNIST tasks",
    paper="Kirkpatrick et al. 2016, Overcoming catastrophic forgetting in neural networks, arXiv 1612.00796, Fig. 2A",
    summary=(
        "A network learns MNIST with its pixels shuffled in one way (task A), then in a second (B) and a third (C), and "
        "never sees an old task again. Plain SGD forgets. An L2 penalty that holds every weight alike keeps the old tasks "
        "only as far as it stops the new ones. EWC holds each weight by its Fisher information, which says how much the "
        "old tasks need it."
    ),
    how_to_read=(
        "In each panel higher is better: task A should not fall after the first dotted line, nor B after the second, and C "
        "should still be learned. The paper prints curves only, so there are no published numbers; its minibatch size and "
        "lambdas are not given either, and ours are chosen on validation images, as carefully for L2 as for EWC. Very "
        "large lambdas are out of reach of plain SGD, for which lr * lambda * max(fisher) must stay below 2."
    ),
    config=Config,
    presets={
        "quick": {
            "hidden": (100, 100),
            "learning_rate": 0.2,
            "epochs": 5,
            "images": "subset",
            "batch_size": 100,
            "l2_lams": (1e-3, 3e-3, 1e-2),
            "ewc_lams": (1.0, 4.0, 12.0),
            "validation": 1000,
            "evaluations": 6,
            "repeats": 3,
        },
        "paper": {},
    },
    train=train,
    draw=draw,
    minutes={"quick": 1, "paper": 90},
)
