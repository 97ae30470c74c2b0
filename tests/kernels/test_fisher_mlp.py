"""tinymeta.kernels.fisher.mlp_fisher: every kind against a per-sample loop, and the laws of the Fisher information."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinymeta.kernels.fisher import linear_exact, mlp_fisher, scores, scores_reduced

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
networks = st.lists(st.integers(1, 4), min_size=2, max_size=4)  # layer sizes, inputs to classes
samples = st.integers(0, 5)
activations = st.sampled_from(["relu", "tanh"])
kinds = st.sampled_from(["exact", "sampled", "empirical", "batched"])


def make(seed, normal, sizes, N, dtype=np.float64):
    """(params, x, labels, uniforms)"""
    rng = np.random.default_rng(seed)
    params = [(normal(rng, i, o, dtype=dtype), normal(rng, o, dtype=dtype, scale=0.5)) for i, o in pairwise(sizes)]
    return params, normal(rng, N, sizes[0], dtype=dtype), rng.integers(sizes[-1], size=N), rng.random(N)


def forward(params, x, activation):
    """(inputs of each layer, pre-activations of each layer); the last are the logits."""
    inputs, pre = [], []
    for k, (W, b) in enumerate(params):
        inputs.append(x if k == 0 else np.maximum(x, 0) if activation == "relu" else np.tanh(x))
        pre.append(inputs[k] @ W + b)
        x = pre[k]
    return inputs, pre


def softmax(z):
    return np.exp(z - z.max(axis=-1, keepdims=True)) / np.exp(z - z.max(axis=-1, keepdims=True)).sum(-1, keepdims=True)


def score(params, x, label, activation):
    """The gradient of log p(label | x) for one sample x (I,), per layer (d_W, d_b)."""
    inputs, pre = forward(params, x, activation)
    delta = np.eye(len(pre[-1]))[label] - softmax(pre[-1])
    gradients = []
    for k in reversed(range(len(params))):
        gradients.append((np.outer(inputs[k], delta), delta))
        slope = (pre[k - 1] > 0) if activation == "relu" else 1 - np.tanh(pre[k - 1]) ** 2
        delta = (params[k][0] @ delta) * slope if k else None
    return gradients[::-1]


def mlp_fisher_loop(params, x, labels, activation, kind, uniforms, batch_size):
    """The definitions (1) to (4), one sample and one label at a time."""
    total = [(np.zeros_like(W), np.zeros_like(b)) for W, b in params]
    batch = [(np.zeros_like(W), np.zeros_like(b)) for W, b in params]
    for n in range(len(x)):
        p = softmax(forward(params, x[n], activation)[1][-1])
        drawn = min(int(np.searchsorted(np.cumsum(p), uniforms[n], side="right")), len(p) - 1)
        weighted = {"exact": enumerate(p), "sampled": [(drawn, 1.0)]}.get(kind, [(labels[n], 1.0)])
        for label, weight in weighted:
            gradient = score(params, x[n], label, activation)
            if kind == "batched":
                batch = plus(batch, gradient)
            else:
                total = plus(total, times(gradient, gradient, weight))
        if kind == "batched" and ((n + 1) % batch_size == 0 or n + 1 == len(x)):
            total, batch = plus(total, times(batch, batch, 1.0)), times(batch, batch, 0.0)
    return [(W / max(len(x), 1), b / max(len(x), 1)) for W, b in total]


def plus(first, second):
    return [(a + c, b + d) for (a, b), (c, d) in zip(first, second, strict=True)]


def times(first, second, weight):
    return [(weight * a * c, weight * b * d) for (a, b), (c, d) in zip(first, second, strict=True)]


def flat(fisher):
    return np.concatenate([part.ravel() for layer in fisher for part in layer])


def assert_same(found, expected, rtol=1e-10):
    assert [(W.shape, b.shape) for W, b in found] == [(W.shape, b.shape) for W, b in expected]
    np.testing.assert_allclose(flat(found), flat(expected), rtol=rtol, atol=1e-14)


@quick
@given(seed=seeds, sizes=networks, N=samples, activation=activations, kind=kinds, batch_size=st.integers(1, 4))
def test_every_kind_is_its_loop_over_samples(normal, seed, sizes, N, activation, kind, batch_size):
    params, x, labels, uniforms = make(seed, normal, sizes, N)
    found = mlp_fisher(params, x, labels, activation, kind, uniforms, batch_size)
    assert_same(found, mlp_fisher_loop(params, x, labels, activation, kind, uniforms, batch_size))
    assert (flat(found) >= 0).all()


@quick
@given(seed=seeds, sizes=networks, N=samples, cut=samples, kind=st.sampled_from(["exact", "sampled", "empirical"]))
def test_estimates_add_over_any_split_so_the_batch_size_does_not_matter(normal, seed, sizes, N, cut, kind):
    params, x, labels, uniforms = make(seed, normal, sizes, N)
    order = np.random.default_rng(seed).permutation(N)
    parts = [
        len(part) * flat(mlp_fisher(params, x[part], labels[part], "tanh", kind, uniforms[part]))
        for part in (order[:cut], order[cut:])
    ]
    whole = N * flat(mlp_fisher(params, x, labels, "tanh", kind, uniforms))
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-10, atol=1e-13)


def test_the_batched_kind_depends_on_the_batch_and_is_empirical_at_batches_of_one(normal):
    params, x, labels, _ = make(0, normal, [3, 4, 3], 12)
    by_size = {size: mlp_fisher(params, x, labels, kind="batched", batch_size=size) for size in (1, 3, 12)}
    assert_same(by_size[1], mlp_fisher(params, x, labels, kind="empirical"))
    assert np.abs(flat(by_size[3]) - flat(by_size[12])).max() > 0.1 * flat(by_size[12]).max()
    mean_gradient = sum(flat(score(params, x[n], labels[n], "relu")) for n in range(12)) / 12
    np.testing.assert_allclose(flat(by_size[12]), 12 * mean_gradient**2, rtol=1e-10)


@quick
@given(seed=seeds, sizes=networks, activation=activations)
def test_exact_is_the_expectation_of_empirical_over_the_models_labels(normal, seed, sizes, activation):
    params, x, _, _ = make(seed, normal, sizes, 3)
    p = softmax(forward(params, x, activation)[1][-1])
    expected = np.mean(
        [
            sum(
                p[n, c] * flat(mlp_fisher(params, x[n : n + 1], np.array([c]), activation, "empirical"))
                for c in range(sizes[-1])
            )
            for n in range(3)
        ],
        axis=0,
    )
    np.testing.assert_allclose(flat(mlp_fisher(params, x, activation=activation)), expected, rtol=1e-10, atol=1e-14)


def test_draws_scatter_around_exact_by_their_own_standard_error(normal):
    (params, x, _, _), K, C = make(1, normal, [3, 4, 3], 1), 4000, 3
    p = softmax(forward(params, x, "relu")[1][-1])[0]
    squares = np.array([flat(mlp_fisher(params, x, np.array([c]), kind="empirical")) for c in range(C)])
    exact = flat(mlp_fisher(params, x))
    deviation = np.sqrt(np.maximum(p @ squares**2 - exact**2, 0) / K)
    uniforms = np.random.default_rng(2).random(K)
    sampled = flat(mlp_fisher(params, np.repeat(x, K, axis=0), kind="sampled", uniforms=uniforms))
    assert (np.abs(sampled - exact) <= 5 * deviation + 1e-12).all()
    assert np.abs(sampled - exact).max() > 1e-6


@quick
@given(seed=seeds, N=samples, C=st.integers(1, 5))
def test_one_column_fewer_gives_the_same_fisher_at_every_depth(normal, seed, N, C):
    params, x, _, _ = make(seed, normal, [3, 4, C], N)
    (A0, A1), (_, logits) = forward(params, x, "relu")
    full, reduced = scores(logits), scores_reduced(logits)
    for layer_input, back in [(A1, lambda S: S), (A0, lambda S: (S @ params[1][0].T) * (A1 > 0))]:
        for a, b in zip(linear_exact(layer_input, back(full)), linear_exact(layer_input, back(reduced)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def mean_nll(params, x, labels, activation):
    z = forward(params, x, activation)[1][-1]
    return -np.mean(np.log(softmax(z))[np.arange(len(x)), labels])


def entries(params):
    return [
        (k, part, index) for k, layer in enumerate(params) for part in (0, 1) for index in np.ndindex(layer[part].shape)
    ]


def moved(params, entry, step):
    k, part, index = entry
    copy = [[W.copy(), b.copy()] for W, b in params]
    copy[k][part][index] += step
    return copy


def hessian_diagonal(params, x, labels, activation, step=1e-4):
    """By second differences of the loss, in the order of flat()."""
    middle = mean_nll(params, x, labels, activation)
    return np.array(
        [
            sum(mean_nll(moved(params, entry, sign * step), x, labels, activation) - middle for sign in (1, -1))
            / step**2
            for entry in entries(params)
        ]
    )


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_for_relu_nets_exact_is_the_diagonal_of_the_hessian_whatever_the_labels(normal, seed):
    params, x, labels, _ = make(seed, normal, [3, 4, 3, 3], 4)
    _, pre = forward(params, x, "relu")
    assume(min(np.abs(z).min() for z in pre[:-1]) > 1e-2)
    np.testing.assert_allclose(
        flat(mlp_fisher(params, x)), hessian_diagonal(params, x, labels, "relu"), atol=2e-6, rtol=1e-5
    )


def test_for_tanh_nets_exact_is_not_the_hessian_but_the_generalized_gauss_newton(normal):
    params, x, labels, _ = make(3, normal, [3, 4, 3], 4)
    exact = flat(mlp_fisher(params, x, activation="tanh"))
    hidden = entries(params[:1])
    assert np.abs(exact - hessian_diagonal(params, x, labels, "tanh"))[: len(hidden)].max() > 1e-2
    logits = forward(params, x, "tanh")[1][-1]
    p = softmax(logits)
    covariance = p[:, :, None] * (np.eye(3) - p[:, None, :])
    for entry, value in zip(entries(params), exact, strict=True):
        ahead, behind = (forward(moved(params, entry, s), x, "tanh")[1][-1] for s in (1e-6, -1e-6))
        J = (ahead - behind) / 2e-6
        assert value == pytest.approx(np.mean(np.einsum("na,nab,nb->n", J, covariance, J)), rel=1e-6, abs=1e-9)


def test_exact_and_sampled_ignore_labels_and_empirical_does_not(normal):
    params, x, labels, uniforms = make(4, normal, [3, 4, 3], 6)
    other = (labels + 1) % 3
    for kind in ("exact", "sampled"):
        both = [mlp_fisher(params, x, y, kind=kind, uniforms=uniforms) for y in (labels, other)]
        np.testing.assert_array_equal(flat(both[0]), flat(both[1]))
    both = [mlp_fisher(params, x, y, kind="empirical") for y in (labels, other)]
    assert np.abs(flat(both[0]) - flat(both[1])).max() > 1e-3


@quick
@given(seed=seeds, activation=activations)
def test_permuting_pixels_hidden_units_and_classes_permutes_the_fisher(normal, seed, activation):
    params, x, _, _ = make(seed, normal, [4, 3, 3], 4)
    (W0, b0), (W1, b1) = params
    (F0, G0), (F1, G1) = mlp_fisher(params, x, activation=activation)
    rng = np.random.default_rng(seed)
    pixel, unit, label = rng.permutation(4), rng.permutation(3), rng.permutation(3)
    permuted = [(W0[pixel][:, unit], b0[unit]), (W1[unit][:, label], b1[label])]
    found = mlp_fisher(permuted, x[:, pixel], activation=activation)
    assert_same(found, [(F0[pixel][:, unit], G0[unit]), (F1[unit][:, label], G1[label])])


def test_shifted_logits_dead_units_zero_pixels_and_scaled_inputs(normal):
    params, x, _, _ = make(5, normal, [4, 3, 3], 5)
    (W0, b0), (W1, b1) = params
    assert_same(mlp_fisher([(W0, b0), (W1, b1 + 7.0)], x), mlp_fisher(params, x))

    dead_b0 = np.array(b0)
    dead_b0[1] = -1e3
    (F0, G0), (F1, _) = mlp_fisher([(W0, dead_b0), (W1, b1)], x)
    assert not F0[:, 1].any()
    assert G0[1] == 0
    assert not F1[1].any()

    masked = np.array(x)
    masked[:, 2] = 0
    assert not mlp_fisher(params, masked)[0][0][2].any()

    scaled_x, scaled_W = np.array(x), np.array(W0)
    scaled_x[:, 3] *= 4
    scaled_W[3] /= 4
    (F_W, F_b), *_ = mlp_fisher([(scaled_W, b0), (W1, b1)], scaled_x)
    (plain_W, plain_b), *_ = mlp_fisher(params, x)
    np.testing.assert_allclose(F_W, plain_W * np.array([[1], [1], [1], [16]]), rtol=1e-10)
    np.testing.assert_allclose(F_b, plain_b, rtol=1e-10)


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
def test_float32_stays_float32_near_float64_with_free_strides(normal, kind):
    params, x, labels, uniforms = make(6, normal, [20, 16, 10], 33, np.float32)
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    wide = [(W.astype(np.float64), b.astype(np.float64)) for W, b in params]
    narrow = mlp_fisher([(np.asfortranarray(W), b) for W, b in params], strided, labels, "relu", kind, uniforms, 8)
    exact = mlp_fisher(wide, x.astype(np.float64), labels, "relu", kind, uniforms, 8)
    for a, b in zip(narrow, exact, strict=True):
        for F32, F64 in zip(a, b, strict=True):
            assert F32.dtype == np.float32
            np.testing.assert_allclose(F32, F64, rtol=0, atol=1e-4 * F64.max())


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
def test_no_samples_give_zeros(normal, kind):
    params, x, labels, uniforms = make(7, normal, [3, 2, 4], 0)
    fisher = mlp_fisher(params, x, labels, "relu", kind, uniforms, 3)
    assert not flat(fisher).any()
    assert [(W.shape, b.shape) for W, b in fisher] == [((3, 2), (2,)), ((2, 4), (4,))]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kind": "true"}, ValueError, "kind is 'true', expected one of 'exact', 'sampled', 'empirical', 'batched'"),
        ({"activation": "gelu"}, ValueError, "activation is 'gelu', expected one of 'relu', 'tanh'"),
        ({"kind": "empirical"}, TypeError, "labels is NoneType, expected integers"),
        ({"kind": "sampled"}, TypeError, "uniforms is NoneType, expected floats"),
        ({"batch_size": 0}, ValueError, "batch_size is 0, expected 1 or more"),
        ({"x": np.ones((2, 5))}, ValueError, r"layer 0: W has shape \(3, 4\), expected \(I, O\) = \(5, 4\)"),
        ({"x": np.ones((2, 3), np.float32)}, TypeError, "layer 0: W is float64 but x is float32"),
    ],
)
def test_wrong_arguments_give_one_sentence(normal, change, error, message):
    params, x, _, _ = make(8, normal, [3, 4, 2], 2)
    with pytest.raises(error, match=message):
        mlp_fisher(**{"params": params, "x": x, **change})
