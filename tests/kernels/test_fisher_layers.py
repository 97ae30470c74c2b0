"""tinymeta.kernels.fisher, its parts: layer sums against per-sample loops, and the softmax's scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.kernels.fisher import (
    conv,
    label_scores,
    linear,
    linear_exact,
    linear_time,
    sample_labels,
    scores,
    scores_reduced,
)

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)
size = st.integers(0, 4)


def assert_same(found, expected, rtol=1e-11, atol=1e-13):
    for a, b in zip(found, expected, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# ---- layers ----


@quick
@given(seed=seeds, V=size, N=size, I=size, O=size)
def test_linear_kinds_are_sums_of_squared_outer_products(normal, seed, V, N, I, O):
    rng = np.random.default_rng(seed)
    A, S = normal(rng, N, I), normal(rng, V, N, O)
    F_W, F_b = np.zeros((I, O)), np.zeros(O)
    for v in range(V):
        for n in range(N):
            F_W += np.outer(A[n], S[v, n]) ** 2
            F_b += S[v, n] ** 2
    assert_same(linear_exact(A, S), (F_W, F_b))
    separate = [linear(A, D) for D in S]
    assert_same(
        (sum((W for W, _ in separate), np.zeros((I, O))), sum((b for _, b in separate), np.zeros(O))), (F_W, F_b)
    )


@quick
@given(seed=seeds, N=size, T=size, I=size, O=size)
def test_time_and_positions_are_summed_inside_the_square(normal, seed, N, T, I, O):
    rng = np.random.default_rng(seed)
    A, D = normal(rng, N, T, I), normal(rng, N, T, O)
    F_W, F_b = np.zeros((I, O)), np.zeros(O)
    for n in range(N):
        F_W += sum((np.outer(A[n, t], D[n, t]) for t in range(T)), np.zeros((I, O))) ** 2
        F_b += sum((D[n, t] for t in range(T)), np.zeros(O)) ** 2
    assert_same(linear_time(A, D), (F_W, F_b))
    assert_same(conv(A.swapaxes(1, 2), D.swapaxes(1, 2)), (F_W.T, F_b))


def test_conv_is_the_squared_gradient_of_a_convolution(normal):
    rng = np.random.default_rng(0)
    x, D = normal(rng, 3, 2, 5, 6), normal(rng, 3, 4, 4, 4)
    patches = np.lib.stride_tricks.sliding_window_view(x, (2, 3), axis=(2, 3))
    U = patches.transpose(0, 1, 4, 5, 2, 3).reshape(3, 2 * 2 * 3, 16)
    F_W, F_b = conv(U, D.reshape(3, 4, 16))
    for o, channel, i, j in np.ndindex(4, 2, 2, 3):
        gradients = [np.sum(D[n, o] * x[n, channel, i : i + 4, j : j + 4]) for n in range(3)]
        assert F_W.reshape(4, 2, 2, 3)[o, channel, i, j] == pytest.approx(sum(g * g for g in gradients))
    np.testing.assert_allclose(F_b, (D.sum(axis=(2, 3)) ** 2).sum(axis=0))
    without_cross_terms = np.einsum("nol,nkl->ok", D.reshape(3, 4, 16) ** 2, U**2)
    assert np.abs(F_W / without_cross_terms - 1).max() > 0.2


@quick
@given(seed=seeds, N=size, I=size, O=size)
def test_the_trace_is_the_ghost_norm(normal, seed, N, I, O):
    rng = np.random.default_rng(seed)
    A, D = normal(rng, N, I), normal(rng, N, O)
    F_W, _ = linear(A, D)
    assert F_W.sum() == pytest.approx(sum((a @ a) * (d @ d) for a, d in zip(A, D, strict=True)), rel=1e-11)
    T_A, T_D = normal(rng, N, 3, I), normal(rng, N, 3, O)
    gram = sum(np.sum((a @ a.T) * (d @ d.T)) for a, d in zip(T_A, T_D, strict=True))
    assert linear_time(T_A, T_D)[0].sum() == pytest.approx(gram, rel=1e-11)


@quick
@given(
    seed=seeds, N=st.integers(0, 6), cut=st.integers(0, 6), layer=st.sampled_from(["linear", "exact", "time", "conv"])
)
def test_layer_sums_add_over_any_split_of_the_samples_in_any_order(normal, seed, N, cut, layer):
    rng = np.random.default_rng(seed)
    shapes = {"linear": ((3,), (2,)), "exact": ((3,), (2,)), "time": ((4, 3), (4, 2)), "conv": ((3, 4), (2, 4))}[layer]
    A, D = (normal(rng, N, *shape) for shape in shapes)
    function = {"linear": linear, "exact": lambda A, D: linear_exact(A, D[None]), "time": linear_time, "conv": conv}[
        layer
    ]
    order = rng.permutation(N)
    first, second = order[:cut], order[cut:]
    parts = zip(function(A[first], D[first]), function(A[second], D[second]), strict=True)
    assert_same([a + b for a, b in parts], function(A, D))


def test_layers_keep_float32_near_float64_with_free_strides(normal):
    rng = np.random.default_rng(1)
    A, D = normal(rng, 6, 5, 8, dtype=np.float32)[:, ::-1, ::2], normal(rng, 6, 3, 5, dtype=np.float32).swapaxes(1, 2)
    calls = [
        (linear, (A[:, 0], D[:, 0])),
        (linear_exact, (A[:, 0], D.swapaxes(0, 1))),
        (linear_time, (A, D)),
        (conv, (A.swapaxes(1, 2), D.swapaxes(1, 2))),
    ]
    for function, arrays in calls:
        narrow, exact = function(*arrays), function(*(array.astype(np.float64) for array in arrays))
        assert {F.dtype for F in narrow} == {np.dtype(np.float32)}
        assert_same(narrow, exact, rtol=1e-5, atol=1e-5)


def test_squares_obey_the_dtype_at_extremes():
    A, D = np.array([[1e-30, 1.0, 1e30]], np.float32), np.array([[0.5]], np.float32)
    with np.errstate(over="ignore"):
        F_W, F_b = linear(A, D)
    np.testing.assert_array_equal(F_W, np.float32([[0], [0.25], [np.inf]]))
    np.testing.assert_array_equal(F_b, np.float32([0.25]))
    with np.errstate(invalid="ignore"):
        poisoned, _ = linear(np.array([[np.nan, 1.0, np.inf]]), np.array([[2.0, 0.0]]))
    np.testing.assert_array_equal(poisoned, [[np.nan, np.nan], [4, 0], [np.inf, np.nan]])


# ---- the output ----


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@quick
@given(seed=seeds, N=size, C=st.integers(1, 5))
def test_both_score_columns_factor_the_covariance_of_the_softmax(normal, seed, N, C):
    logits = normal(np.random.default_rng(seed), N, C, scale=3.0)
    p = softmax(logits)
    covariance = p[:, :, None] * (np.eye(C) - p[:, None, :])
    full, reduced = scores(logits), scores_reduced(logits)
    assert full.shape == (C, N, C)
    assert reduced.shape == (C - 1, N, C)
    for S in (full, reduced):
        np.testing.assert_allclose(np.einsum("vna,vnb->nab", S, S), covariance, rtol=1e-12, atol=1e-15)


@quick
@given(seed=seeds, N=size, C=st.integers(1, 5), shift=st.floats(-50, 50))
def test_scores_ignore_a_shift_of_the_logits_and_follow_the_classes(normal, seed, N, C, shift):
    rng = np.random.default_rng(seed)
    logits, order = normal(rng, N, C), rng.permutation(C)
    np.testing.assert_allclose(scores(logits + shift), scores(logits), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(scores(logits[:, order]), scores(logits)[order][:, :, order], rtol=1e-10, atol=1e-13)


@quick
@given(seed=seeds, N=size, C=st.integers(1, 5))
def test_label_scores_are_the_gradient_of_the_log_likelihood(normal, check_vjp, seed, N, C):
    rng = np.random.default_rng(seed)
    labels = rng.integers(C, size=N)
    check_vjp(
        lambda z: (np.log(softmax(z))[np.arange(N), labels],),
        lambda u, z: (u[:, None] * label_scores(z, labels),),
        [normal(rng, N, C)],
        rng,
    )


@pytest.mark.parametrize(("dtype", "gaps"), [(np.float32, [1, 20, 60, 80]), (np.float64, [1, 30, 300, 690])])
def test_a_confident_softmax_keeps_its_small_scores_and_variance(dtype, gaps):
    """Two classes: 1 - p = e^-z / (1 + e^-z), which is 0 when computed as such, and p (1 - p) = (1 - p) / (1 + e^-z)."""
    right = [math.exp(-gap) / (1 + math.exp(-gap)) for gap in gaps]
    D = label_scores(np.array([[gap, 0] for gap in gaps], dtype), np.zeros(len(gaps), int))
    np.testing.assert_allclose(D, np.transpose([right, np.negative(right)]), rtol=20 * np.finfo(dtype).eps)
    variance = [math.exp(-gap) / (1 + math.exp(-gap)) ** 2 for gap in gaps]
    for signed in ([gap, 0] for gap in gaps), ([0, gap] for gap in gaps):
        logits = np.array(list(signed), dtype)
        for S in (scores(logits), scores_reduced(logits)):
            np.testing.assert_allclose((S * S).sum(axis=0), np.transpose([variance] * 2), rtol=20 * np.finfo(dtype).eps)


def test_scores_at_extremes_are_as_documented():
    logits = np.array([[1e30, 0.0, -1e30], [1e-30, 0.0, -np.inf], [np.nan, 0.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    for S in (scores(logits), scores_reduced(logits)):
        np.testing.assert_array_equal(S[:, 0], 0)
        np.testing.assert_allclose((S[:, 1] ** 2).sum(axis=0), [0.25, 0.25, 0], rtol=1e-6)
        assert np.isnan(S[:, 2]).any(axis=0).all()
        assert np.isfinite(S[:, 3]).all()
    with np.errstate(invalid="ignore"):
        assert np.isnan(scores(np.array([[np.inf, 0.0]]))).all()


@quick
@given(seed=seeds, C=st.integers(1, 5))
def test_evenly_spread_uniforms_draw_each_class_in_proportion(normal, seed, C):
    logits = normal(np.random.default_rng(seed), 1, C, scale=2.0)
    K = 1000
    labels = sample_labels(np.repeat(logits, K, axis=0), (np.arange(K) + 0.5) / K)
    assert np.abs(np.bincount(labels, minlength=C) / K - softmax(logits)[0]).max() <= 1.01 / K


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_classes_of_probability_zero_are_never_drawn(dtype):
    logits = np.array([[-np.inf, 0.3, -np.inf, 0.1, 0.2, -np.inf]] * 2, dtype)
    ends = np.array([0.0, np.nextafter(1.0, 0.0)])
    np.testing.assert_array_equal(sample_labels(logits, ends), [1, 4])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z, y, u: linear(z, z[:1]), ValueError, r"linear: D has shape \(1, 3\), expected \(N, O\) = \(2, 3\)"),
        (lambda z, y, u: linear_exact(z, z), ValueError, r"S has shape \(2, 3\), expected \(V, N, O\)"),
        (lambda z, y, u: linear_time(z[None], z[None, :1]), ValueError, r"expected \(N, T, O\) = \(1, 2, 3\)"),
        (lambda z, y, u: conv(z[None], z[None, :, :1]), ValueError, r"expected \(N, O, L\) = \(1, 2, 3\)"),
        (lambda z, y, u: linear(z, z.astype(np.float32)), TypeError, "D is float32 but A is float64"),
        (lambda z, y, u: scores(z[0]), ValueError, r"logits has shape \(3,\), expected \(N, C\)"),
        (lambda z, y, u: scores_reduced(z[:, :0]), ValueError, "expected at least one class"),
        (lambda z, y, u: label_scores(z, y + 1.0), TypeError, "labels is float64, expected integers"),
        (lambda z, y, u: label_scores(z, [0, 1]), TypeError, "labels is list"),
        (lambda z, y, u: label_scores(z, y + 2), ValueError, r"expected \(2,\) values in 0\.\.2"),
        (lambda z, y, u: label_scores(z, y[:1]), ValueError, r"labels has shape \(1,\)"),
        (lambda z, y, u: sample_labels(z, u + 1), ValueError, r"expected \(2,\) values in \[0, 1\)"),
        (lambda z, y, u: sample_labels(z, y), TypeError, "uniforms is int64, expected floats"),
    ],
)
def test_wrong_arguments_give_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3)), np.array([0, 1]), np.array([0.0, 0.5]))
