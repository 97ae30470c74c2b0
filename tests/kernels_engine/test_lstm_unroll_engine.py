"""kernels.lstm, the optimizer's step and unroll: against the engine on the whole composed unroll, to second order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_engine.compare import DTYPES, assert_close, normals, normals_like

import tinymeta as tm
from tinymeta import l2l, ops, trees
from tinymeta.kernels import lstm
from tinymeta.l2l.network import lstm_cell_composed

seeds = st.integers(0, 2**32 - 1)
nets = st.sampled_from([(), (3,), (4, 2)])  # hidden sizes
constants = st.sampled_from([None, 2.0, 10.0])  # p
SCALE = 0.3


def composed_step(weights, state, gradient, p):
    """The paper's m, in public ops alone."""
    x = ops.reshape(gradient, (-1, 1)) if p is None else l2l.log_and_sign(gradient, p)
    after = []
    for (w, b), (h, c) in zip(weights.layers, state, strict=True):
        x, c = lstm_cell_composed(x, h, c, w, b)
        after.append((x, c))
    return SCALE * (ops.matmul(x, weights.W_out) + weights.b_out), tuple(after)


def unrolled(step, p):
    def run(weights, state, gradients):
        updates = []
        for t in range(gradients.shape[0]):
            update, state = step(weights, state, gradients[t], p)
            updates.append(update)
        return ops.stack(updates), state

    return run


def through_kernel_ops(weights, state, gradient, p):
    return l2l.propose(weights, state, gradient, SCALE, p)


def case(seed, hidden, p, dtype=np.float64, steps=3, n=4):
    """(rng, weights, state, gradients (T, n))"""
    rng = np.random.default_rng(seed)
    weights = l2l.init_weights(rng, 1 if p is None else 2, hidden, dtype)
    weights = weights._replace(b_out=np.asarray(rng.normal(), dtype))
    state = normals_like(rng, lstm.zero_state(weights, n))
    return rng, weights, state, normals(rng, (steps, n), dtype=dtype)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, hidden=nets, p=constants)
def test_the_step_is_its_composition(dtype, seed, hidden, p):
    _, weights, state, gradients = case(seed, hidden, p, dtype)
    expected = composed_step(weights, state, gradients[0], p)
    assert_close(lstm.step(weights, state, gradients[0], SCALE, p), expected)
    assert_close(through_kernel_ops(weights, state, gradients[0], p), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, hidden=nets, p=constants, steps=st.integers(1, 4), n=st.integers(0, 4))
def test_the_unroll_and_its_backward_are_the_engines(dtype, seed, hidden, p, steps, n):
    """d_weights, d_state and d_gradients of backpropagation through time, for cotangents of updates and final state."""
    rng, weights, state, gradients = case(seed, hidden, p, dtype, steps, n)
    updates, final = lstm.unroll_forward(weights, state, gradients, SCALE, p)
    value, pull = tm.vjp(unrolled(composed_step, p), weights, state, gradients)
    assert_close((updates, final), value, ulps=128)
    d_updates, d_state = normals_like(rng, (updates, final))
    found = lstm.unroll_backward(weights, state, gradients, d_updates, d_state, SCALE, p, wrt_gradients=True)
    assert_close(found, pull((d_updates, d_state)), ulps=128)


@settings(max_examples=8)
@given(seed=seeds, hidden=nets, p=constants)
def test_the_second_derivative_of_an_unroll_of_kernel_ops_is_the_compositions(seed, hidden, p):
    rng, weights, state, gradients = case(seed, hidden, p)
    at, v = (weights, state, gradients), normals_like(rng, (weights, state, gradients))

    def energy(step):
        def f(inputs):
            updates, final = unrolled(step, p)(*inputs)
            return sum((ops.sum(ops.square(y)) for y in trees.leaves((updates, final))), start=0.0)

        return f

    expected = tm.hvp(energy(composed_step), at, v)
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        assert_close(tm.hvp(energy(through_kernel_ops), at, v, mode), expected, ulps=512)


@given(seed=seeds, p=constants)
def test_the_meta_gradient_is_the_hand_derived_backward(seed, p):
    """With constant gradients d L / d g_t is the sum of the later ∇f, since θ_s = θ_0 + g_0 + ... + g_{s-1}."""
    rng = np.random.default_rng(seed)
    problem = l2l.quadratic_problem(*normals(rng, (1, 3, 3), (1, 3), (1, 3)))
    optimizer = l2l.LSTMOptimizer(l2l.init_weights(rng, 1 if p is None else 2, (4,), np.float64), SCALE, p)
    start = l2l.Carry(problem.theta, optimizer.init(problem.theta), 0)

    def total(weights):
        return l2l.unroll(optimizer.with_weights(weights), problem, start, 4)[0]

    thetas, zero = [problem.theta], lstm.zero_state(optimizer.weights, 3)
    gradient, state = tm.grad(lambda x: problem.loss(x, 0)[0]), zero
    for _ in range(4):
        updates, state = lstm.step(optimizer.weights, state, gradient(thetas[-1])[0], SCALE, p)
        thetas.append(thetas[-1] + updates)
    gradients = np.concatenate([gradient(theta) for theta in thetas])
    later = np.cumsum(gradients[:0:-1], axis=0)[::-1]
    d_weights, _, _ = lstm.unroll_backward(optimizer.weights, zero, gradients[:-1], later, zero, SCALE, p)
    assert_close(tm.grad(total)(optimizer.weights), d_weights, ulps=512)
