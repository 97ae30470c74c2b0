"""tinymeta.kernels.lstm, its parts: preprocessing, the cell, its backward and its double backward."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.kernels.lstm import log_and_sign, log_and_sign_vjp, lstm_cell, lstm_cell_vjp, lstm_cell_vjp_vjp

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4))  # n, d, H
finite = st.floats(-1e30, 1e30, width=64)
scales = st.sampled_from([2.0, 5.0, 10.0])


def cell_inputs(rng, normal, n, d, H, dtype=np.float64):
    """(x, h, c, W, b)"""
    shapes = [(n, d), (n, H), (n, H), (d + H, 4 * H), (4 * H,)]
    return [normal(rng, *shape, dtype=dtype) for shape in shapes]


def vjp_inputs(rng, normal, n, d, H, dtype=np.float64):
    """(dh_new, dc_new, x, h, c, W, b)"""
    return [normal(rng, n, H, dtype=dtype), normal(rng, n, H, dtype=dtype), *cell_inputs(rng, normal, n, d, H, dtype)]


def like(rng, normal, arrays):
    return [normal(rng, *array.shape, dtype=array.dtype) for array in arrays]


def inner(a, b):
    return sum(float(np.sum(x * y)) for x, y in zip(a, b, strict=True))


# ---- log_and_sign ----


@quick
@given(g=st.lists(finite, max_size=6), p=scales)
def test_log_and_sign_is_the_branch_form_of_appendix_a(g, p):
    rows = log_and_sign(np.array(g, float), p)
    assert rows.shape == (len(g), 2)
    for value, row in zip(g, rows, strict=True):
        large = abs(value) >= math.exp(-p)
        expected = (math.log(abs(value)) / p, math.copysign(1, value)) if large else (-1, math.exp(p) * value)
        assert row == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [2.0, 5.0, 10.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_log_and_sign_is_continuous_at_the_seam(dtype, p, sign):
    seam = dtype(math.exp(-p))
    below, above = np.nextafter(seam, dtype(0)), np.nextafter(seam, dtype(1))
    rows = log_and_sign(sign * np.array([below, seam, above], dtype), p)
    assert rows[0, 0] == -1
    np.testing.assert_array_equal(rows[1:, 1], sign)
    np.testing.assert_allclose(rows, [[-1, sign]] * 3, rtol=4 * np.finfo(dtype).eps)


@quick
@given(seed=seeds, n=st.integers(0, 6), p=scales)
def test_log_and_sign_vjp_is_the_transposed_derivative_on_both_branches(check_vjp, seed, n, p):
    rng = np.random.default_rng(seed)
    distance = rng.choice([0.1, 0.5, 0.9, 1.1, 3.0, 50.0], n)
    seam = math.exp(-p)
    # in units of the seam, so that the difference step does not cross it
    check_vjp(
        lambda y: (log_and_sign(seam * y, p),),
        lambda d_x, y: (seam * log_and_sign_vjp(d_x, seam * y, p),),
        [distance * rng.choice([-1, 1], n)],
        rng,
    )


def test_log_and_sign_vjp_takes_the_logarithm_at_the_seam_and_the_slope_at_zero():
    d_x, seam = np.array([[3.0, 7.0]] * 2), math.exp(-5)
    np.testing.assert_allclose(log_and_sign_vjp(d_x, np.array([seam, 0.0]), 5), [3 / (5 * seam), 7 * math.exp(5)])


def test_log_and_sign_at_extremes_is_as_documented():
    g = np.array([0.0, -0.0, 1e-30, -1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32)
    log30, tiny = 3 * math.log(10), 1e-30 * math.exp(10)
    expected = [
        [-1, 0],
        [-1, 0],
        [-1, tiny],
        [-1, -tiny],
        [log30, 1],
        [log30, -1],
        [np.inf, 1],
        [np.inf, -1],
        [-1, np.nan],
    ]
    np.testing.assert_allclose(log_and_sign(g), expected, rtol=1e-6)
    d_g = log_and_sign_vjp(np.ones((9, 2), np.float32), g)
    slope = math.exp(10)
    np.testing.assert_allclose(d_g, [slope] * 4 + [1e-31, -1e-31, 0, 0, slope], rtol=1e-6)


@pytest.mark.parametrize(
    ("p", "dtype"), [(0, np.float64), (-1, np.float64), (math.nan, np.float64), (89, np.float32), (12, np.float16)]
)
def test_a_p_that_does_not_fit_is_refused(p, dtype):
    with pytest.raises(ValueError, match=r"log_and_sign: p is .*, expected 0 < p <"):
        log_and_sign(np.ones(1, dtype), p)


# ---- the cell ----


@quick
@given(seed=seeds, size=sizes)
def test_the_cell_is_the_published_recurrence_unit_by_unit(normal, seed, size):
    n, d, H = size
    x, h, c, W, b = cell_inputs(np.random.default_rng(seed), normal, n, d, H)
    h_new, c_new = lstm_cell(x, h, c, W, b)
    assert h_new.shape == c_new.shape == (n, H)
    for row in range(n):
        u = [*x[row], *h[row]]
        for j in range(H):
            z = [sum(u[k] * W[k, q * H + j] for k in range(d + H)) + b[q * H + j] for q in range(4)]
            i, f, o = (1 / (1 + math.exp(-z[q])) for q in (0, 1, 3))
            cell = f * c[row, j] + i * math.tanh(z[2])
            assert c_new[row, j] == pytest.approx(cell, rel=1e-12, abs=1e-13)
            assert h_new[row, j] == pytest.approx(o * math.tanh(cell), rel=1e-12, abs=1e-13)


@quick
@given(seed=seeds, size=sizes)
def test_the_backward_is_the_transposed_derivative_of_the_cell(normal, check_vjp, seed, size):
    rng = np.random.default_rng(seed)
    check_vjp(lstm_cell, lstm_cell_vjp, cell_inputs(rng, normal, *size), rng)


@quick
@given(seed=seeds, size=sizes)
def test_the_double_backward_is_the_transposed_derivative_of_the_backward(normal, check_vjp, seed, size):
    rng = np.random.default_rng(seed)
    check_vjp(lstm_cell_vjp, lstm_cell_vjp_vjp, vjp_inputs(rng, normal, *size), rng)


@quick
@given(seed=seeds, size=sizes)
def test_the_double_backward_is_a_symmetric_hessian(normal, seed, size):
    """With dh_new, dc_new fixed, lstm_cell_vjp is the gradient of a scalar: <v, H u> = <u, H v>."""
    rng = np.random.default_rng(seed)
    inputs = vjp_inputs(rng, normal, *size)
    u, v = like(rng, normal, inputs[2:]), like(rng, normal, inputs[2:])
    Hu, Hv = lstm_cell_vjp_vjp(*u, *inputs)[2:], lstm_cell_vjp_vjp(*v, *inputs)[2:]
    assert inner(v, Hu) == pytest.approx(inner(u, Hv), rel=1e-10, abs=1e-10)


@quick
@given(seed=seeds, size=sizes)
def test_the_double_backward_holds_the_forward_derivative(normal, seed, size):
    """Its first two results are the cell's jvp: <vjp(y), u> = <y, jvp(u)>, whatever the backward's cotangents."""
    rng = np.random.default_rng(seed)
    inputs = vjp_inputs(rng, normal, *size)
    u, y = like(rng, normal, inputs[2:]), like(rng, normal, inputs[:2])
    jvp = lstm_cell_vjp_vjp(*u, *inputs)[:2]
    assert inner(lstm_cell_vjp(*y, *inputs[2:]), u) == pytest.approx(inner(y, jvp), rel=1e-10, abs=1e-10)


def test_saturated_gates_neither_overflow_nor_leak():
    H, big = 1, 1e30
    x, h, W = np.array([[big], [-big]], np.float32), np.zeros((2, H), np.float32), np.ones((2, 4), np.float32)
    c, b = np.full((2, H), 3, np.float32), np.zeros(4, np.float32)
    h_new, c_new = lstm_cell(x, h, c, W, b)
    np.testing.assert_allclose(c_new, [[3 + 1], [0]])
    np.testing.assert_allclose(h_new, [[math.tanh(4)], [0]], rtol=1e-6)
    d_x, _, d_c, d_W, d_b = lstm_cell_vjp(np.ones_like(h), np.ones_like(h), x, h, c, W, b)
    np.testing.assert_array_equal(d_x, 0)
    np.testing.assert_array_equal(d_W, 0)
    np.testing.assert_array_equal(d_b, 0)
    np.testing.assert_allclose(d_c, [[1 + 1 / math.cosh(4) ** 2], [0]], rtol=1e-5)


def test_a_closed_gate_keeps_its_small_value():
    zero = np.zeros((1, 1), np.float32)
    b = np.array([-60, -60, 0, 0], np.float32)
    _, c_new = lstm_cell(zero, zero, np.ones((1, 1), np.float32), np.zeros((2, 4), np.float32), b)
    assert c_new[0, 0] == pytest.approx(math.exp(-60), rel=1e-5, abs=0)


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
def test_a_poisoned_row_leaves_the_others_alone(normal, poison):
    rng = np.random.default_rng(0)
    x, h, c, W, b = cell_inputs(rng, normal, 5, 2, 3)
    cotangents = normal(rng, 5, 3), normal(rng, 5, 3)
    bad, rest = np.array(x), [0, 1, 3, 4]
    bad[2, 0] = poison
    with np.errstate(invalid="ignore"):
        results = zip(lstm_cell(x, h, c, W, b), lstm_cell(bad, h, c, W, b), strict=True)
    for clean, poisoned in results:
        np.testing.assert_allclose(poisoned[rest], clean[rest], rtol=1e-13)
        assert np.isfinite(poisoned[2]).all() == np.isinf(poison)
    clean = lstm_cell_vjp(*cotangents, x, h, c, W, b)
    with np.errstate(invalid="ignore"):
        poisoned = lstm_cell_vjp(*cotangents, bad, h, c, W, b)
    for k in range(3):
        np.testing.assert_allclose(poisoned[k][rest], clean[k][rest], rtol=1e-12)
    assert np.isnan(poisoned[3][0]).any()


def test_float32_stays_float32_near_float64(normal):
    inputs = vjp_inputs(np.random.default_rng(1), normal, 9, 2, 20, np.float32)
    wide = [array.astype(np.float64) for array in inputs]
    seconds = [like(np.random.default_rng(2), normal, pair[2:]) for pair in (inputs, wide)]
    for function, narrow_inputs, wide_inputs in [
        (lstm_cell, inputs[2:], wide[2:]),
        (lstm_cell_vjp, inputs, wide),
        (lstm_cell_vjp_vjp, seconds[0] + inputs, [*(s.astype(np.float64) for s in seconds[0]), *wide]),
    ]:
        for narrow, exact in zip(function(*narrow_inputs), function(*wide_inputs), strict=True):
            assert narrow.dtype == np.float32
            np.testing.assert_allclose(narrow, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))


def test_strides_are_free(normal):
    rng = np.random.default_rng(3)
    inputs = [*like(rng, normal, cell_inputs(rng, normal, 4, 2, 3)), *vjp_inputs(rng, normal, 4, 2, 3)]
    strided = [np.repeat(array, 2, axis=0)[::2] if array.ndim == 1 else np.array(array, order="F") for array in inputs]
    for expected, found in zip(lstm_cell_vjp_vjp(*inputs), lstm_cell_vjp_vjp(*strided), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("position", "array", "error", "message"),
    [
        (0, np.zeros((4, 5)), ValueError, r"lstm_cell: W has shape \(5, 12\), expected \(d\+H, 4H\) = \(8, 12\)"),
        (1, np.zeros((4, 5)), ValueError, r"c has shape \(4, 3\), expected \(n, H\) = \(4, 5\)"),
        (2, np.zeros((1, 3)), ValueError, "c has shape"),
        (3, np.zeros((5, 11)), ValueError, "W has shape"),
        (4, np.zeros(13), ValueError, "b has shape"),
        (4, np.zeros(12, np.float32), TypeError, "b is float32 but x is float64"),
    ],
)
def test_a_cell_of_wrong_shapes_is_refused(position, array, error, message):
    inputs = [np.zeros(shape) for shape in [(4, 2), (4, 3), (4, 3), (5, 12), (12,)]]
    inputs[position] = array
    with pytest.raises(error, match=message):
        lstm_cell(*inputs)


@pytest.mark.parametrize("position", range(7))
def test_wrong_cotangents_are_refused(position):
    shapes = [(4, 2), (4, 3), (4, 3), (5, 12), (12,), (4, 3), (4, 3), (4, 2), (4, 3), (4, 3), (5, 12), (12,)]
    inputs = [np.zeros(shape) for shape in shapes]
    inputs[position] = np.zeros((1, *shapes[position][1:]))
    with pytest.raises(ValueError, match=r"lstm_cell_vjp.* has shape"):
        lstm_cell_vjp_vjp(*inputs)
