"""l2l.runner: one loop for every optimizer, problems that do not see each other, and the choice of learning rates."""

import numpy as np
import pytest
from l2l import settings

import tinymeta as tm
from tinymeta import l2l, ops, optim, trees

STEPS = 12
OPTIMIZERS = {name: make(0.01) for name, make in l2l.BASELINES.items()}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_sgd_is_the_loop_written_by_hand(rng):
    w, y, theta = settings.quadratic_terms(rng, problems=3)
    curve = l2l.optimize(optim.sgd(0.01), l2l.quadratic_problem(w, y, theta), STEPS)
    assert curve.shape == (STEPS + 1, 3)
    for losses in curve:
        expected = [np.sum((w_b @ x - y_b) ** 2) for w_b, y_b, x in zip(w, y, theta, strict=True)]
        np.testing.assert_allclose(losses, expected, rtol=1e-11)
        theta = theta - 0.01 * settings.quadratic_gradient(w, y, theta)


@pytest.mark.parametrize("name", [*OPTIMIZERS, "LSTM"])
def test_problems_at_once_are_problems_one_at_a_time(rng, name):
    terms = settings.quadratic_terms(rng, problems=3)
    optimizer = settings.optimizer(rng) if name == "LSTM" else OPTIMIZERS[name]
    together = l2l.optimize(optimizer, l2l.quadratic_problem(*terms), STEPS)
    for b in range(3):
        one = l2l.optimize(optimizer, l2l.quadratic_problem(*(x[b : b + 1] for x in terms)), STEPS)
        np.testing.assert_allclose(together[:, b], one[:, 0], rtol=1e-8)


def test_losses_and_gradients_are_each_problems_own(rng):
    w, y, theta = settings.quadratic_terms(rng, problems=3)
    losses, gradients = l2l.runner.losses_and_grads(l2l.quadratic_problem(w, y, theta), theta, 0)
    assert losses.shape == (3,)
    np.testing.assert_allclose(gradients, settings.quadratic_gradient(w, y, theta), rtol=1e-12)


def test_a_problem_given_is_not_changed(rng):
    problem = settings.quadratics(rng)
    before = problem.theta.copy()
    first, second = (l2l.optimize(optim.adam(0.1), problem, STEPS) for _ in range(2))
    np.testing.assert_array_equal(problem.theta, before)
    np.testing.assert_array_equal(first, second)


def test_no_steps_give_the_loss_at_the_start(rng):
    problem = settings.quadratics(rng)
    np.testing.assert_array_equal(l2l.optimize(optim.sgd(0.1), problem, 0), problem.loss(problem.theta, 0)[None])


def test_each_loss_is_that_of_its_own_mini_batch():
    problem = l2l.Problem(np.zeros((1, 1)), lambda theta, t: ops.sum(theta, axis=-1) + t)
    np.testing.assert_allclose(l2l.optimize(optim.sgd(0.5), problem, 3)[:, 0], [0, 0.5, 1, 1.5])


# ---- learning rates ----


def test_the_baselines_are_the_papers_four_at_rates_from_large_to_small():
    assert list(l2l.BASELINES) == ["SGD", "NAG", "RMSprop", "ADAM"]
    assert list(l2l.RATES) == sorted(l2l.RATES, reverse=True)
    assert all(make(0.1).init(np.ones(1)).step == 0 for make in l2l.BASELINES.values())


def test_each_baseline_is_the_optimizer_of_its_name(rng):
    grads, theta = rng.normal(size=(3, 4)), np.zeros(4)
    for name, make in {"SGD": optim.sgd, "NAG": optim.nag, "RMSprop": optim.rmsprop, "ADAM": optim.adam}.items():
        ours, theirs = l2l.BASELINES[name](0.1), make(0.1)
        state, their_state = ours.init(theta), theirs.init(theta)
        for g in grads:
            found, state = ours.update(g, state, theta)
            expected, their_state = theirs.update(g, their_state, theta)
            np.testing.assert_array_equal(found, expected)


def test_the_best_rate_has_the_lowest_final_loss():
    assert l2l.best_rate({1.0: np.inf, 0.1: 0.5, 0.01: 0.7}) == 0.1


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_no_finite_loss_at_any_rate_is_refused(bad):
    with pytest.raises(
        ValueError, match=r"no learning rate among \[0\.1, 1\.0\] gives a finite loss; add smaller ones"
    ):
        l2l.best_rate({1.0: bad, 0.1: bad})


