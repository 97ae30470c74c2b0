"""l2l.unroll and l2l.meta_step: the meta-loss, its gradient, truncation, and training that converges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

import tinymeta as tm
from tinymeta import l2l, ops, optim, trees
from tinymeta.kernels.lstm import portable, tiled
from tinymeta.l2l import fused

LENGTH = 4
preprocessing = pytest.mark.parametrize("p", [None, 10.0])


def case(seed=0, p=10.0):
    rng = np.random.default_rng(seed)
    optimizer, problem = settings.optimizer(rng, (3,), p=p), settings.quadratics(rng)
    return optimizer, problem, settings.start(optimizer, problem)


def meta_loss(optimizer, problem, carry, length=LENGTH, second_derivatives=False):
    """As a function of the weights."""
    return lambda w: l2l.unroll(optimizer.with_weights(w), problem, carry, length, second_derivatives)[0]


def slope(f, weights, v, epsilon=1e-5):
    """The directional derivative by central differences."""
    ahead, behind = (f(trees.map(lambda x, d, s=s: x + s * epsilon * d, weights, v)) for s in (1, -1))
    return (ahead - behind) / (2 * epsilon)


def inner(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True))


def assert_same(a, b, rtol=0.0, atol=0.0):
    for x, y in zip(trees.leaves(a), trees.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


# ---- the value ----


@preprocessing
@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 4), first=st.integers(0, 3))
def test_the_meta_loss_is_the_sum_of_the_losses_after_each_step(p, seed, length, first):
    rng = np.random.default_rng(seed)
    optimizer, (w, y, theta) = settings.optimizer(rng, (3,), p=p), settings.quadratic_terms(rng)
    carry = l2l.Carry(theta, optimizer.init(theta), first)
    found, end = l2l.unroll(optimizer, l2l.quadratic_problem(w, y, theta), carry, length)
    state, expected = carry.state, 0.0
    for _ in range(length):
        updates, state = optimizer.update(settings.quadratic_gradient(w, y, theta), state)
        theta = theta + updates
        expected += sum(np.sum((w_b @ x - y_b) ** 2) for w_b, y_b, x in zip(w, y, theta, strict=True)) / len(w)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert_same((end.theta, end.state), (theta, state), rtol=1e-9, atol=1e-9)
    assert end.t == first + length


def test_step_numbers_choose_the_mini_batches():
    """The gradient of step t is taken on batch t, the loss after it on batch t + 1."""
    asked = []

    def loss(theta, t):
        asked.append(t)
        return ops.sum(ops.square(theta), axis=-1)

    optimizer = settings.linear_optimizer()
    l2l.unroll(
        optimizer, l2l.Problem(np.ones((1, 2)), loss), l2l.Carry(np.ones((1, 2)), optimizer.init(np.ones((1, 2))), 5), 2
    )
    assert asked == [5, 6, 6, 7]


# ---- its gradient ----


@preprocessing
def test_with_second_derivatives_the_meta_gradient_is_the_total_derivative(p):
    optimizer, problem, carry = case(p=p)
    tm.check.gradients(meta_loss(optimizer, problem, carry, second_derivatives=True), optimizer.weights, order=2)


def frozen(optimizer, problem, carry):
    """The meta-loss in which the gradients ∇_t keep the values that they have at these weights."""
    gradients, at = [], carry
    for _ in range(LENGTH):
        gradients.append(tm.grad(lambda x, t=at.t: ops.sum(problem.loss(x, t)))(at.theta))
        _, at = l2l.unroll(optimizer, problem, at, 1)

    def f(weights):
        theta, state, total = carry.theta, carry.state, 0.0
        for g in gradients:
            updates, state = optimizer.with_weights(weights).update(g, state)
            theta = theta + updates
            total += np.mean(problem.loss(theta, 0))
        return total

    return f


@preprocessing
@pytest.mark.parametrize("seed", range(3))
def test_by_default_the_meta_gradient_leaves_out_how_gradients_depend_on_the_weights(p, seed):
    optimizer, problem, carry = case(seed, p)
    f = frozen(optimizer, problem, carry)
    value, gradient = tm.value_and_grad(meta_loss(optimizer, problem, carry))(optimizer.weights)
    assert value == pytest.approx(f(optimizer.weights), rel=1e-12)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        v = trees.map(lambda x: rng.normal(size=x.shape), optimizer.weights)
        expected = slope(f, optimizer.weights, v)
        assert inner(gradient, v) == pytest.approx(expected, rel=1e-7, abs=1e-7)
        whole = slope(meta_loss(optimizer, problem, carry), optimizer.weights, v)
        assert abs(whole - expected) > 1e-5 * abs(expected)  # the dashed edges matter here


def test_every_step_sends_its_gradient_to_the_weights_of_earlier_steps():
    """θ_{t+1} = θ_t + g_t stays on the tape: with L = Σ θ_t and g = b, d L / d b is 1 + 2 + ... + T."""
    optimizer = settings.linear_optimizer()
    problem = l2l.Problem(np.zeros((1, 1)), lambda theta, t: ops.sum(theta, axis=-1))
    gradient = tm.grad(meta_loss(optimizer, problem, settings.start(optimizer, problem)))(optimizer.weights)
    assert gradient.b_out == sum(range(1, LENGTH + 1))


# ---- truncation ----


def test_the_second_unroll_knows_of_the_first_only_what_was_carried():
    optimizer, problem, start = case()
    _, carried = l2l.unroll(optimizer, problem, start, LENGTH)
    copied = l2l.Carry(np.array(carried.theta), trees.map(np.array, carried.state), carried.t)
    gradients = [tm.grad(meta_loss(optimizer, problem, at))(optimizer.weights) for at in (carried, copied)]
    assert_same(*gradients)


def test_meta_steps_are_truncated_at_the_boundary_and_one_graph_is_not():
    optimizer, problem, start = case()

    def two_unrolls_in_one(w):
        first, carried = l2l.unroll(optimizer.with_weights(w), problem, start, LENGTH)
        return first + l2l.unroll(optimizer.with_weights(w), problem, carried, LENGTH)[0]

    _, carried = l2l.unroll(optimizer, problem, start, LENGTH)
    whole = tm.grad(two_unrolls_in_one)(optimizer.weights)
    assert_same(
        whole, tm.grad(meta_loss(optimizer, problem, start, 2 * LENGTH))(optimizer.weights), rtol=1e-9, atol=1e-9
    )
    parts = [tm.grad(meta_loss(optimizer, problem, at))(optimizer.weights) for at in (start, carried)]
    truncated = trees.map(np.add, *parts)
    assert not np.allclose(whole.W_out, truncated.W_out, rtol=1e-2)


# ---- training ----


@pytest.mark.parametrize("limit", [1e-3, 1e9], ids=["clipped", "whole"])
def test_a_meta_step_is_one_update_of_the_meta_optimizer_on_the_clipped_gradient(limit):
    optimizer, problem, start = case()
    adam = optim.adam(0.01)
    state = adam.init(optimizer.weights)
    found, new_state, carry, mean = l2l.meta_step(optimizer, problem, None, adam, state, LENGTH, clip_norm=limit)

    value, gradient = tm.value_and_grad(meta_loss(optimizer, problem, start))(optimizer.weights)
    norm = np.sqrt(inner(gradient, gradient))
    clipped = trees.map(lambda g: g * min(1, limit / norm), gradient)
    updates, expected_state = adam.update(clipped, state)
    assert_same(found.weights, optim.apply_updates(optimizer.weights, updates), rtol=1e-12, atol=1e-15)
    assert_same(new_state.v, expected_state.v, rtol=1e-9)
    assert mean == pytest.approx(value / LENGTH)
    assert_same(carry, l2l.unroll(optimizer, problem, start, LENGTH)[1])
    assert not any(isinstance(x, tm.engine.tensor.Tensor) for x in trees.leaves(carry))


def test_meta_steps_carry_on_where_the_last_one_ended():
    optimizer, problem, start = case()
    sgd = optim.sgd(0.0)
    state, carry, means = sgd.init(optimizer.weights), None, []
    for _ in range(3):
        optimizer, state, carry, mean = l2l.meta_step(optimizer, problem, carry, sgd, state, 2)
        means.append(mean)
    total, end = l2l.unroll(optimizer, problem, start, 6)
    assert carry.t == 6
    assert sum(means) * 2 == pytest.approx(total, rel=1e-12)
    assert_same(carry, end, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("second_derivatives", [False, True])
def test_training_on_x_squared_converges(second_derivatives):
    """The authors' convergence test: no hidden layer, weights of zero, lr 0.01, epochs of 5 unrolls of 20 steps."""
    optimizer, problem = settings.linear_optimizer(), l2l.Problem(np.ones((1, 1)), lambda x, t: ops.sum(x * x, axis=-1))
    meta_optimizer = optim.adam(0.01)
    state = meta_optimizer.init(optimizer.weights)
    before = l2l.final_loss(optimizer, problem, 100)
    for _ in range(25):
        carry = None
        for _ in range(5):
            optimizer, state, carry, mean = l2l.meta_step(
                optimizer, problem, carry, meta_optimizer, state, 20, second_derivatives=second_derivatives
            )
    assert before == 1.0
    assert mean < 1e-5
    assert l2l.final_loss(optimizer, problem, 100) < 1e-5


