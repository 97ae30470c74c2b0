"""What the few-shot experiments say of given accuracies: rows, curves and claims."""

import numpy as np
import pytest

from tinymeta import lab
from tinymeta.experiments import few_shot, few_shot_report


def found(together, alone=None, judged=3):
    trained = few_shot.Trained(None, [10, 20, 30], [40.0, 60.0, 50.0])
    return few_shot_report.Tested(trained, together, together if alone is None else alone, [1, 3], judged)


def test_rows_and_curves_are_of_the_accuracies_that_they_name():
    rng = np.random.default_rng(0)
    together, alone = rng.uniform(0, 100, (9, 4)), rng.uniform(0, 100, (5, 4))
    one, published = found(together, alone), few_shot_report.Published(98.7, 0.4, "Table 1", 3)
    rows = {row.quantity: row for row in few_shot_report._rows("MAML", one, published)}
    columns = {
        "before adaptation": together[:, 0],
        "transductive, after 1 step": together[:, 1],
        "transductive, after 3 steps": together[:, 3],
        "inductive, after 1 step, 5 tasks": alone[:, 1],
        "inductive, after 3 steps, 5 tasks": alone[:, 3],
    }
    for what, column in columns.items():
        row = rows.pop(f"MAML, {what}")
        assert (row.ours, row.ci95) == pytest.approx(lab.mean_ci95(column))
        assert row.published == (98.7 if what == "transductive, after 3 steps" else None)
    best, after, of = (row.ours for row in rows.values())  # accuracy on validation tasks, and iterations
    assert (best, after, of) == (60, 20, 30)
    for kind, curve in few_shot_report._series({"MAML": one})["test"]["MAML"].items():
        np.testing.assert_allclose(curve, lab.mean_ci95({"transductive": together, "inductive": alone}[kind]))


@pytest.mark.parametrize(("gain", "held"), [(2.0, True), (0.05, False), (-2.0, False)])
def test_second_order_is_compared_on_the_same_tasks_after_the_steps_that_judge(gain, held):
    """A difference of 0.5 either way beside the gain, in 50 tasks: ± 0.14."""
    first = np.random.default_rng(0).uniform(20, 80, (50, 4))
    second = first + np.tile([[-0.5], [0.5]], (25, 1)) + np.array([-gain, -gain, gain, -gain])
    both = {"MAML": found(second, judged=2), "first-order MAML": found(first, judged=2)}
    (claim,) = few_shot_report._claims(both, {})
    assert claim.held is held


@pytest.mark.parametrize(("mean", "spread", "held"), [(98.2, 1.0, True), (98.2, 0.1, False), (99.9, 0.1, True)])
def test_a_published_accuracy_is_reached_where_the_intervals_meet_or_ours_is_above(mean, spread, held):
    """Of 100 tasks: 98.2 ± 0.20 meets 98.7 ± 0.4, and 98.2 ± 0.02 does not."""
    together = np.full((100, 4), 10.0)
    together[:, 3] = mean + spread * np.tile([-1, 1], 50)
    published = {"MAML": few_shot_report.Published(98.7, 0.4, "Table 1", 3)}
    (claim,) = few_shot_report._claims({"MAML": found(together)}, published)
    assert claim.held is held
