import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maml.problems import assert_close, difference, inner, mse, net, points, quadratic, random_like, symmetric, task

import tinymeta as tm
from tinymeta import maml, ops

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 5), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_jacobian_on_a_quadratic_is_a_power_of_identity_minus_lr_hessian(seed, n, steps):
    rng = np.random.default_rng(seed)
    data, w = (symmetric(rng, n, n), rng.normal(size=n)), rng.normal(size=n)
    contraction = np.eye(n) - 0.05 * data[0]
    expected = w
    for _ in range(steps):
        expected = contraction @ expected + 0.05 * data[1]
    assert_close(maml.adapt(quadratic, w, data, 0.05, steps), expected)
    second, first = (
        tm.jacobian(lambda w, o=o: maml.adapt(quadratic, w, data, 0.05, steps, order=o))(w) for o in (2, 1)
    )
    assert_close(second, np.linalg.matrix_power(contraction, steps))
    assert_close(first, np.eye(n))


@given(seeds, st.integers(0, 3), st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_tasks_together_equal_tasks_one_by_one(seed, steps, order):
    rng = np.random.default_rng(seed)
    params, support = net(rng), points(rng, 3, 5)
    together = maml.adapt(mse, params, support, 0.1, steps, order)
    for t in range(3):
        alone = maml.adapt(mse, params, task(support, t), 0.1, steps, order)
        assert_close(tm.trees.map(lambda p, t=t: p[t], together), alone)


def test_several_task_axes():
    rng = np.random.default_rng(0)
    params, (x, y) = net(rng), points(rng, 2, 3, 5)
    adapted = maml.adapt(mse, params, (x, y), 0.1, 2)
    flat = maml.adapt(mse, params, (x.reshape(6, 5, 1), y.reshape(6, 5, 1)), 0.1, 2)
    assert_close(adapted, tm.trees.map(lambda p: p.reshape(2, 3, *p.shape[1:]), flat))


def test_no_step_changes_nothing():
    rng = np.random.default_rng(0)
    params = net(rng)
    assert_close(maml.adapt(mse, params, points(rng, 5), 0.1, 0), params, rtol=0)
    together = maml.adapt(mse, params, points(rng, 3, 5), 0.1, 0)
    assert_close(together, tm.trees.map(lambda p: np.stack([p] * 3), params), rtol=0)


def test_path_is_adapt_after_each_number_of_steps():
    rng = np.random.default_rng(0)
    params, support = net(rng), points(rng, 3, 5)
    path = maml.adaptation_path(mse, params, support, 0.1, 3)
    assert len(path) == 4
    for steps, found in enumerate(path):
        assert_close(found, maml.adapt(mse, params, support, 0.1, steps), rtol=0)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_orders_agree_for_a_linear_loss(seed):
    rng = np.random.default_rng(seed)
    support, query, w = rng.normal(size=(4, 3)), symmetric(rng, 4, 3, 3), rng.normal(size=3)

    def loss(w, data):
        return ops.sum(w * data, axis=-1) if data.ndim == 2 else quadratic(w, (data, 0.0))

    def gradient(order):
        return tm.grad(lambda w: ops.sum(loss(maml.adapt(loss, w, support, 0.3, 2, order), query)))(w)

    assert_close(gradient(2), gradient(1))


def test_first_order_records_no_inner_gradient():
    rng = np.random.default_rng(0)
    params, support = net(rng), points(rng, 3, 5)
    graph = tm.show(lambda p: maml.adapt(mse, p, support, 0.1, 2, order=1), params)
    assert {step.op for step in graph.steps} == {"input", "broadcast_to", "subtract"}


@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_hessian_of_the_query_loss_is_of_third_order(mode):
    rng = np.random.default_rng(0)
    params, support, query = net(rng), points(rng, 5), points(rng, 5)
    v = random_like(rng, params)

    def after(p):
        return mse(maml.adapt(mse, p, support, 0.1, 2), query)

    assert_close(tm.hvp(after, params, v, mode), difference(tm.grad(after), params, v), rtol=1e-6, atol=1e-8)


def test_rates_for_each_leaf_and_element():
    rng = np.random.default_rng(0)
    params, support = net(rng), points(rng, 3, 5)
    scalar = maml.adapt(mse, params, support, 0.1, 2)
    assert_close(maml.adapt(mse, params, support, tm.trees.map(lambda p: 0.1, params), 2), scalar)
    assert_close(maml.adapt(mse, params, support, tm.trees.map(lambda p: np.full(p.shape, 0.1), params), 2), scalar)


@pytest.mark.parametrize("order", [1, 2])
def test_derivative_in_the_rates(order):
    rng = np.random.default_rng(0)
    params, support, query = net(rng), points(rng, 5), points(rng, 5)
    rates = tm.trees.map(lambda p: np.full(p.shape, 0.1), params)

    def after(rates):
        return mse(maml.adapt(mse, params, support, rates, 1, order), query)

    gradient, direction = tm.grad(after)(rates), random_like(rng, rates)
    np.testing.assert_allclose(inner(gradient, direction), difference(after, rates, direction), rtol=1e-7)


@pytest.mark.parametrize("lr", [0.1, np.float64(0.1), np.array(0.1)])
def test_float32_stays_float32(lr):
    rng = np.random.default_rng(0)
    params, support = net(rng, np.float32), points(rng, 3, 5, dtype=np.float32)
    adapted = maml.adapt(mse, params, support, lr, 2)
    assert {p.dtype for p in tm.trees.leaves(adapted)} == {np.dtype(np.float32)}


def test_a_single_array_and_a_float_are_parameters_too():
    np.testing.assert_allclose(maml.adapt(lambda w, target: (w - target) ** 2, 1.0, 3.0, 0.25, 1), 2.0)
    np.testing.assert_allclose(
        maml.adapt(lambda w, target: (w - target) ** 2, 1.0, np.array([3.0, 5.0]), 0.25, 1), [2, 3]
    )
