"""Replay equals eager execution: bit for bit on NumPy, where the order of operations is the same."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import maml, nets, ops, optim
from tinymeta.check import strategies
from tinymeta.l2l.network import lstm_cell


@pytest.fixture(autouse=True)
def _numpy(monkeypatch):
    monkeypatch.setenv("TINYMETA_BACKEND", "numpy")


def assert_equal(a, b):
    tm.trees.map(np.testing.assert_array_equal, a, b)


def check_replay(f, *calls):
    """The program of the first call serves all of them, and each gives what f gives."""
    compiled = tm.compile(f)
    for args in calls:
        assert_equal(compiled(*args), f(*args))
    for args in calls:
        assert_equal(compiled(*args), f(*args))
    assert len(compiled._programs) == 1
    return compiled


def mse(params, data):
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))


def images(params, data):
    x, labels = data
    return ops.mean(ops.softmax_cross_entropy(nets.conv4(params, x), labels), axis=-1)


def meta_step(loss, optimizer, steps, order=2):
    def step(params, state, support, query):
        value, gradient = tm.value_and_grad(lambda p: maml.meta_loss(loss, p, support, query, 0.01, steps, order))(
            params
        )
        updates, state = optimizer.update(gradient, state)
        return optim.apply_updates(params, updates), state, value

    return step


def sine_arguments(rng, optimizer, tasks=3, points=4):
    params = nets.init_mlp(rng, (1, 8, 8, 1), 0.3)
    state = optimizer.init(params)._replace(step=np.asarray(0))
    x, y, u, v = (rng.normal(size=(tasks, points, 1)).astype(np.float32) for _ in range(4))
    return params, state, (x, y), (u, v)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_meta_step_with_adam(steps, order):
    rng, adam = np.random.default_rng(0), optim.adam(1e-2)
    check_replay(meta_step(mse, adam, steps, order), *(sine_arguments(rng, adam) for _ in range(3)))


def test_a_training_run_follows_eager_execution():
    rng, adam = np.random.default_rng(1), optim.adam(optim.cosine(1e-2, 5))
    step = meta_step(mse, adam, 1)
    params, state, *_ = sine_arguments(rng, adam)
    compiled, a, b = tm.compile(step), (params, state), (params, state)
    for _ in range(8):
        data = sine_arguments(rng, adam)[2:]
        a, b = step(*a, *data)[:2], compiled(*b, *data)[:2]
    assert_equal(a, b)
    assert len(compiled._programs) == 1


def test_conv_nets_with_batch_norm_under_maml():
    rng, sgd = np.random.default_rng(2), optim.sgd(1e-2)

    def arguments():
        x = [rng.normal(size=(2, 4, 1, 12, 12)).astype(np.float32) for _ in range(2)]
        labels = [rng.integers(0, 3, size=(2, 4)) for _ in range(2)]
        params = nets.init_conv4(rng, 3, filters=4)
        return params, sgd.init(params)._replace(step=np.asarray(0)), (x[0], labels[0]), (x[1], labels[1])

    check_replay(meta_step(images, sgd, 1), arguments(), arguments())


@given(program=strategies.compositions(), seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_random_programs_and_their_derivatives(program, seed, order):
    rng = np.random.default_rng(seed)
    x, y, v = rng.normal(size=(3, 3, 3))
    f = [program, tm.value_and_grad(program), lambda x: tm.hvp(program, x, v)][order]
    check_replay(f, (x,), (y,))


@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_hessian_vector_products_of_a_tree(mode):
    rng = np.random.default_rng(3)
    params = nets.init_mlp(rng, (2, 3, 1), dtype=np.float64)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 1))
    check_replay(lambda p, v: tm.hvp(lambda q: mse(q, (x, y)), p, v, mode), (params, params))


def test_vmap_checkpoint_and_jacobian():
    rng = np.random.default_rng(4)
    w, x = rng.normal(size=(3, 2)), rng.normal(size=(5, 3))
    loss = tm.checkpoint(lambda w, x: ops.sum(ops.tanh(x @ w) ** 2))
    check_replay(lambda w, x: tm.vmap(tm.grad(loss), (None, 0))(w, x), (w, x))
    check_replay(lambda w, x: tm.jacobian(lambda w: ops.tanh(x @ w))(w), (w, x))
    check_replay(tm.vmap(lambda x: ops.log_softmax(x)[np.argmax(x)]), (x,))


@pytest.mark.parametrize("make", [optim.sgd, optim.momentum, optim.nag, optim.rmsprop, optim.adam])
def test_every_optimizer(make):
    rng = np.random.default_rng(5)
    optimizer = make(optim.cosine(1e-2, 4))
    params = {"w": rng.normal(size=(3, 2)).astype(np.float32)}
    state = optimizer.init(params)._replace(step=np.asarray(2))
    compiled = check_replay(lambda g, s, p: optimizer.update(g, s, p), (params, state, params))
    updates, new = compiled(params, state, params)
    assert new.step == 3
    assert updates["w"].dtype == np.float32
    plain = optimizer.update(params, state._replace(step=2), params)[0]
    np.testing.assert_array_equal(plain["w"], updates["w"])


@pytest.mark.parametrize("order", [1, 2])
def test_kernel_ops_with_every_derivative(order):
    rng = np.random.default_rng(6)
    x, h, c, w, b = (rng.normal(size=s) for s in ((4, 2), (4, 3), (4, 3), (5, 12), (12,)))

    def loss(w):
        h_new, c_new = lstm_cell(x, h, c, w, b)
        return ops.sum(ops.sin(h_new)) + ops.sum(c_new**2)

    f = tm.grad(loss) if order == 1 else lambda w: tm.hvp(loss, w, w)
    compiled = check_replay(f, (w,), (w + 0.1,))
    assert "lstm" in compiled.source


def test_results_never_share_memory_with_arguments_or_each_other():
    x = np.arange(6.0).reshape(2, 3)
    f = tm.compile(lambda x: (x, x.T, ops.sin(x), ops.sin(x), x[0]))
    first = f(x)
    kept = [a.copy() for a in first]
    second = f(x + 1)
    for a in (*first, *second):
        assert a.flags.writeable
        assert not np.shares_memory(a, x)
    for i, a in enumerate(first):
        np.testing.assert_array_equal(a, kept[i])
        assert not any(np.shares_memory(a, b) for b in (*first[i + 1 :], *second))


def test_a_tree_of_every_kind_comes_back():
    x = np.arange(3.0)
    f = tm.compile(lambda p, n: {"a": [p["x"] * n, (None, "s")], "s": optim.State(p["x"].sum(), m=2)})
    for _ in range(2):
        result = f({"x": x}, 3)
        assert result["a"][1] == (None, "s")
        assert isinstance(result["s"], optim.State)
        assert result["s"].m == 2
        np.testing.assert_array_equal(result["a"][0], 3 * x)


def test_a_defaultdict_comes_back_as_one():
    weights = defaultdict(list, a=np.arange(3.0))
    for _ in range(2):
        gradient = tm.compile(tm.grad(lambda p: np.sum(p["a"] ** 2)))(weights)
        assert (type(gradient), gradient["missing"]) == (defaultdict, [])
        np.testing.assert_array_equal(gradient["a"], 2 * weights["a"])


def test_buffers_are_fewer_than_values():
    x = np.ones((100, 100))

    def chain(x):
        for _ in range(50):
            x = ops.sin(x) + 1
        return x

    f = tm.compile(chain)
    f(x)
    assert f._last().code.plan.bytes <= 2 * x.nbytes
