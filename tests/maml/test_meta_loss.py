import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maml.problems import assert_close, difference, inner, mse, net, points, random_like, task

import tinymeta as tm
from tinymeta import maml, ops

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(1, 3), st.sampled_from([(), (3,)]))
@settings(max_examples=20, deadline=None)
def test_meta_gradient_against_finite_differences(seed, steps, tasks):
    rng = np.random.default_rng(seed)
    params, support, query = net(rng), points(rng, *tasks, 5), points(rng, *tasks, 4)

    def objective(p):
        return maml.meta_loss(mse, p, support, query, 0.1, steps)

    v = random_like(rng, params)
    numeric = difference(objective, params, v)
    np.testing.assert_allclose(inner(tm.grad(objective)(params), v), numeric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(tm.jvp(objective, (params,), (v,))[1], numeric, rtol=1e-6, atol=1e-8)


@given(seeds, st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_first_order_is_the_query_gradient_at_the_adapted_parameters(seed, steps):
    rng = np.random.default_rng(seed)
    params, support, query = net(rng), points(rng, 3, 5), points(rng, 3, 4)
    found = tm.grad(lambda p: maml.meta_loss(mse, p, support, query, 0.1, steps, order=1))(params)
    gradients = []
    for t in range(3):
        theta = params
        for _ in range(steps):
            theta = tm.trees.map(lambda p, g: p - 0.1 * g, theta, tm.grad(mse)(theta, task(support, t)))
        gradients.append(tm.grad(mse)(theta, task(query, t)))
    assert_close(found, tm.trees.map(lambda *g: sum(g) / 3, *gradients))


@pytest.mark.parametrize("transform", [lambda f: f, tm.compile], ids=["eager", "compiled"])
@pytest.mark.parametrize("order", [1, 2])
def test_a_vmap_over_tasks_is_a_task_axis(order, transform):
    rng = np.random.default_rng(0)
    params, data = net(rng), (*points(rng, 3, 5), *points(rng, 3, 4))

    def mapped(p):
        of_task = lambda *d: maml.meta_loss(mse, p, d[:2], d[2:], 0.1, 2, order)
        return ops.mean(tm.vmap(of_task)(*data))

    together = tm.value_and_grad(lambda p: maml.meta_loss(mse, p, data[:2], data[2:], 0.1, 2, order))
    assert_close(transform(tm.value_and_grad(mapped))(params), together(params))
    adapted = tm.vmap(lambda *support: maml.adapt(mse, params, support, 0.1, 2, order))
    assert_close(transform(adapted)(*data[:2]), maml.adapt(mse, params, data[:2], 0.1, 2, order))


@given(seeds, st.sampled_from([1, 2]))
@settings(max_examples=10, deadline=None)
def test_mean_over_tasks(seed, order):
    rng = np.random.default_rng(seed)
    params, support, query = net(rng), points(rng, 3, 5), points(rng, 3, 4)

    def value_and_grad(s, q):
        return tm.value_and_grad(lambda p: maml.meta_loss(mse, p, s, q, 0.1, 2, order))(params)

    alone = [value_and_grad(task(support, t), task(query, t)) for t in range(3)]
    assert_close(value_and_grad(support, query), tm.trees.map(lambda *x: sum(x) / 3, *alone))


def test_without_steps_it_is_the_mean_query_loss():
    rng = np.random.default_rng(0)
    params, support, query = net(rng), points(rng, 3, 5), points(rng, 3, 4)
    np.testing.assert_allclose(maml.meta_loss(mse, params, support, query, 0.1, 0), np.mean(mse(params, query)))


def test_gradient_in_the_support_set():
    """As data-set distillation needs: the support set is not special."""
    rng = np.random.default_rng(0)
    params, support, query = net(rng), points(rng, 3, 5), points(rng, 3, 4)

    def objective(s):
        return maml.meta_loss(mse, params, s, query, 0.1, 2)

    v = random_like(rng, support)
    np.testing.assert_allclose(inner(tm.grad(objective)(support), v), difference(objective, support, v), rtol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_float32_stays_float32(order):
    rng = np.random.default_rng(0)
    params = net(rng, np.float32)
    support, query = (points(rng, 3, n, dtype=np.float32) for n in (5, 4))
    objective = tm.value_and_grad(lambda p: maml.meta_loss(mse, p, support, query, 0.1, 2, order))
    assert {x.dtype for x in tm.trees.leaves(objective(params))} == {np.dtype(np.float32)}
