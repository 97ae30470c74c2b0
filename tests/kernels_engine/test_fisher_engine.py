"""kernels.fisher: sums of squared per-sample gradients, each taken by the engine; and the Hessian where they must meet it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_engine.compare import DTYPES, assert_close, normals

import tinymeta as tm
from tinymeta import nets, ops, trees
from tinymeta.kernels import fisher

seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 4)
many = st.integers(0, 4)


def summed_squares(log_likelihood, layer, samples):
    """Σ over samples of (∂ log_likelihood(W, b, sample) / ∂ W and b)², one gradient each."""
    total = tuple(map(np.zeros_like, layer))
    for sample in samples:
        gradient = tm.grad(lambda layer, sample=sample: log_likelihood(*layer, sample))(layer)
        total = tuple(t + g * g for t, g in zip(total, gradient, strict=True))
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=many, sizes=st.tuples(few, few))
def test_linear(dtype, seed, n, sizes):
    i, o = sizes
    a, d, *layer = normals(np.random.default_rng(seed), (n, i), (n, o), (i, o), (o,), dtype=dtype)
    expected = summed_squares(lambda w, b, s: ops.sum(d[s] * (a[s] @ w + b)), layer, range(n))
    assert_close(fisher.linear(a, d), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=many, columns=many, sizes=st.tuples(few, few))
def test_linear_exact(dtype, seed, n, columns, sizes):
    i, o = sizes
    a, s, *layer = normals(np.random.default_rng(seed), (n, i), (columns, n, o), (i, o), (o,), dtype=dtype)
    pairs = list(np.ndindex(columns, n))
    expected = summed_squares(lambda w, b, at: ops.sum(s[at] * (a[at[1]] @ w + b)), layer, pairs)
    assert_close(fisher.linear_exact(a, s), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=many, times=few, sizes=st.tuples(few, few))
def test_linear_time(dtype, seed, n, times, sizes):
    i, o = sizes
    a, d, *layer = normals(np.random.default_rng(seed), (n, times, i), (n, times, o), (i, o), (o,), dtype=dtype)
    expected = summed_squares(lambda w, b, s: ops.sum(d[s] * (a[s] @ w + b)), layer, range(n))
    assert_close(fisher.linear_time(a, d), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=many, channels=st.tuples(few, few), stride=st.integers(1, 2))
def test_conv(dtype, seed, n, channels, stride):
    c, o = channels
    x, w, b = normals(np.random.default_rng(seed), (n, c, 5, 6), (o, c, 3, 2), (o,), dtype=dtype)
    height, width = 2 // stride + 1, 4 // stride + 1
    (d,) = normals(np.random.default_rng(seed + 1), (n, o, height, width), dtype=dtype)

    def log_likelihood(w, b, s):
        return ops.sum(d[s] * (ops.conv2d(x[s][None], w, stride)[0] + b[:, None, None]))

    f_w, f_b = summed_squares(log_likelihood, (w, b), range(n))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(2, 3))[:, :, ::stride, ::stride]
    patches = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, c * 6, height * width)
    assert_close(fisher.conv(patches, d.reshape(n, o, height * width)), (f_w.reshape(o, c * 6), f_b))


# ---- the output: softmax and log-likelihood ----


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, n=many, classes=few, scale=st.sampled_from([0.1, 1.0, 5.0]))
def test_scores_are_the_gradient_and_the_hessian_of_cross_entropy(dtype, seed, n, classes, scale):
    rng = np.random.default_rng(seed)
    (logits,) = normals(rng, (n, classes), dtype=dtype, scale=scale)
    labels = rng.integers(0, classes, n)

    def cross_entropy(logits):
        return ops.sum(ops.softmax_cross_entropy(logits, labels))

    assert_close(fisher.label_scores(logits, labels), -tm.grad(cross_entropy)(logits))
    for columns in (fisher.scores(logits), fisher.scores_reduced(logits)):
        for s in range(n):
            own = logits[s]
            hessian = tm.hessian(lambda z, s=s: ops.softmax_cross_entropy(z, labels[s]))(own)
            assert_close(columns[:, s].T @ columns[:, s], hessian)


# ---- a whole network ----


def network(seed, n, dtype=np.float64):
    """(rng, params, x): sizes 3-4-4-3, random biases keep units away from the kink."""
    rng = np.random.default_rng(seed)
    params = tuple(
        nets.Layer(w, *normals(rng, b.shape, dtype=dtype)) for w, b in nets.init_mlp(rng, (3, 4, 4, 3), dtype=dtype)
    )
    return rng, params, normals(rng, (n, 3), dtype=dtype)[0]


def score(params, x, label, activation):
    """d log p(label | x) / d params of one sample."""
    label = np.asarray(label)
    return tm.grad(lambda params: -ops.softmax_cross_entropy(nets.mlp(params, x, getattr(ops, activation)), label))(
        params
    )


def weighted_mean_of_squares(params, n, scores):
    """Σ weight score² / n over the pairs (weight, score); a list of (F_W, F_b)."""
    total = trees.map(np.zeros_like, params)
    for weight, tree in scores:
        total = trees.map(lambda t, g, weight=weight: t + weight * g * g, total, tree)
    return [tuple(f / n for f in layer) for layer in total]


networks = {"seed": seeds, "n": few, "activation": st.sampled_from(["relu", "tanh"])}


@given(**networks)
def test_the_exact_fisher_is_the_expected_squared_score(seed, n, activation):
    _, params, x = network(seed, n)
    p = np.exp(ops.log_softmax(nets.mlp(params, x, getattr(ops, activation))))
    scores = [(p[s, v], score(params, x[s], v, activation)) for s in range(n) for v in range(3)]
    expected = weighted_mean_of_squares(params, n, scores)
    assert_close(fisher.mlp_fisher(params, x, activation=activation), expected)


@given(**networks)
def test_the_empirical_and_sampled_fisher_are_squared_scores_of_their_labels(seed, n, activation):
    rng, params, x = network(seed, n)
    uniforms, true = rng.random(n), rng.integers(0, 3, n)
    drawn = fisher.sample_labels(nets.mlp(params, x, getattr(ops, activation)), uniforms)
    for kind, labels in (("empirical", true), ("sampled", drawn)):
        found = fisher.mlp_fisher(params, x, true, activation, kind, uniforms)
        scores = [(1.0, score(params, x[s], labels[s], activation)) for s in range(n)]
        assert_close(found, weighted_mean_of_squares(params, n, scores))


@given(**networks, batch_size=st.integers(1, 5))
def test_the_batched_fisher_squares_the_gradient_of_each_batch(seed, n, activation, batch_size):
    rng, params, x = network(seed, n)
    labels = rng.integers(0, 3, n)

    def batch_gradient(start):
        chosen = slice(start, start + batch_size)
        net = lambda params: nets.mlp(params, x[chosen], getattr(ops, activation))
        return tm.grad(lambda params: -ops.sum(ops.softmax_cross_entropy(net(params), labels[chosen])))(params)

    scores = [(1.0, batch_gradient(start)) for start in range(0, n, batch_size)]
    found = fisher.mlp_fisher(params, x, labels, activation, "batched", batch_size=batch_size)
    assert_close(found, weighted_mean_of_squares(params, n, scores))


@given(seed=seeds, n=few)
def test_the_exact_fisher_of_a_relu_net_is_the_diagonal_of_the_hessian(seed, n):
    """Second order: whatever the labels, since a ReLU net is linear in each weight alone."""
    rng, params, x = network(seed, n)
    labels = rng.integers(0, 3, n)

    def loss(params):
        return ops.mean(ops.softmax_cross_entropy(nets.mlp(params, x), labels))

    def diagonal(k, field):
        def at(w):
            layer = params[k]._replace(**{field: w})
            return loss((*params[:k], layer, *params[k + 1 :]))

        w = getattr(params[k], field)
        return np.diagonal(tm.hessian(at)(w).reshape(w.size, w.size)).reshape(w.shape)

    expected = [(diagonal(k, "w"), diagonal(k, "b")) for k in range(len(params))]
    assert_close(fisher.mlp_fisher(params, x), expected)


def test_float32_stays_float32_near_float64():
    _, params, x = network(0, 3, np.float32)
    found = fisher.mlp_fisher(params, x)
    wide = fisher.mlp_fisher([tuple(a.astype(np.float64) for a in layer) for layer in params], x.astype(np.float64))
    assert_close(found, [tuple(f.astype(np.float32) for f in layer) for layer in wide])
