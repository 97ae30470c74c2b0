"""kernels.lstm, the cell and the preprocessing: value, VJP and double VJP against the engine on the composed ops."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernels_engine.compare import DTYPES, assert_close, normals, normals_like

import tinymeta as tm
from tinymeta import l2l
from tinymeta.kernels import lstm
from tinymeta.l2l.network import lstm_cell_composed

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 4))  # n, d, H
scales = st.sampled_from([1e-3, 1.0, 10.0])  # of the inputs: linear, curved and saturated gates


def inputs_of(rng, size, scale, dtype):
    """(x, h, c, W, b)"""
    n, d, hidden = size
    shapes = (n, d), (n, hidden), (n, hidden), (d + hidden, 4 * hidden), (4 * hidden,)
    return normals(rng, *shapes, dtype=dtype, scale=scale)


def pulled(dh_new, dc_new, *inputs):
    """What lstm_cell_vjp computes, by the engine."""
    return tm.vjp(lstm_cell_composed, *inputs)[1]((dh_new, dc_new))


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, size=sizes, scale=scales)
def test_the_cell_is_its_composition(dtype, seed, size, scale):
    inputs = inputs_of(np.random.default_rng(seed), size, scale, dtype)
    assert_close(lstm.lstm_cell(*inputs), lstm_cell_composed(*inputs))


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, size=sizes, scale=scales)
def test_the_backward_is_the_vjp_of_the_composition_in_every_input(dtype, seed, size, scale):
    rng = np.random.default_rng(seed)
    inputs = inputs_of(rng, size, scale, dtype)
    cotangents = normals_like(rng, inputs[1:3])
    assert_close(lstm.lstm_cell_vjp(*cotangents, *inputs), pulled(*cotangents, *inputs))


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, size=sizes, scale=scales)
def test_the_double_backward_is_the_vjp_of_the_vjp_in_every_input(dtype, seed, size, scale):
    rng = np.random.default_rng(seed)
    inputs = inputs_of(rng, size, scale, dtype)
    cotangents, second = normals_like(rng, inputs[1:3]), normals_like(rng, tuple(inputs))
    expected = tm.vjp(pulled, *cotangents, *inputs)[1](second)
    assert_close(lstm.lstm_cell_vjp_vjp(*second, *cotangents, *inputs), expected)


@given(seed=seeds, size=sizes)
def test_the_double_backward_holds_the_tangents_of_the_composition(seed, size):
    rng = np.random.default_rng(seed)
    inputs = inputs_of(rng, size, 1.0, np.float64)
    cotangents, tangents = normals_like(rng, inputs[1:3]), normals_like(rng, inputs)
    _, expected = tm.jvp(lstm_cell_composed, inputs, tangents)
    assert_close(lstm.lstm_cell_vjp_vjp(*tangents, *cotangents, *inputs)[:2], expected)


# ---- preprocessing ----

magnitudes = st.floats(-(2.0**99), 2.0**99, width=32)
near_the_seam = st.builds(lambda f, s: s * f * math.exp(-5), st.floats(0.5, 2), st.sampled_from([-1, 1]))
gradients = st.lists(magnitudes | near_the_seam, max_size=8)
EXTREMES = [0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, math.inf, -math.inf]


@pytest.mark.parametrize("dtype", DTYPES)
@given(g=gradients, p=st.sampled_from([2.0, 5.0, 10.0]))
@example(g=EXTREMES, p=5.0)
def test_log_and_sign_and_its_backward_are_the_engines(dtype, g, p):
    g = np.array(g, dtype)
    np.testing.assert_array_equal(lstm.log_and_sign(g, p), l2l.log_and_sign(g, p))
    d_x = np.random.default_rng(0).normal(size=(g.size, 2)).astype(dtype)
    (expected,) = tm.vjp(lambda g: l2l.log_and_sign(g, p), g)[1](d_x)
    found = lstm.log_and_sign_vjp(d_x, g, p)
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)


@given(g=st.lists(near_the_seam | st.floats(-1e3, 1e3).filter(lambda g: abs(g) > 1e-3), min_size=1, max_size=8))
def test_the_second_derivative_of_log_and_sign_is_that_of_its_logarithm(g):
    """log_and_sign_vjp is d_0 / (p g) above the seam, whose derivative is -d_0 / (p g²), and constant below."""
    g, p, d = np.array(g), 5.0, np.array([3.0, 7.0])
    found = tm.grad(lambda g: tm.ops.sum(tm.vjp(lambda g: l2l.log_and_sign(g, p), g)[1](np.tile(d, (g.size, 1)))[0]))(g)
    expected = np.where(np.abs(g) >= math.exp(-p), -d[0] / (p * g * g), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
