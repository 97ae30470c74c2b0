"""tinymeta.kernels.penalty: values, steps and folding against loops, differences and the laws of a quadratic."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinymeta.kernels.penalty import adam_step, fold, penalty, penalty_grad, proximal_step, sgd_step

quick = settings(max_examples=40, deadline=None)
shapes = st.sampled_from([(), (0,), (1,), (7,), (3, 4), (2, 0, 3), (2, 3, 2)])
seeds = st.integers(0, 2**32 - 1)
lams = st.sampled_from([0.0, 1e-3, 1.0, 40.0])


def point(rng, normal, shape, dtype=np.float64):
    """(theta, grad, anchor, fisher), a quarter of the Fisher's entries masked to 0."""
    theta, grad, anchor = (normal(rng, *shape, dtype=dtype) for _ in range(3))
    fisher = np.asarray(rng.exponential(size=shape) * (rng.random(size=shape) > 0.25), dtype)
    return theta, grad, anchor, fisher


@quick
@given(seed=seeds, shape=shapes, lam=lams)
def test_the_penalty_is_its_sum_and_quadratic_in_the_distance(normal, seed, shape, lam):
    theta, _, anchor, fisher = point(np.random.default_rng(seed), normal, shape)
    entries = zip(theta.ravel(), anchor.ravel(), fisher.ravel(), strict=True)
    expected = lam / 2 * sum(f * (t - a) ** 2 for t, a, f in entries)
    assert penalty(theta, anchor, fisher, lam) == pytest.approx(expected, rel=1e-12)
    assert penalty(anchor, anchor, fisher, lam) == 0
    assert np.all(penalty_grad(anchor, anchor, fisher, lam) == 0)
    doubled = np.asarray(anchor + 2 * (theta - anchor))
    assert penalty(doubled, anchor, fisher, lam) == pytest.approx(4 * expected, rel=1e-9)


def test_the_penalty_is_positive_off_the_anchor_and_half_lambda_delta_f_delta():
    anchor, fisher = np.array([1.0, -2.0]), np.array([3.0, 0.5])
    assert penalty(anchor + np.array([2.0, 4.0]), anchor, fisher, 10.0) == 10 / 2 * (3 * 4 + 0.5 * 16)
    np.testing.assert_array_equal(penalty_grad(anchor + 1, anchor, fisher, 10.0), [30.0, 5.0])


@quick
@given(seed=seeds, shape=shapes, lam=lams)
def test_the_gradient_is_the_derivative(normal, check_vjp, seed, shape, lam):
    rng = np.random.default_rng(seed)
    theta, _, anchor, fisher = point(rng, normal, shape)
    check_vjp(
        lambda x: (penalty(x, anchor, fisher, lam),),
        lambda u, x: (u * penalty_grad(x, anchor, fisher, lam),),
        [theta],
        rng,
    )


@quick
@given(seed=seeds, shape=shapes, count=st.integers(1, 5), lam=lams)
def test_folded_tasks_differ_from_separate_ones_by_the_constant(normal, seed, shape, count, lam):
    rng = np.random.default_rng(seed)
    tasks = [point(rng, normal, shape)[2:] for _ in range(count)]
    A, mu, constant = fold(tasks)
    for _ in range(3):
        theta = normal(rng, *shape)
        separate = sum(penalty(theta, anchor, fisher, lam) for anchor, fisher in tasks)
        assert penalty(theta, mu, A, lam) + lam * constant == pytest.approx(separate, rel=1e-10, abs=1e-12)
        total = sum(penalty_grad(theta, anchor, fisher, lam) for anchor, fisher in tasks)
        np.testing.assert_allclose(penalty_grad(theta, mu, A, lam), total, rtol=1e-10, atol=1e-12)


def test_fold_takes_the_mean_of_the_anchors_where_no_task_has_fisher():
    first = np.float32([1, 1, 1e-30]), np.float32([0, 2, 1e-30])
    second = np.float32([3, 5, 3e-30]), np.float32([0, 6, 1e-30])
    A, mu, constant = fold([first, second])
    np.testing.assert_array_equal(A, np.float32([0, 8, 2e-30]))
    np.testing.assert_allclose(mu, np.float32([2, 4, 2e-30]), rtol=1e-6)
    assert constant == pytest.approx((2 * 9 + 6 * 1) / 2)
    assert A.dtype == mu.dtype == constant.dtype == np.float32


def test_fold_of_equal_anchors_adds_fishers_and_of_one_task_is_that_task(normal):
    _, _, anchor, fisher = point(np.random.default_rng(3), normal, (5,))
    A, mu, constant = fold([(anchor, fisher)] * 2)
    np.testing.assert_array_equal(A, 2 * fisher)
    np.testing.assert_array_equal(mu, anchor)
    assert constant == 0
    np.testing.assert_array_equal(fold([(anchor, fisher)])[1], anchor)


@quick
@given(seed=seeds, shape=shapes)
def test_without_lambda_the_steps_are_plain_sgd_bit_for_bit(normal, seed, shape):
    theta, grad, anchor, fisher = point(np.random.default_rng(seed), normal, shape)
    plain = theta - 0.1 * grad
    np.testing.assert_array_equal(sgd_step(theta, grad, anchor, fisher, 0.0, 0.1), plain)
    np.testing.assert_array_equal(proximal_step(theta, grad, anchor, fisher, 0.0, 0.1), plain)
    masked = np.zeros_like(theta)
    np.testing.assert_array_equal(sgd_step(theta, grad, anchor, masked, 1e9, 0.1), plain)