def test_training_lowers_the_loss_on_fresh_quadratics():
    rng = np.random.default_rng(0)
    optimizer = l2l.LSTMOptimizer.create(rng, (8,), scale=0.1, p=None)
    fresh = settings.quadratics(np.random.default_rng(1), problems=32, d=2, dtype=np.float32)
    adam = optim.adam(0.01)
    state, before = adam.init(optimizer.weights), l2l.final_loss(optimizer, fresh, 20)
    for _ in range(60):
        problem = settings.quadratics(rng, problems=16, d=2, dtype=np.float32)
        optimizer, state, _, _ = l2l.meta_step(optimizer, problem, None, adam, state, 20)
    assert l2l.final_loss(optimizer, fresh, 20) < 0.5 * before


@preprocessing
@pytest.mark.parametrize("first", [0, 3])
def test_the_fused_meta_gradient_is_the_engines_on_the_unroll(p, first):
    """Both leave out ∂∇/∂φ; one is a kernel on suffix sums of gradients, the other the tape of every op."""
    rng = np.random.default_rng(first)
    optimizer, problem = settings.optimizer(rng, (4, 3), p=p), settings.quadratics(rng, problems=30)
    state = l2l.LSTMState(rng.normal(size=optimizer.init(problem.theta).blocks.shape), problem.theta.size)
    carry = l2l.Carry(problem.theta, state, first)
    total, gradient, end = l2l.meta_gradient(optimizer, problem, carry, LENGTH)
    value, expected = tm.value_and_grad(meta_loss(optimizer, problem, carry))(optimizer.weights)
    assert total == pytest.approx(value, rel=1e-12)
    assert_same(gradient, expected, rtol=1e-8, atol=1e-9)
    assert_same(end, l2l.unroll(optimizer, problem, carry, LENGTH)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("memory", [0, 10_000, 10**9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_is_the_same_in_little_memory(dtype, memory):
    rng = np.random.default_rng(0)
    optimizer, problem = settings.optimizer(rng, (4, 3), dtype=dtype), settings.quadratics(rng, 90, dtype=dtype)
    carry = settings.start(optimizer, problem)
    total, gradient, _ = l2l.meta_gradient(optimizer, problem, carry, LENGTH)
    same_total, same, _ = l2l.meta_gradient(optimizer, problem, carry, LENGTH, memory=memory)
    assert total == same_total
    largest = max(float(np.abs(x).max()) for x in trees.leaves(gradient))
    assert_same(same, gradient, atol=100 * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize("kernels", [tiled, portable], ids=["tiled", "portable"])
def test_a_meta_step_hands_its_memory_to_the_kernel(monkeypatch, kernels):
    given, backward, (optimizer, problem, _) = [], kernels.unroll_backward, case()

    def spied(*args, memory=None, **kwargs):
        given.append(memory)
        return backward(*args, memory=memory, **kwargs)

    monkeypatch.setattr(
        fused, "_table", lambda name, _: {"numpy": spied if name == "unroll_backward" else kernels.advance}
    )
    sgd = optim.sgd(0.1)
    for rule in (optimizer, l2l.Grouped({"all": optimizer}, lambda path: "all")):
        l2l.meta_step(rule, problem, None, sgd, sgd.init(rule.weights), LENGTH, memory=12345)
    assert given == [12345, 12345]


def test_a_memory_that_is_none_or_that_nothing_would_heed_is_refused():
    optimizer, problem, carry = case()
    with pytest.raises(ValueError, match="memory is -1, expected a number of bytes"):
        l2l.meta_gradient(optimizer, problem, carry, LENGTH, memory=-1)
    sgd = optim.sgd(0.1)
    arguments = optimizer, problem, None, sgd, sgd.init(optimizer.weights), LENGTH
    with pytest.raises(ValueError, match="the whole graph is stored; leave out `memory`"):
        l2l.meta_step(*arguments, second_derivatives=True, memory=10**6)


@pytest.mark.parametrize("second_derivatives", [False, True])
@pytest.mark.parametrize("length", [0, -2, 2.0])
def test_an_unroll_of_no_steps_is_refused(second_derivatives, length):
    optimizer, problem, _ = case()
    sgd = optim.sgd(0.1)
    arguments = optimizer, problem, None, sgd, sgd.init(optimizer.weights), length
    with pytest.raises(ValueError, match=rf"unroll_length is {length}, expected a whole number of steps, 1 or more"):
        l2l.meta_step(*arguments, second_derivatives=second_derivatives)


def test_divergence_says_what_happened_and_what_to_do():
    """And nothing else: NumPy's overflow warning, an error here, would be the same news without the advice."""
    optimizer, problem, _ = case()
    wild = l2l.LSTMOptimizer(optimizer.weights, scale=1e200, p=10.0)
    sgd, at = optim.sgd(0.1), settings.start(wild, problem)._replace(t=4)
    sentence = (
        r"the meta-loss is (inf|nan) after optimizee steps 4 to 8: the proposals diverge; lower the meta-learning rate"
    )
    with pytest.raises(FloatingPointError, match=sentence):
        l2l.meta_step(wild, problem, at, sgd, sgd.init(wild.weights), LENGTH)


def test_a_meta_gradient_that_is_not_finite_changes_no_optimizer():
    """The last gradient of an unroll is read by no update, so nothing else looks at it."""
    optimizer, problem, _ = case()

    def gradient(theta, t):
        losses, g = l2l.runner.losses_and_grads(problem, theta, t)
        return losses, g if t < 2 else np.full_like(g, np.nan)

    broken = problem._replace(gradient=gradient)
    sgd = optim.sgd(0.1)
    with pytest.raises(
        FloatingPointError, match="the meta-gradient is not finite after optimizee steps 0 to 2: the proposals"
    ):
        l2l.meta_step(optimizer, broken, None, sgd, sgd.init(optimizer.weights), 2)
