"""kernels.penalty: value, gradient and curvature against the engine, and the steps against the update that they unfold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_engine.compare import DTYPES, assert_close, normals

import tinymeta as tm
from tinymeta import ops, optim
from tinymeta.kernels import penalty as kernels

seeds = st.integers(0, 2**32 - 1)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
lams = st.sampled_from([0.0, 0.5, 400.0])


def composed(anchor, fisher, lam):
    return lambda theta: lam / 2 * ops.sum(fisher * ops.square(theta - anchor))


def case(seed, shape, dtype=np.float64):
    """(theta, grad, anchor, fisher)"""
    theta, grad, anchor, root = normals(np.random.default_rng(seed), *[shape] * 4, dtype=dtype)
    return theta, grad, anchor, root * root


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, shape=shapes, lam=lams)
def test_value_gradient_and_curvature_are_the_engines(dtype, seed, shape, lam):
    theta, v, anchor, fisher = case(seed, shape, dtype)
    f = composed(anchor, fisher, lam)
    value, gradient = tm.value_and_grad(f)(theta)
    assert_close(kernels.penalty(theta, anchor, fisher, lam), value)
    assert_close(kernels.penalty_grad(theta, anchor, fisher, lam), gradient)
    # the gradient is linear in theta - anchor, so the Hessian times v is the gradient at anchor + v
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        assert_close(kernels.penalty_grad(v, np.zeros_like(v), fisher, lam), tm.hvp(f, theta, v, mode))


@given(seed=seeds, shape=shapes, lam=lams)
def test_sgd_step_descends_loss_plus_penalty(seed, shape, lam):
    theta, grad, anchor, fisher = case(seed, shape)
    total = tm.grad(lambda x: ops.sum(grad * x) + composed(anchor, fisher, lam)(x))(theta)
    assert_close(kernels.sgd_step(theta, grad, anchor, fisher, lam, 0.1), theta - 0.1 * total)


@given(seed=seeds, shape=shapes, lam=lams)
def test_adam_steps_are_adam_on_loss_plus_penalty(seed, shape, lam):
    theta, grad, anchor, fisher = case(seed, shape)
    gradient = tm.grad(lambda x: ops.sum(grad * ops.sin(x)) + composed(anchor, fisher, lam)(x))
    optimizer = optim.adam(0.1)
    expected, state = theta, optimizer.init(theta)
    m = v = np.zeros_like(theta)
    for t in (1, 2, 3):
        updates, state = optimizer.update(gradient(expected), state)
        expected = optim.apply_updates(expected, updates)
        theta, m, v = kernels.adam_step(theta, grad * np.cos(theta), anchor, fisher, lam, 0.1, m, v, t)
        assert_close((theta, m, v), (expected, state.m, state.v), ulps=512)


@given(seed=seeds, shape=shapes, lam=lams)
def test_proximal_step_is_where_its_objective_is_stationary_and_convex(seed, shape, lam):
    theta, grad, anchor, fisher = case(seed, shape)
    lr = 0.1

    def objective(x):
        return ops.sum(grad * x) + composed(anchor, fisher, lam)(x) + ops.sum(ops.square(x - theta)) / (2 * lr)

    at = kernels.proximal_step(theta, grad, anchor, fisher, lam, lr)
    scale = 1 + np.abs(grad) + lam * fisher * (np.abs(at) + np.abs(anchor)) + (np.abs(at) + np.abs(theta)) / lr
    assert np.all(np.abs(tm.grad(objective)(at)) <= 8 * np.finfo(float).eps * scale)
    assert np.all(tm.hvp(objective, at, np.ones_like(at)) >= 1 / lr - 1e-12)


@given(seed=seeds, shape=shapes, lam=lams, tasks=st.integers(1, 3))
def test_a_fold_has_the_value_gradient_and_curvature_of_all_tasks(seed, shape, lam, tasks):
    theta, v, *_ = case(seed, shape)
    pairs = [case(seed + 1 + k, shape)[2:] for k in range(tasks)]
    fisher, anchor, constant = kernels.fold(pairs)

    def all_tasks(x):
        return sum((composed(anchor, fisher, lam)(x) for anchor, fisher in pairs), start=0.0)

    value, gradient = tm.value_and_grad(all_tasks)(theta)
    assert_close(kernels.penalty(theta, anchor, fisher, lam) + lam * constant, value, ulps=512)
    assert_close(kernels.penalty_grad(theta, anchor, fisher, lam), gradient, ulps=512)
    assert_close(lam * fisher * v, tm.hvp(all_tasks, theta, v), ulps=512)