@pytest.mark.parametrize("order", [(1.0, 0.1), (0.1, 1.0)])
def test_a_loss_that_is_not_a_number_is_never_the_best(order):
    results = {1.0: np.nan, 0.1: 0.5}
    assert l2l.best_rate({rate: results[rate] for rate in order}) == 0.1


def test_a_run_that_overflows_has_an_infinite_final_loss(rng):
    problem = settings.quadratics(rng)
    assert l2l.final_loss(optim.sgd(1e6), problem, 200) == np.inf
    results = {lr: l2l.final_loss(optim.sgd(lr), problem, 50) for lr in l2l.RATES}
    best = l2l.best_rate(results)
    assert results[3.0] > results[best]
    assert results[best] == np.mean(l2l.optimize(optim.sgd(best), problem, 50)[-1])


def test_a_final_loss_may_be_the_mean_of_the_last_few(rng):
    problem = settings.quadratics(rng)
    curve = l2l.optimize(optim.sgd(0.01), problem, STEPS)
    for last in (1, 3, STEPS + 1):
        assert l2l.final_loss(optim.sgd(0.01), problem, STEPS, last) == pytest.approx(
            np.mean(curve[STEPS + 1 - last :])
        )


@pytest.mark.parametrize("last", [0, -1, STEPS + 2])
def test_more_losses_than_there_are_or_none_are_refused(rng, last):
    with pytest.raises(ValueError, match=rf"final_loss: last is {last}, expected 1 to {STEPS + 1}"):
        l2l.final_loss(optim.sgd(0.01), settings.quadratics(rng), STEPS, last)


@pytest.mark.parametrize(("axis", "found"), [(None, r"float64\[\]"), (0, r"float64\[3\]")])
def test_a_loss_that_is_not_one_value_for_each_problem_is_refused(axis, found):
    problem = l2l.Problem({"w": np.ones((2, 3))}, lambda theta, t: ops.sum(theta["w"], axis=axis))
    with pytest.raises(
        ValueError, match=rf"loss is {found}, its parameter\['w'\] float64\[2,3\]: expected losses of shape"
    ):
        l2l.optimize(optim.sgd(0.01), problem, 2)


def test_the_loss_is_infinite_from_where_an_optimizer_refuses_the_gradient(rng):
    """As LSTMOptimizer does with gradients that are not finite."""

    def update(grads, state, params):
        if state == 2:
            raise FloatingPointError("inf")
        return -0.01 * grads, state + 1

    problem, refusing = settings.quadratics(rng), optim.Optimizer(lambda params: 0, update)
    curve = l2l.optimize(refusing, problem, STEPS)
    np.testing.assert_array_equal(curve[:3], l2l.optimize(optim.sgd(0.01), problem, STEPS)[:3])
    assert (curve[3:] == np.inf).all()
    assert curve.shape == (STEPS + 1, 2)
    assert l2l.final_loss(refusing, problem, STEPS) == np.inf


# ---- the MNIST problem ----


def data(rng, examples=40, inputs=6, classes=3, dtype=np.float64):
    return rng.normal(size=(examples, inputs)).astype(dtype), np.arange(examples) % classes


def test_an_mlp_problem_has_the_stated_parameters(rng):
    x, y = data(rng, dtype=np.float32)
    batches = rng.integers(0, len(x), (2, 5, 8))
    problem = l2l.mlp_problem(x, y, batches, rng, hidden=(7, 4))
    assert [(layer.w.shape, layer.b.shape) for layer in problem.theta] == [
        ((2, 6, 7), (2, 7)),
        ((2, 7, 4), (2, 4)),
        ((2, 4, 3), (2, 3)),
    ]
    assert {leaf.dtype for leaf in trees.leaves(problem.theta)} == {np.dtype(np.float32)}
    losses = problem.loss(problem.theta, 0)
    assert (losses.shape, losses.dtype) == ((2,), np.float32)
    np.testing.assert_allclose(losses, np.log(3), rtol=0.05)


def test_mlp_parameters_have_the_stated_spread(rng):
    x, y = data(rng, inputs=50)
    theta = l2l.mlp_problem(x, y, rng.integers(0, 40, (20, 1, 4)), rng, hidden=(30,), sigma=0.2).theta
    assert np.std(theta[0].w) == pytest.approx(0.2, rel=0.02)
    assert np.std(theta[0].b) == pytest.approx(0.2, rel=0.1)
    assert not np.array_equal(theta[0].w[0], theta[0].w[1])


