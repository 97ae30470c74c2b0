"""tinymeta.kernels.lstm, the optimizer: a step, an unroll, and truncated backpropagation through time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.kernels.lstm import (
    Weights,
    log_and_sign,
    lstm_cell,
    step,
    unroll_backward,
    unroll_forward,
    zero_state,
)

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
hidden_sizes = st.sampled_from([(), (1,), (3,), (2, 2), (3, 1), (1, 2, 3)])
scales = st.sampled_from([None, 2.0])
times = st.integers(0, 4)
coordinates = st.integers(0, 3)


def make_weights(rng, normal, hidden, p, dtype=np.float64):
    widths = [1 if p is None else 2, *hidden]
    layers = [
        (normal(rng, d + H, 4 * H, dtype=dtype, scale=0.5), normal(rng, 4 * H, dtype=dtype))
        for d, H in zip(widths, hidden, strict=False)
    ]
    return Weights(tuple(layers), normal(rng, widths[-1], dtype=dtype), normal(rng, dtype=dtype))


def make_state(rng, normal, hidden, n, dtype=np.float64):
    return tuple((normal(rng, n, H, dtype=dtype), normal(rng, n, H, dtype=dtype)) for H in hidden)


def make_gradients(rng, *shape):
    """On both sides of the seam e^-2 = 0.135, and none so near to it or to 0 that a difference step gets there."""
    return rng.choice([-1, 1], shape) * rng.choice([0.05, 0.5, 1.0, 30.0], shape)


def flat(weights, state=()):
    return [*(array for layer in weights.layers for array in layer), weights.W_out, weights.b_out, *flat_state(state)]


def flat_state(state):
    return [array for layer in state for array in layer]


def unflat(arrays, layers):
    """(weights, state, what is left)"""
    pairs = list(zip(arrays[: 2 * layers : 2], arrays[1 : 2 * layers : 2], strict=True))
    state, rest = arrays[2 * layers + 2 : 4 * layers + 2], arrays[4 * layers + 2 :]
    return Weights(tuple(pairs), *arrays[2 * layers : 2 * layers + 2]), unflat_state(state), rest


def unflat_state(arrays):
    return tuple(zip(arrays[::2], arrays[1::2], strict=True))


def assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def test_the_papers_optimizer_has_5141_weights_or_5061_without_preprocessing(normal):
    for p, count in [(10, 5141), (None, 5061)]:
        weights = make_weights(np.random.default_rng(0), normal, (20, 20), p)
        update, _ = step(weights, zero_state(weights, 3), np.ones(3), p=p)
        assert update.shape == (3,)
        assert sum(array.size for array in flat(weights)) == count


def test_zero_state_is_zero_and_of_the_weights_dtype(normal):
    weights = make_weights(np.random.default_rng(0), normal, (2, 3), 10, np.float32)
    state = zero_state(weights, 4)
    assert [array.shape for array in flat_state(state)] == [(4, 2), (4, 2), (4, 3), (4, 3)]
    assert all(array.dtype == np.float32 and not array.any() for array in flat_state(state))


@quick
@given(seed=seeds, hidden=hidden_sizes, n=coordinates, p=scales)
def test_a_step_is_preprocessing_then_layers_then_scaled_output(normal, seed, hidden, n, p):
    rng = np.random.default_rng(seed)
    weights, state = make_weights(rng, normal, hidden, p), make_state(rng, normal, hidden, n)
    gradient = make_gradients(rng, n)
    update, new_state = step(weights, state, gradient, 0.1, p)
    x = gradient[:, None] if p is None else log_and_sign(gradient, p)
    for (h, c), (W, b), found in zip(state, weights.layers, new_state, strict=True):
        expected = lstm_cell(x, h, c, W, b)
        assert_same(found, expected)
        x = expected[0]
    np.testing.assert_allclose(update, 0.1 * (x @ weights.W_out + weights.b_out), rtol=1e-12)


@quick
@given(seed=seeds, n=st.integers(2, 5))
def test_coordinates_share_weights_and_nothing_else(normal, seed, n):
    rng = np.random.default_rng(seed)
    weights, state = make_weights(rng, normal, (3, 2), 10), make_state(rng, normal, (3, 2), n)
    gradients, order = make_gradients(rng, 3, n), rng.permutation(n)[1:]
    updates, final = unroll_forward(weights, state, gradients)
    some = tuple((h[order], c[order]) for h, c in state)
    updates_of_some, final_of_some = unroll_forward(weights, some, gradients[:, order])
    np.testing.assert_allclose(updates_of_some, updates[:, order], rtol=1e-11, atol=1e-13)
    assert_same(flat_state(final_of_some), [array[order] for array in flat_state(final)], rtol=1e-11, atol=1e-13)


@quick
@given(seed=seeds, hidden=hidden_sizes, n=coordinates, T=times, p=scales)
def test_an_unroll_is_its_steps(normal, seed, hidden, n, T, p):
    rng = np.random.default_rng(seed)
    weights, state = make_weights(rng, normal, hidden, p), make_state(rng, normal, hidden, n)
    gradients = make_gradients(rng, T, n)
    updates, final = unroll_forward(weights, state, gradients, 0.1, p)
    assert updates.shape == (T, n)
    for t in range(T):
        update, state = step(weights, state, gradients[t], 0.1, p)
        np.testing.assert_array_equal(updates[t], update)
    assert_same(flat_state(final), flat_state(state), rtol=0)


@quick
@given(seed=seeds, hidden=hidden_sizes, n=coordinates, T=times, p=scales)
def test_backpropagation_through_time_is_the_transposed_derivative(normal, check_vjp, seed, hidden, n, T, p):
    """Of updates and final state, with respect to weights, first state and gradients."""
    rng, layers = np.random.default_rng(seed), len(hidden)
    weights, state = make_weights(rng, normal, hidden, p), make_state(rng, normal, hidden, n)

    def forward(*arrays):
        weights, state, (gradients,) = unflat(arrays, layers)
        updates, final = unroll_forward(weights, state, gradients, 0.1, p)
        return (updates, *flat_state(final))

    def backward(d_updates, *arrays):
        d_final, inputs = unflat_state(arrays[: 2 * layers]), arrays[2 * layers :]
        weights, state, (gradients,) = unflat(inputs, layers)
        found = unroll_backward(weights, state, gradients, d_updates, d_final, 0.1, p, wrt_gradients=True)
        d_weights, d_state, d_gradients = found
        return (*flat(d_weights, d_state), d_gradients)

    check_vjp(forward, backward, [*flat(weights, state), make_gradients(rng, T, n)], rng)


@quick
@given(seed=seeds, T=st.integers(0, 5), cut=st.integers(0, 5))
def test_two_unrolls_chained_through_the_state_are_one(normal, seed, T, cut):
    rng, cut, hidden, n = np.random.default_rng(seed), min(cut, T), (3, 2), 4
    weights, state = make_weights(rng, normal, hidden, 10), make_state(rng, normal, hidden, n)
    gradients, d_updates, d_final = make_gradients(rng, T, n), normal(rng, T, n), make_state(rng, normal, hidden, n)
    d_weights, d_state, _ = unroll_backward(weights, state, gradients, d_updates, d_final)

    _, middle = unroll_forward(weights, state, gradients[:cut])
    d_second, d_middle, _ = unroll_backward(weights, middle, gradients[cut:], d_updates[cut:], d_final)
    d_first, d_start, _ = unroll_backward(weights, state, gradients[:cut], d_updates[:cut], d_middle)
    sums = [a + b for a, b in zip(flat(d_first), flat(d_second), strict=True)]
    assert_same(sums, flat(d_weights), rtol=1e-10, atol=1e-12)
    assert_same(flat_state(d_start), flat_state(d_state), rtol=1e-12, atol=1e-13)


def test_the_cotangent_of_the_gradients_comes_on_request_only(normal):
    rng = np.random.default_rng(1)
    weights = make_weights(rng, normal, (2,), 10)
    zero = zero_state(weights, 3)
    inputs = weights, zero, make_gradients(rng, 2, 3), np.ones((2, 3)), zero
    without, with_it = unroll_backward(*inputs), unroll_backward(*inputs, wrt_gradients=True)
    assert without[2] is None
    assert with_it[2].shape == (2, 3)
    assert_same(flat(*without[:2]), flat(*with_it[:2]), rtol=0)


def test_float32_stays_float32_near_float64_with_free_strides(normal):
    rng, hidden = np.random.default_rng(2), (20, 20)
    weights = make_weights(rng, normal, hidden, 10, np.float32)
    state = make_state(rng, normal, hidden, 7, np.float32)
    gradients = make_gradients(rng, 7, 5).astype(np.float32).T
    results = []
    for dtype in (np.float32, np.float64):
        cast = [array.astype(dtype) for array in flat(weights, state)]
        w, s, _ = unflat(cast, 2)
        g = gradients.astype(dtype)
        updates, final = unroll_forward(w, s, g, 0.1)
        found = unroll_backward(w, s, g, np.ones_like(updates), final, 0.1, wrt_gradients=True)
        d_weights, d_state, d_gradients = found
        results.append([updates, *flat_state(final), *flat(d_weights, d_state), d_gradients])
    for narrow, exact in zip(*results, strict=True):
        assert narrow.dtype == np.float32
        np.testing.assert_allclose(narrow, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def test_extreme_gradients_behave_as_documented(normal):
    weights = make_weights(np.random.default_rng(3), normal, (4, 3), 10, np.float32)
    gradients = np.array([[0, 1e-30, -1e30, np.inf, -np.inf, np.nan]], np.float32)
    zero = zero_state(weights, 6)
    updates, final = unroll_forward(weights, zero, gradients)
    assert np.isfinite(updates[0, :5]).all()
    assert np.isnan(updates[0, 5])
    assert np.isnan(final[0][0][5]).all()
    with np.errstate(invalid="ignore"):
        found = unroll_backward(weights, zero, gradients, np.ones((1, 6), np.float32), final, wrt_gradients=True)
    d_weights, d_state, d_gradients = found
    assert np.isnan(d_weights.layers[0][0]).any()
    assert np.isfinite(d_gradients[0, :5]).all()
    assert all(np.isfinite(array[:5]).all() for array in flat_state(d_state))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"state": lambda s: s[:1]}, ValueError, "state has 1 layers, expected 2 as weights has; zero_state makes one"),
        ({"state": lambda s: (s[0], (s[1][0][:1], s[1][1]))}, ValueError, r"layer 1: h has shape \(1, 2\), expected"),
        ({"gradients": lambda g: g[0]}, ValueError, r"gradients has shape \(4,\), expected \(T, n\)"),
        ({"gradients": lambda g: g.astype(np.float32)}, TypeError, "h is float64 but gradients is float32"),
        (
            {"weights": lambda w: w._replace(W_out=w.W_out[1:])},
            ValueError,
            r"W_out has shape \(1,\), expected \(H\) = ",
        ),
        ({"weights": lambda w: w._replace(b_out=0.0)}, TypeError, "b_out is of type float, expected an array"),
        ({"p": lambda p: None}, ValueError, r"W has shape .* expected \(d\+H, 4H\)"),
    ],
)
def test_an_unroll_that_does_not_fit_is_refused(normal, change, error, message):
    rng = np.random.default_rng(4)
    weights = make_weights(rng, normal, (3, 2), 10)
    arguments = {"weights": weights, "state": zero_state(weights, 4), "gradients": np.ones((5, 4)), "p": 10}
    changed = {name: change.get(name, lambda value: value)(value) for name, value in arguments.items()}
    with pytest.raises(error, match=message):
        unroll_forward(**changed)


def test_cotangents_that_do_not_fit_are_refused(normal):
    weights = make_weights(np.random.default_rng(5), normal, (3,), 10)
    state = zero_state(weights, 4)
    with pytest.raises(ValueError, match=r"d_updates has shape \(4, 4\), expected \(T, n\) = \(5, 4\)"):
        unroll_backward(weights, state, np.ones((5, 4)), np.ones((4, 4)), state)
    with pytest.raises(ValueError, match=r"layer 0: h has shape \(1, 3\), expected \(n, H\) = \(4, 3\)"):
        unroll_backward(weights, state, np.ones((5, 4)), np.ones((5, 4)), zero_state(weights, 1))
