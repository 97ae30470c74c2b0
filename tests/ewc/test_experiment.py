"""The experiment ewc-permuted-3 on few images: its record, its figures, its choice of lambda, and an exact resume."""

import numpy as np
import pytest

from tinymeta.experiments import ewc_permuted_3, load
from tinymeta.experiments.ewc_permuted_3 import METHODS, TASKS, Config
from tinymeta.lab import Run, UserError, configure, execute, run
from tinymeta.lab.experiment import config_hash
from tinymeta.lab.records import read_result

EXPERIMENT = load("ewc-permuted-3")
SMALL = {
    "images": "subset", "hidden": "12", "penalty_rates": "0.1", "epochs": "1", "batch_size": "50", "rates": "0.05,0.1",
    "l2_lams": "0.01", "ewc_lams": "0.5,2", "validation": "9000", "evaluations": "2", "repeats": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return execute(EXPERIMENT, configure(EXPERIMENT, "quick", SMALL), tmp_path_factory.mktemp("runs"))


def test_the_record_holds_curves_grid_rows_and_claims(folder):
    outcome = read_result(folder)[1]
    series = outcome.series
    assert series["epochs"] == pytest.approx(np.linspace(0, 3, 7))
    assert [(point["method"], point["rate"], point["lambda"]) for point in series["grid"]] == [
        ("SGD", 0.05, 0.0), ("SGD", 0.1, 0.0), ("SGD+dropout", 0.05, 0.0), ("SGD+dropout", 0.1, 0.0), ("L2", 0.1, 0.01),
        ("EWC", 0.1, 0.5), ("EWC", 0.1, 2.0),
    ]  # fmt: skip
    assert {method: np.shape(curve["mean"]) for method, curve in series["curves"].items()} == dict.fromkeys(
        METHODS, (7, 3)
    )
    assert all(0 <= point["validation"] <= 100 for point in series["grid"])
    assert len(outcome.rows) == 4 * (len(TASKS) + 1)
    assert all(row.published is None and row.ci95 is not None for row in outcome.rows)
    assert len(outcome.claims) == 2


def test_methods_that_begin_alike_share_the_first_task_and_then_differ(folder):
    curves = {method: np.array(curve["mean"]) for method, curve in read_result(folder)[1].series["curves"].items()}
    assert read_result(folder)[1].series["chosen"]["SGD"]["rate"] == 0.1  # that of EWC and L2
    for method in ("L2", "EWC"):
        np.testing.assert_array_equal(curves[method][:3], curves["SGD"][:3])
        assert not np.array_equal(curves[method][3:], curves["SGD"][3:])
    np.testing.assert_array_equal(curves["SGD+dropout"][0], curves["SGD"][0])
    assert not np.array_equal(curves["SGD+dropout"][1], curves["SGD"][1])
    assert curves["SGD"][2, 0] > 30 > curves["SGD"][0, 0]
    assert curves["SGD"][0, 0] != curves["SGD"][0, 1]  # the tasks are different permutations


def test_the_lambda_with_the_best_validation_is_chosen_and_its_test_accuracy_over_the_repeats_reported(folder):
    outcome = read_result(folder)[1]
    best = max((p for p in outcome.series["grid"] if p["method"] == "EWC"), key=lambda point: point["validation"])
    assert outcome.series["chosen"]["EWC"]["lambda"] == best["lambda"]
    at_the_end = outcome.series["curves"]["EWC"]["mean"][-1]
    assert {row.quantity: row.ours for row in outcome.rows}["EWC, mean of tasks after C"] == pytest.approx(
        np.mean(at_the_end)
    )


ENDS = {"SGD": (50, 85, 95), "SGD+dropout": (55, 85, 95), "L2": (70, 80, 80), "EWC": (80, 90, 90)}


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({}, [True, True]),
        ({"EWC": (69, 95, 95)}, [False, True]),  # 21 points lost on A, where SGD loses 40
        ({"L2": (88, 88, 88)}, [True, False]),
        ({"SGD+dropout": (75, 99, 99)}, [True, False]),
        ({"SGD": (89.5, 70, 70), "EWC": (89.9, 90, 90)}, [False, True]),  # nothing that could be kept
    ],
)
@pytest.mark.parametrize("where", [slice(None), slice(1, 2)], ids=["in both repeats", "in one of them"])
def test_the_claims_are_on_task_a_since_it_was_learned_and_on_the_mean_at_the_end(changes, held, where):
    """Curves (repeats, points, tasks) with two points for each task: A is learned at the third."""
    curves = {method: np.full((2, 7, 3), 20.0) for method in METHODS}
    for method, curve in curves.items():
        curve[:, 2, 0], curve[:, -1] = 90, ENDS[method]
        curve[where, -1] = changes.get(method, ENDS[method])
    assert [claim.held for claim in ewc_permuted_3._claims(curves, "")] == held


