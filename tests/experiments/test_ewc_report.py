"""What the EWC experiments report: choices by validation, ends of grids, means with errors, and what is read off a curve."""

import numpy as np
import pytest

from tinymeta.experiments.ewc_memory import Learner
from tinymeta.experiments.ewc_report import (
    Found,
    at_the_ends,
    choose,
    forgotten,
    grid_series,
    mean_se,
    search,
    so_far,
    with_se,
)

LR = 0.05


def test_settings_are_chosen_in_the_first_repeat_and_only_the_best_are_run_in_the_others():
    ran = []

    def learn(learner, repeat):
        ran.append((learner.lam, repeat))
        right = np.full(3, 50 + learner.lam if repeat == 0 else 100 - learner.lam)
        return Found(np.zeros((2, 3)), right, 0.0)

    learners = [Learner("EWC", LR, lam) for lam in (1.0, 3.0, 2.0)]
    trials = search(learners, 3, learn)
    assert ran == [(1.0, 0), (3.0, 0), (2.0, 0), (3.0, 1), (3.0, 2)]
    assert choose(trials) == {"EWC": learners[1]}
    assert [len(found) for found in trials.values()] == [1, 3, 1]


def test_what_later_repeats_find_does_not_change_the_choice():
    ran = []

    def learn(learner, repeat):
        ran.append((learner.lam, repeat))
        right = 50 + learner.lam if repeat == 0 else 0.0
        return Found(np.full((2, 3), 70.0 - repeat), np.full(3, right), 0.1)

    trials = search([Learner("EWC", LR, lam) for lam in (1.0, 3.0, 2.0)], 3, learn)
    assert ran[3:] == [(3.0, 1), (3.0, 2)]
    assert choose(trials)["EWC"].lam == 3.0
    shown = [(point["lambda"], point["validation"], point["test"]) for point in grid_series(trials)]
    assert shown == [(1.0, 51, 70), (3.0, 53, 70), (2.0, 52, 70)]  # all from the same repeat


def test_a_best_setting_at_an_end_of_what_was_tried_is_named():
    def trials(method, *tried):
        return {
            Learner(method, rate, lam): [Found(np.zeros((2, 3)), np.full(3, right), 0.0)] for rate, lam, right in tried
        }

    inside = trials("SGD", (0.1, 0.0, 50), (0.2, 0.0, 60), (0.3, 0.0, 55)) | trials("none", (0.1, 0.0, 20))
    assert at_the_ends(inside) == ""
    beyond = (
        inside
        | trials("L2", (0.1, 1.0, 70), (0.1, 2.0, 60))
        | trials("EWC", (0.1, 1.0, 70), (0.2, 3.0, 80), (0.2, 2.0, 9))
    )
    assert at_the_ends(beyond) == "; at an end of what was tried: L2 (λ 1), EWC (rate 0.2), EWC (λ 3)"


def test_means_have_standard_errors_and_one_seed_has_none():
    assert mean_se([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / np.sqrt(3)))
    assert with_se([1.0, 3.0]) == "2.00 ± 1.00"
    assert with_se([1.0]) == "1.00 (one seed)"
    assert np.isnan(mean_se([1.0])[1])


def test_what_is_read_off_an_accuracy_curve():
    curve = np.array(
        [[10, 10], [50, 10], [90, 20], [80, 40], [70, 80.0]]
    )  # before, then two points for each of two tasks
    found = [Found(curve, curve[-1], 0.0)]
    np.testing.assert_array_equal(so_far(found), [[90, 75]])
    np.testing.assert_array_equal(forgotten(found), [20])


def test_a_curve_has_a_mean_and_an_error_over_repeats_at_each_point():
    mean, error = mean_se([[1.0, 10.0, 5.0], [3.0, 50.0, 5.0]])
    np.testing.assert_allclose(mean, [2, 30, 5])
    np.testing.assert_allclose(error, [1, 20, 0])


def test_what_was_forgotten_counts_from_when_a_task_was_learned_and_not_from_its_best():
    curve = np.array([[10, 10, 10], [50, 10, 10], [90, 80, 10], [60, 70, 90.0]])
    np.testing.assert_array_equal(forgotten([Found(curve, curve[-1], 0.0)]), [((50 - 60) + (80 - 70)) / 2])
