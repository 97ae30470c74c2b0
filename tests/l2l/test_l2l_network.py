"""l2l.network: preprocessing, the number of weights, and the coordinatewise law."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from l2l import settings

import tinymeta as tm
from tinymeta import l2l, trees
from tinymeta.kernels import lstm
from tinymeta.kernels.lstm.blocks import to_blocks

seeds = st.integers(0, 2**32 - 1)
constants = st.sampled_from([None, 5.0, 10.0])


@pytest.mark.parametrize(("inputs", "count"), [(2, 5141), (1, 5061)])
def test_the_papers_network_has_its_number_of_weights(inputs, count):
    weights = l2l.init_weights(np.random.default_rng(0), inputs)
    assert sum(x.size for x in trees.leaves(weights)) == count
    assert {x.dtype for x in trees.leaves(weights)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("p", "count"), [(10.0, 5141), (None, 5061)])
def test_an_optimizer_has_an_input_for_each_feature(p, count):
    created = l2l.LSTMOptimizer.create(np.random.default_rng(0), p=p)
    assert sum(x.size for x in trees.leaves(created.weights)) == count


def test_initial_weights_have_the_stated_spread_and_forget_bias():
    weights = l2l.init_weights(np.random.default_rng(0), 2, (60, 50), np.float64)
    for (w, b), fan_in, size in zip(weights.layers, (62, 110), (60, 50), strict=True):
        assert w.shape == (fan_in, 4 * size)
        assert np.std(w) == pytest.approx(fan_in**-0.5, rel=0.03)
        np.testing.assert_array_equal(b, np.repeat([0, 1, 0, 0], size))
    assert np.std(weights.W_out) == pytest.approx(0.1 * 50**-0.5, rel=0.4)
    assert weights.b_out == 0


# ---- preprocessing, appendix A ----


@pytest.mark.parametrize("p", [2.0, 5.0, 10.0])
@given(g=st.lists(st.floats(-1e30, 1e30), max_size=6))
def test_log_and_sign_is_odd_in_the_sign_and_even_in_the_magnitude(p, g):
    g = np.array(g)
    plus, minus = l2l.log_and_sign(g, p), l2l.log_and_sign(-g, p)
    np.testing.assert_array_equal(minus[:, 0], plus[:, 0])
    np.testing.assert_array_equal(minus[:, 1], -plus[:, 1])


@pytest.mark.parametrize("p", [2.0, 5.0, 10.0])
@given(g=st.lists(st.floats(0, 1e30), min_size=2, max_size=6))
def test_log_and_sign_is_monotone_and_bounded_below(p, g):
    rows = l2l.log_and_sign(np.sort(g), p)
    assert np.all(np.diff(rows, axis=0) >= 0)
    assert np.all(rows[:, 0] >= -1)
    assert np.all(np.abs(rows[:, 1]) <= 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_log_and_sign_is_continuous_at_the_seam(dtype, p, sign):
    seam = dtype(math.exp(-p))
    g = sign * np.array([np.nextafter(seam, dtype(0)), seam, np.nextafter(seam, dtype(1))])
    rows = l2l.log_and_sign(g, p)
    assert rows.dtype == dtype
    np.testing.assert_allclose(rows, [[-1, sign]] * 3, rtol=4 * np.finfo(dtype).eps)


def test_log_and_sign_has_a_finite_gradient_where_the_gradient_is_zero():
    d = tm.grad(lambda g: tm.ops.sum(l2l.log_and_sign(g, 5.0)))(np.zeros(2))
    np.testing.assert_allclose(d, math.exp(5))


# ---- one step ----


def stepped(seed, n, p, dtype=np.float64):
    """(optimizer, state, gradient): a state that is not zero and a gradient on both branches of the preprocessing."""
    rng = np.random.default_rng(seed)
    optimizer = settings.optimizer(rng, p=p, dtype=dtype)
    state = trees.map(lambda x: rng.normal(size=x.shape).astype(dtype), lstm.zero_state(optimizer.weights, n))
    return optimizer, state, (rng.normal(size=n) * rng.choice([1e-6, 1.0], n)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=seeds, n=st.integers(0, 6), p=constants)
def test_propose_is_the_kernels_step(dtype, seed, n, p):
    optimizer, state, gradient = stepped(seed, n, p, dtype)
    found = l2l.propose(optimizer.weights, state, gradient, optimizer.scale, p)
    expected = lstm.step(optimizer.weights, state, gradient, optimizer.scale, p)
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=8 * np.finfo(dtype).eps)


def advanced(optimizer, gradient, rows):
    """LSTMOptimizer.update, from and to a state of (h, c) pairs, each (n, H)."""
    n = gradient.shape[0]
    updates, state = optimizer.update(gradient, l2l.LSTMState(to_blocks(rows, n, np.float64), n))
    return updates, optimizer.hidden(state)


@given(seed=seeds, n=st.integers(0, 6), p=constants, data=st.data())
def test_permuted_coordinates_get_permuted_updates(seed, n, p, data):
    optimizer, state, gradient = stepped(seed, n, p)
    order = np.array(data.draw(st.permutations(range(n))), int)
    expected = trees.map(lambda x: x[order], advanced(optimizer, gradient, state))
    found = advanced(optimizer, gradient[order], trees.map(lambda x: x[order], state))
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)


@given(seed=seeds, n=st.integers(1, 6), p=constants, data=st.data())
def test_a_coordinate_sees_neither_gradient_nor_state_of_another(seed, n, p, data):
    optimizer, state, gradient = stepped(seed, n, p)
    j = data.draw(st.integers(0, n - 1))
    others = np.arange(n) != j
    bump = lambda x: x + np.where(others, 0.0, 1.0).reshape(-1, *[1] * (x.ndim - 1))
    before, after = (
        advanced(optimizer, *given) for given in ((gradient, state), (bump(gradient), trees.map(bump, state)))
    )
    for a, b in zip(trees.leaves(before), trees.leaves(after), strict=True):
        np.testing.assert_array_equal(a[others], b[others])
        assert not np.array_equal(a[j], b[j])


@given(seed=seeds, n=st.integers(1, 4), p=constants)
def test_the_jacobian_of_the_updates_is_diagonal(seed, n, p):
    optimizer, state, gradient = stepped(seed, n, p)
    jacobian = tm.jacobian(lambda g: l2l.propose(optimizer.weights, state, g, optimizer.scale, p)[0])(gradient)
    assert np.all(np.diag(jacobian) != 0)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))


@given(seed=seeds, n=st.integers(1, 3))
def test_a_step_alone_is_the_step_of_that_coordinate(seed, n):
    optimizer, state, gradient = stepped(seed, n, 10.0)
    together = advanced(optimizer, gradient, state)[0]
    alone = [
        advanced(optimizer, gradient[j : j + 1], trees.map(lambda x, j=j: x[j : j + 1], state))[0] for j in range(n)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-14)