def test_the_figures_come_from_the_record_alone(folder):
    figures = EXPERIMENT.draw(read_result(folder)[1])
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figures["accuracy"].axes] == [
        "Task A", "Task B", "Task C"
    ]  # fmt: skip
    assert len(figures["accuracy"].axes[0].lines) == 4 + 2  # a curve per method, a mark per boundary
    assert (folder / "figures/lambda.png").stat().st_size > 0


def test_an_interrupted_run_ends_bit_for_bit_like_another(folder, tmp_path, monkeypatch):
    config = configure(EXPERIMENT, "quick", SMALL)
    monkeypatch.setattr(run, "SAVE_SECONDS", 0.0)
    left = [400]  # of 2 * 7 courses of 40 steps and 2 * 4 first tasks of 20: in the second repeat
    log = Run._log

    def fail(self, line):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        log(self, line)

    monkeypatch.setattr(Run, "_log", fail)
    with pytest.raises(MemoryError), Run(tmp_path, EXPERIMENT.name, config_hash(config)) as first:
        EXPERIMENT.train(config, first)
    monkeypatch.undo()
    with Run(tmp_path, EXPERIMENT.name, config_hash(config)) as second:
        outcome = EXPERIMENT.train(config, second)
    expected = read_result(folder)[1]
    assert outcome.rows == expected.rows
    assert outcome.claims == expected.claims
    for method, curve in expected.series["curves"].items():
        np.testing.assert_array_equal(outcome.series["curves"][method]["mean"], curve["mean"])
    assert (tmp_path / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_a_lambda_that_diverges_is_warned_of_and_not_chosen(tmp_path):
    config = configure(EXPERIMENT, "quick", SMALL | {"ewc_lams": "1,1e5", "repeats": "1"})
    with (
        pytest.warns(RuntimeWarning, match="gradient descent diverges"),
        Run(tmp_path, EXPERIMENT.name, config_hash(config)) as only,
    ):
        outcome = EXPERIMENT.train(config, only)
    assert outcome.series["chosen"]["EWC"]["lambda"] == 1.0
    assert outcome.series["grid"][-1]["validation"] < 20
    assert outcome.series["grid"][-1]["lr_lambda_max_fisher"] > 2
    assert all(row.ci95 is None for row in outcome.rows)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", "cifar", "images = 'cifar', expected one of mnist, subset"),
        ("fisher", "exakt", "fisher = 'exakt', expected one of exact, sampled, empirical, batched"),
        ("epochs", "0", "epochs = 0, expected 1 or more"),
        ("ewc_lams", "", r"ewc_lams = \(\), expected at least one value, none negative"),
        ("l2_lams", "-1", r"l2_lams = \(-1.0,\), expected at least one value, none negative"),
    ],
)
def test_wrong_settings_are_named(key, value, message):
    with pytest.raises(UserError, match=message):
        configure(EXPERIMENT, "paper", {key: value})


def test_a_split_that_leaves_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size = 50 is more than the 20 training images"):
        execute(EXPERIMENT, configure(EXPERIMENT, "quick", SMALL | {"validation": "9980"}), tmp_path)


def test_the_defaults_are_the_papers_protocol():
    config = Config()
    assert (config.hidden, config.epochs, config.images) == ((400, 400), 20, "mnist")
    assert config.rates == config.penalty_rates  # the same choice for all methods
    assert 1e-3 in config.rates
    assert configure(EXPERIMENT, "paper", {}) == config