@quick
@given(seed=seeds, lam=lams, lr=st.sampled_from([1e-3, 0.5]))
def test_the_proximal_step_solves_its_own_implicit_equation(normal, seed, lam, lr):
    theta, grad, anchor, fisher = point(np.random.default_rng(seed), normal, (6,))
    new = proximal_step(theta, grad, anchor, fisher, lam, lr)
    implicit = theta - lr * (grad + penalty_grad(new, anchor, fisher, lam))
    np.testing.assert_allclose(new, implicit, rtol=1e-10, atol=1e-11)


def test_the_proximal_step_tends_to_the_anchor(normal):
    theta, grad, anchor, _ = point(np.random.default_rng(4), normal, (6,))
    points = [proximal_step(theta, grad, anchor, np.ones(6), lam, 0.1) for lam in (1e2, 1e6, 1e12)]
    distances = [np.abs(new - anchor).max() for new in points]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-10


@quick
@given(product=st.floats(0, 4))
def test_explicit_descent_diverges_iff_lr_lam_f_exceeds_two_and_the_proximal_one_never(product):
    assume(abs(product - 2) > 0.05)
    zero, fisher = np.zeros(1), np.array([product])
    explicit = implicit = np.ones(1)
    for _ in range(400):
        explicit = sgd_step(explicit, zero, zero, fisher, 10.0, 0.1)
        implicit = proximal_step(implicit, zero, zero, fisher, 10.0, 0.1)
    assert (abs(explicit[0]) > 1) == (product > 2)
    assert abs(implicit[0]) <= 1


@quick
@given(seed=seeds, lam=lams)
def test_adam_follows_algorithm_1_entry_by_entry(normal, seed, lam):
    rng = np.random.default_rng(seed)
    theta, grad, anchor, fisher = point(rng, normal, (4,))
    m, v, loop = np.zeros(4), np.zeros(4), [[x, 0.0, 0.0] for x in theta]
    for t in range(1, 5):
        for i, (x, mi, vi) in enumerate(loop):
            g = grad[i] + lam * fisher[i] * (x - anchor[i])
            mi, vi = 0.8 * mi + 0.2 * g, 0.9 * vi + 0.1 * g * g
            loop[i] = [x - 0.01 * (mi / (1 - 0.8**t)) / ((vi / (1 - 0.9**t)) ** 0.5 + 1e-8), mi, vi]
        theta, m, v = adam_step(theta, grad, anchor, fisher, lam, 0.01, m, v, t, beta1=0.8, beta2=0.9)
    np.testing.assert_allclose(np.stack([theta, m, v], axis=1), loop, rtol=1e-11)


def test_float32_stays_float32_near_float64_with_free_strides(normal):
    theta, grad, anchor, fisher = (
        array[::2, ::-1] for array in point(np.random.default_rng(5), normal, (6, 4), np.float32)
    )
    wide = [array.astype(np.float64) for array in (theta, grad, anchor, fisher)]
    zero, wide_zero = np.zeros_like(theta), np.zeros_like(wide[0])
    for narrow, exact in [
        (penalty(theta, anchor, fisher, 3.0), penalty(wide[0], *wide[2:], 3.0)),
        (sgd_step(theta, grad, anchor, fisher, 3.0, 0.1), sgd_step(*wide, 3.0, 0.1)),
        (proximal_step(theta, grad, anchor, fisher, 3.0, 0.1), proximal_step(*wide, 3.0, 0.1)),
        (
            adam_step(theta, grad, anchor, fisher, 3.0, 0.1, zero, zero, 1)[0],
            adam_step(*wide, 3.0, 0.1, wide_zero, wide_zero, 1)[0],
        ),
    ]:
        assert narrow.dtype == np.float32
        np.testing.assert_allclose(narrow, exact, rtol=1e-5, atol=1e-6)


def test_extreme_values_behave_as_documented():
    anchor, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    theta = np.array([1e30, -1e-30, 1.0], np.float32)
    fisher = np.array([1e-30, 1e30, 0.0], np.float32)
    assert penalty(theta, anchor, fisher, 2.0) == pytest.approx(1e30)
    np.testing.assert_allclose(penalty_grad(theta, anchor, fisher, 1.0), [1, -1, 0])
    poisoned = np.array([np.nan, 2.0, np.inf], np.float32)
    np.testing.assert_array_equal(penalty_grad(poisoned, anchor, one, 1.0), poisoned)
    np.testing.assert_array_equal(proximal_step(poisoned, anchor, anchor, one, 1.0, 1.0), poisoned / 2)
    assert np.isnan(penalty(poisoned, anchor, one, 1.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: penalty(a, b, a, 1.0), ValueError, r"anchor has shape \(3,\), expected \(2,\), that of theta"),
        (lambda a, b: penalty(a, a, a.astype(int), 1.0), TypeError, "fisher is int64"),
        (lambda a, b: sgd_step(a, a.astype(np.float32), a, a, 1.0, 1.0), TypeError, "grad is float32 but theta"),
        (lambda a, b: proximal_step(a, b, a, a, 1.0, 1.0), ValueError, "grad has shape"),
        (lambda a, b: adam_step(a, a, a, a, 1.0, 1.0, b, a, 1), ValueError, "m has shape"),
        (lambda a, b: adam_step(a, a, a, a, 1.0, 1.0, a, a, 0), ValueError, "t is 0, expected the step's number"),
        (lambda a, b: fold([]), ValueError, "tasks is empty"),
        (lambda a, b: fold([(a, a), (a, b)]), ValueError, r"fisher_1 has shape \(3,\)"),
    ],
)
def test_wrong_arguments_give_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones(2), np.ones(3))