@pytest.mark.parametrize(
    ("activation", "function"), [(ops.sigmoid, lambda z: 1 / (1 + np.exp(-z))), (ops.tanh, np.tanh)]
)
def test_mlp_losses_are_mean_cross_entropies_of_their_mini_batches(rng, activation, function):
    x, y = data(rng)
    batches = rng.integers(0, len(x), (3, 4, 8))
    problem = l2l.mlp_problem(x, y, batches, rng, hidden=(5,), activation=activation, sigma=0.7)
    (w1, b1), (w2, b2) = problem.theta
    for t in (0, 3, 4, 9):  # batches repeat when they run out
        losses = problem.loss(problem.theta, t)
        for b in range(3):
            chosen = batches[b, t % 4]
            logits = function(x[chosen] @ w1[b] + b1[b]) @ w2[b] + b2[b]
            log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
            assert losses[b] == pytest.approx(-np.mean(log_p[np.arange(8), y[chosen]]), rel=1e-12)


@pytest.mark.parametrize("name", ["ADAM", "LSTM"])
def test_mlp_problems_at_once_are_mlp_problems_one_at_a_time(rng, name):
    x, y = data(rng)
    batches = rng.integers(0, len(x), (3, 4, 8))
    problem = l2l.mlp_problem(x, y, batches, rng, hidden=(5,), sigma=0.5)
    optimizer = settings.optimizer(rng) if name == "LSTM" else OPTIMIZERS[name]
    together = l2l.optimize(optimizer, problem, 6)
    for b in range(3):
        start = trees.map(lambda leaf, b=b: leaf[b : b + 1], problem.theta)
        one = l2l.mlp_problem(x, y, batches[b : b + 1], rng, hidden=(5,))._replace(theta=start)
        np.testing.assert_allclose(together[:, b], l2l.optimize(optimizer, one, 6)[:, 0], rtol=1e-8)


def test_the_gradient_of_an_mlp_problem_is_the_finite_difference(rng):
    x, y = data(rng)
    problem = l2l.mlp_problem(x, y, rng.integers(0, len(x), (2, 1, 5)), rng, hidden=(3,), sigma=0.7)
    tm.check.gradients(lambda theta: problem.loss(theta, 0), problem.theta, order=2)


def test_a_late_carry_is_where_the_guide_is_and_what_was_read_on_the_way():
    rng = np.random.default_rng(0)
    drift, theta = (rng.normal(size=shape).astype(np.float32) for shape in ((8, 2, 3), (2, 3)))
    problem = l2l.Problem(theta, lambda theta, t: ops.sum(ops.square(theta - drift[t]), axis=-1))
    learned = l2l.LSTMOptimizer.create(rng, hidden=(2,))
    carry = l2l.late_carry(learned, problem, optim.sgd(0.1), 3, read=2)
    state = learned.init(theta)
    for t in range(3):
        gradient = 2 * (theta - drift[t])
        state = learned.update(gradient, state, theta)[1] if t >= 1 else state
        theta = theta - 0.1 * gradient
    np.testing.assert_allclose(carry.theta, theta, rtol=1e-6)
    for found, expected in zip(trees.leaves(carry.state), trees.leaves(state), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert carry.t == 3
    unmoved = l2l.late_carry(learned, problem, optim.sgd(0.1), 0, read=2)
    assert unmoved.theta is problem.theta
    assert unmoved.t == 0


def test_every_parameter_has_an_axis_over_problems():
    theta = {"a": np.ones((2, 3)), "b": np.ones((1, 3))}
    problem = l2l.Problem(theta, lambda theta, t: ops.sum(theta["a"] * theta["b"], axis=1))
    with pytest.raises(ValueError, match=r"its parameter\['b'\] float64\[1,3\]: expected losses of shape"):
        l2l.optimize(optim.sgd(0.01), problem, 2)


def test_an_mlp_problem_of_integer_images_is_refused(rng):
    x, y = rng.integers(0, 255, (30, 4), dtype=np.uint8), rng.integers(0, 3, 30)
    with pytest.raises(TypeError, match=r"mlp_problem: x is uint8\[30,4\], expected floats"):
        l2l.mlp_problem(x, y, rng.integers(0, 30, (2, 3, 8)), rng)
    problem = l2l.mlp_problem(x.astype(np.float32), y, rng.integers(0, 30, (2, 3, 8)), rng, sigma=np.float64(0.01))
    assert {w.dtype for w in trees.leaves(problem.theta)} == {np.dtype(np.float32)}
