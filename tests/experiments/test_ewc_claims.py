"""What the EWC experiments conclude from given accuracies, and by which they choose."""

from __future__ import annotations

import numpy as np
import pytest

from tinymeta import ewc, experiments, nets
from tinymeta.engine.backend import use
from tinymeta.experiments import ewc_fisher_kinds, ewc_overlap, ewc_permuted_10, ewc_split
from tinymeta.experiments.ewc_memory import Learner
from tinymeta.experiments.ewc_report import Found
from tinymeta.experiments.ewc_tasks import Digits, task_of
from tinymeta.experiments.ewc_training import Course, Protocol, course
from tinymeta.lab import configure


def some_digits(rng, n):
    return Digits(rng.integers(256, size=(n, 28, 28), dtype=np.uint8), rng.integers(10, size=n).astype(np.uint8))


def test_the_overlap_is_that_of_as_fisher_and_of_bs_where_b_ended():
    rng = np.random.default_rng(0)
    digits = {part: some_digits(rng, 12) for part in ("train", "validation", "test")}
    tasks = [task_of(digits, rng.permutation(784)) for _ in range(2)]
    config, learner = ewc_overlap.Config(hidden=(5,), fisher_samples=0), Learner("EWC", 0.1, 1.0)
    at = course("test", Protocol((5,), "sgd", 1, 4), tasks, 0, "test")
    a, b = (nets.init_mlp(np.random.default_rng(seed), (784, 5, 10)) for seed in (1, 2))
    with use("numpy"):  # no kernel has to be loaded
        fishers = [
            ewc.fisher_diagonal(nets.mlp, w, t.seen(t.train, slice(None))[0])
            for w, t in zip((a, b), tasks, strict=True)
        ]
        state = {"params": b, "penalty": vars(ewc.Penalty(1.0).add_task(a, fishers[0]))}
        found = ewc_overlap._overlaps(config)(at, learner, state)
    np.testing.assert_allclose(found["overlap"], ewc.overlap(*fishers), rtol=1e-5)
    assert found["accuracy"].shape == (2,)


@pytest.mark.parametrize(
    ("small", "large", "held"),
    [
        ([0.9, 0.8, 0.5], [0.3, 0.5, 0.6], [True, True]),  # but for the last layer the tasks that are alike share more
        ([0.9, 0.4, 0.9], [0.3, 0.5, 0.6], [False, True]),
        ([0.9, 0.8, 0.1], [0.6, 0.7, 0.3], [True, False]),
    ],
)
def test_the_claims_on_overlaps_are_on_means_over_repeats(small, large, held):
    spread = np.array([[0.05], [-0.05]])
    claims = ewc_overlap._claims({26: np.array(large) + spread, 8: np.array(small) - spread})
    assert [claim.held for claim in claims] == held


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, [True, True, True]),
        ({("task", "EWC"): (85.0, 85.5)}, [False, True, True]),  # above none, and below what was published
        ({("task", "none"): (97.9, 98.9)}, [False, True, True]),
        ({("domain", "EWC"): (88.0, 89.0)}, [True, False, True]),
        ({("class", "EWC"): (20.0, 41.0)}, [True, True, False]),
    ],
)
def test_the_claims_on_split_mnist_are_on_means_over_repeats(changes, held):
    accuracy = {
        "task": {"none": (84.0, 85.0), "EWC": (98.0, 98.5)},
        "domain": {"EWC": (60.0, 61.0), "offline": (98.0, 98.2)},
        "class": {"EWC": (19.0, 38.0)},
    }
    for (scenario, method), values in changes.items():
        accuracy[scenario][method] = values
    assert [claim.held for claim in ewc_split._claims(accuracy, dict.fromkeys(accuracy, ""))] == held


