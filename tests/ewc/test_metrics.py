"""ACC, BWT, FWT and both definitions of forgetting against worked matrices and loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinymeta import ewc

matrices = st.integers(2, 6).flatmap(lambda T: hnp.arrays(float, (T, T), elements=st.floats(0, 1)))


def test_a_worked_example():
    R = [[0.9, 0.1, 0.2], [0.7, 0.8, 0.3], [0.75, 0.6, 0.9]]
    assert ewc.average_accuracy(R) == pytest.approx((0.75 + 0.6 + 0.9) / 3)
    assert ewc.backward_transfer(R) == pytest.approx(((0.75 - 0.9) + (0.6 - 0.8)) / 2)
    assert ewc.forgetting(R, "learned") == pytest.approx(0.175)
    assert ewc.forward_transfer(R, [0.1, 0.1, 0.1]) == pytest.approx(((0.1 - 0.1) + (0.3 - 0.1)) / 2)
    fell_and_rose = [[0.5, 0, 0], [0.9, 0.8, 0], [0.6, 0.7, 0.9]]  # task 0 was best after task 1
    assert ewc.forgetting(fell_and_rose) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.7)) / 2)
    assert ewc.forgetting(fell_and_rose, "learned") == pytest.approx(((0.5 - 0.6) + (0.8 - 0.7)) / 2)


@given(R=matrices, untrained=st.floats(0, 1))
def test_they_are_the_loops_of_their_definitions(R, untrained):
    T = len(R)
    bwt = sum(R[T - 1, j] - R[j, j] for j in range(T - 1)) / (T - 1)
    fwt = sum(R[j - 1, j] - untrained for j in range(1, T)) / (T - 1)
    best = sum(max(R[i, j] for i in range(T - 1)) - R[T - 1, j] for j in range(T - 1)) / (T - 1)
    assert ewc.backward_transfer(R) == pytest.approx(bwt)
    assert ewc.forward_transfer(R, np.full(T, untrained)) == pytest.approx(fwt)
    assert ewc.forgetting(R) == pytest.approx(best)
    assert ewc.forgetting(R) >= ewc.forgetting(R, "learned") - 1e-12


def test_forward_transfer_takes_off_what_the_untrained_network_knows_of_the_same_task():
    R = [[0.9, 0.4, 0.1], [0.7, 0.8, 0.6], [0.7, 0.7, 0.9]]
    assert ewc.forward_transfer(R, [0.9, 0.1, 0.2]) == pytest.approx(((0.4 - 0.1) + (0.6 - 0.2)) / 2)


def test_rows_may_end_at_the_last_task_seen():
    rows = [[0.9], [0.7, 0.8], [0.6, 0.7, 0.9]]
    R = ewc.accuracy_matrix(rows)
    assert np.isnan(R[np.triu_indices(3, 1)]).all()
    assert ewc.average_accuracy(rows) == pytest.approx(2.2 / 3)
    assert ewc.forgetting(rows) == pytest.approx(0.2)
    for unknown in (np.nan, np.inf, -np.inf):
        assert ewc.forgetting([[0.9, unknown, unknown], [0.7, 0.8, unknown], rows[2]]) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"forward_transfer: needs .* 2 accuracies missing"):
        ewc.forward_transfer(rows, [0.1] * 3)


def test_nothing_given_is_changed():
    R = np.random.default_rng(0).random((4, 4))
    before = R.copy()
    for metric in (ewc.average_accuracy, ewc.backward_transfer, ewc.forgetting):
        metric(R)
    np.testing.assert_array_equal(R, before)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "there are no rows"),
        ([[0.9], [0.8]], r"row 1 has shape \[1\], expected 2 to 2 accuracies"),
        ([[0.9, 0.1, 0.1], [0.8, 0.9]], r"row 0 has shape \[3\], expected 1 to 2"),
        ([[0.9, 0.1], [np.nan, 0.9]], r"R\[1, 0\] is NaN, expected the accuracy on every task learned so far"),
    ],
)
def test_what_is_no_accuracy_matrix_is_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        ewc.average_accuracy(rows)


def test_one_task_has_no_transfer_and_an_unknown_definition_no_meaning():
    with pytest.raises(ValueError, match="R has one, expected at least two"):
        ewc.forgetting([[0.9]])
    with pytest.raises(ValueError, match="since is 'ever', expected 'best' or 'learned'"):
        ewc.forgetting(np.eye(2), "ever")