def test_the_lambda_of_a_kind_is_chosen_on_validation_images_and_its_test_accuracy_reported():
    def found(test, right):
        return [Found(np.full((3, 2), value), np.full(2, right), 0.0) for value in (test - 1.0, test + 1.0)]

    kinds = {"exact": {1.0: (90, 80), 3.0: (95, 70)}, "batched": {1.0: (88, 60), 3.0: (89.5, 70)}}
    trials = {Learner("SGD", 0.1): found(50, 50)} | {
        Learner("EWC", 0.1, lam, kind): found(*pair) for kind, tried in kinds.items() for lam, pair in tried.items()
    }
    outcome = ewc_fisher_kinds._report(trials)
    assert outcome.series["best"] == {"exact": 1.0, "batched": 3.0}
    assert [row.ours for row in outcome.rows] == [50, 90, 89.5]
    assert [claim.held for claim in outcome.claims] == [True, False]  # they tie, at different λ
    trials[Learner("EWC", 0.1, 3.0, "batched")] = found(88.5, 70)
    trials[Learner("EWC", 0.1, 3.0, "exact")] = found(88.5, 90)
    trials[Learner("EWC", 0.1, 1.0, "exact")] = found(99, 80)
    assert [claim.held for claim in ewc_fisher_kinds._report(trials).claims] == [True, True]
    trials[Learner("EWC", 0.1, 3.0, "batched")] = found(87, 70)
    assert [claim.held for claim in ewc_fisher_kinds._report(trials).claims] == [False, True]


@pytest.mark.parametrize("where", [slice(None), slice(1, 2)], ids=["in both repeats", "in one of them"])
@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, [True, True]),
        ({"EWC": [[97, 10], [91, 93]]}, [True, False]),  # 6 points lost, where dropout loses 10
        ({"EWC": [[95, 10], [91, 82]]}, [False, True]),
        ({"SGD": [[95, 10], [92, 95]]}, [False, False]),
    ],
)
def test_the_claims_on_many_tasks_are_judged_against_both_baselines_in_every_repeat(changes, held, where):
    matrices = {"SGD": [[95, 10], [75, 95]], "SGD+dropout": [[90, 10], [80, 94]], "EWC": [[95, 10], [91, 93]]}
    found = {}
    for method, R in matrices.items():
        repeats = [R, R]
        repeats[where] = [changes.get(method, R)] * len(repeats[where])
        found[method] = [Found(np.array([[10, 10], *one], float), np.zeros(2), 0.0) for one in repeats]
    assert [claim.held for claim in ewc_permuted_10._claims(found, "")] == held


def test_random_rates_and_lambdas_are_even_on_a_logarithmic_scale_and_widths_on_a_linear_one():
    config = configure(experiments.load("ewc-permuted-10"), "paper", {"combinations": "400"})
    ewcs = [(learner, width) for learner, width in config.settings if learner.method == "EWC"]
    assert all(1 <= learner.lam <= 1000 for learner, _ in ewcs)
    below = lambda values, middle: np.mean(np.array(values) < middle)
    assert below([learner.learning_rate for learner, _ in ewcs], 1e-4) == pytest.approx(0.5, abs=0.08)
    assert below([learner.lam for learner, _ in ewcs], 1000**0.5) == pytest.approx(0.5, abs=0.08)
    assert below([width for _, width in ewcs], 1200) == pytest.approx(0.5, abs=0.08)


def test_an_epoch_is_judged_on_validation_images_of_the_tasks_so_far_and_a_task_is_left_with_its_best_weights(
    monkeypatch,
):
    taken, asked, left, right = [], [], [], iter([90.0, 80.0, 70.0, 85.0])

    def descend(at, learner, state, number, step):
        taken.append((number, step))
        state["params"] += 1.0

    def accuracies(params, tasks, part="test"):
        asked.append((len(tasks), part))
        return np.full(len(tasks), params[0] if part == "test" else next(right))

    def look_back(at, learner, state, number):
        left.append((number, float(state["params"][0])))
        return state

    for stand_in in (descend, accuracies, look_back):
        monkeypatch.setattr(ewc_permuted_10, stand_in.__name__, stand_in)
    monkeypatch.setattr(ewc_permuted_10, "summed_up", lambda at, learner, state: {"accuracy": state["accuracy"]})
    at, learner = Course("test", Protocol((), "sgd", 3, 1), ["A", "B"], None, {}), Learner("SGD", 0.1)
    start = {"params": np.zeros(1), "accuracy": np.zeros((1, 2)), "task": 0}
    state = start | ewc_permuted_10._fresh(start["params"])
    for _ in range(4):
        state, _ = ewc_permuted_10._epoch(ewc_permuted_10.Config(tasks=2, epochs=2), at, learner, state)
    assert taken == [(number, step) for number in (0, 1) for step in range(6)]
    assert asked == [*[(1, "validation")] * 2, (2, "test"), *[(2, "validation")] * 2, (2, "test")]
    assert left == [(0, 3.0)]
    np.testing.assert_array_equal(state["accuracy"], [[0, 0], [3, 3], [9, 9]])
