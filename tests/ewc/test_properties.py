"""The laws of the Fisher information, one test each, over generated networks in float64 (1 to 10, 15 and 16)."""

import numpy as np
import pytest
from ewc.architectures import numbered, places, problems
from ewc.comparing import assert_trees_close, flat
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops
from tinymeta.engine import trees
from tinymeta.ewc import sums
from tinymeta.kernels import fisher as kernels

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["exact", "sampled", "empirical"])
few = settings(max_examples=12)


def fisher_of(p, kind="exact", **options):
    return ewc.fisher_diagonal(p.net, p.params, p.x, p.y, kind, **options)


def scores(p, n):
    """Per label c the gradient of log p(c | x_n), a tree."""
    log_p = lambda params, c: ops.log_softmax(p.net(params, p.x[n : n + 1]))[0, c]
    return [tm.grad(log_p)(p.params, c) for c in range(p.classes)]


def unflat(vector, like):
    ends = np.cumsum([leaf.size for leaf in trees.leaves(like)])[:-1]
    pieces = zip(np.split(vector, ends), trees.leaves(like), strict=True)
    return trees.unflatten(like, [piece.reshape(leaf.shape) for piece, leaf in pieces])


def loss(p, params):
    """The mean cross-entropy."""
    return ops.mean(ops.softmax_cross_entropy(p.net(params, p.x), p.y))


def full_fisher(p):
    """mean_n Σ_c p(c | x_n) g gᵀ, as a matrix."""
    probabilities, found = ops.softmax(p.net(p.params, p.x)), 0.0
    for n, weights in enumerate(probabilities):
        for weight, score in zip(weights, scores(p, n), strict=True):
            found = found + weight * np.outer(flat(score), flat(score)) / len(p.x)
    return found


def hessian(p):
    return tm.hessian(lambda v: loss(p, unflat_tensor(v, p.params)))(flat(p.params))


def unflat_tensor(v, like):
    leaves, start = [], 0
    for leaf in trees.leaves(like):
        leaves.append(ops.reshape(v[start : start + leaf.size], leaf.shape))
        start += leaf.size
    return trees.unflatten(like, leaves)


# ---- 1 to 10: the Fisher diagonal ----


@few
@given(p=problems(), kind=st.sampled_from(["exact", "empirical"]))
def test_1_the_rules_the_per_sample_loop_and_the_generic_fallback_agree(p, kind):
    total = trees.map(np.zeros_like, p.params)
    for n, weights in enumerate(ops.softmax(p.net(p.params, p.x))):
        weights = weights if kind == "exact" else np.eye(len(weights))[p.y[n]]
        for weight, score in zip(weights, scores(p, n), strict=True):
            total = trees.map(lambda t, g: t + weight * g * g / len(p.x), total, score)  # noqa: B023
    found = fisher_of(p, kind)
    assert_trees_close(found, total)
    hidden = p._replace(layers=lambda params, x, act: p.layers(trees.map(lambda w: 1.0 * w, params), x, act))
    assert set(trees.leaves(ewc.fisher_rules(hidden.net, p.params, p.x))) == {"per-sample gradients"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "_warn", lambda *_: None)
        assert_trees_close(found, fisher_of(hidden, kind))


@given(p=problems(samples=6), kind=kinds, cut=st.integers(1, 5), order=seeds)
def test_2_samples_add_up_however_they_are_split_and_ordered(p, kind, cut, order):
    assume(cut < len(p.x))
    rng = np.random.default_rng(7)
    parts = [p._replace(x=p.x[rows], y=p.y[rows]) for rows in (slice(cut), slice(cut, None))]
    one, two = (fisher_of(part, kind, rng=rng) for part in parts)
    joined = trees.map(lambda a, b: (cut * a + (len(p.x) - cut) * b) / len(p.x), one, two)
    whole = fisher_of(p, kind, rng=np.random.default_rng(7))
    assert_trees_close(joined, whole)
    if kind != "sampled":  # whose numbers belong to places
        rows = np.random.default_rng(order).permutation(len(p.x))
        assert_trees_close(fisher_of(p._replace(x=p.x[rows], y=p.y[rows]), kind), whole)


@given(p=problems(samples=6), kind=kinds)
def test_3_the_batch_size_changes_no_bit_but_of_the_batched_kind(p, kind):
    for batch_size in (1, 2, 100):
        trees.map(np.testing.assert_array_equal, fisher_of(p, kind), fisher_of(p, kind, batch_size=batch_size))
    log_p = lambda params, rows: -len(p.y[rows]) * loss(p._replace(x=p.x[rows], y=p.y[rows]), params)
    for batch_size in (2, 4):  # which depends on what is summed before it is squared
        batches = [slice(start, start + batch_size) for start in range(0, len(p.x), batch_size)]
        squares = [trees.map(np.square, tm.grad(log_p)(p.params, rows)) for rows in batches]
        expected = trees.map(lambda *terms: sum(terms) / len(p.x), *squares)
        assert_trees_close(fisher_of(p, "batched", batch_size=batch_size), expected)
    assert_trees_close(fisher_of(p, "batched", batch_size=1), fisher_of(p, "empirical"))


@given(p=problems())
def test_4_exact_is_the_expectation_of_empirical_with_any_square_root_of_its_covariance(p):
    probabilities = ops.softmax(p.net(p.params, p.x))
    total = trees.map(np.zeros_like, p.params)
    for n, weights in enumerate(probabilities):
        for c, weight in enumerate(weights):
            of_label = fisher_of(p._replace(x=p.x[n : n + 1], y=np.array([c])), "empirical")
            total = trees.map(lambda t, F: t + weight * F / len(p.x), total, of_label)  # noqa: B023
    exact = fisher_of(p)
    assert_trees_close(exact, total)
    fewer = lambda z, x, start: kernels.scores_reduced(z)  # C - 1 columns (Tanabe & Sagae)
    first = p.net(p.params, p.x[: sums.CHECKED])
    assert_trees_close(sums.mean_over_samples("", p.net, p.params, p.x, first, fewer), exact)

    def backpack(z, x, start):
        """√p_c (δ_vc - √(p_v p_c)): the columns of BackPACK's _sqrt_hessian."""
        q = ops.softmax(z)
        roots = np.sqrt(q)[:, :, None] * (np.eye(q.shape[1]) - np.sqrt(q[:, :, None] * q[:, None, :]))
        return np.moveaxis(roots, 2, 0)  # (n, c, v) -> (v, n, c)

    assert_trees_close(sums.mean_over_samples("", p.net, p.params, p.x, first, backpack), exact)


@settings(max_examples=6)
@given(p=problems(samples=1), seed=seeds)
def test_5_sampled_converges_to_exact_within_5_sigma(p, seed):
    draws = 2000
    repeated = p._replace(x=np.repeat(p.x, draws, axis=0), y=np.repeat(p.y, draws))
    sampled = fisher_of(repeated, "sampled", rng=np.random.default_rng(seed))
    squares = np.array([flat(score) ** 2 for score in scores(p, 0)])
    q = ops.softmax(p.net(p.params, p.x))[0]
    mean = q @ squares
    sigma = np.sqrt(q @ (squares - mean) ** 2 / draws)
    np.testing.assert_allclose(flat(fisher_of(p)), mean, rtol=1e-9, atol=1e-14)
    # with few draws of an unlikely label the normal law is no guide: it must be expected at least 10 times, or weigh nothing
    likely = q * draws >= 10
    slack = np.max(squares[~likely], axis=0, initial=0) * 30 / draws
    assert np.all(np.abs(flat(sampled) - mean) <= 5 * sigma + slack + 1e-12)


@few
@given(p=problems(activations=("relu", "linear")))
def test_6a_for_piecewise_linear_nets_it_is_the_finite_difference_hessian_diagonal_at_any_point(p):
    """Away from the kinks, and for nets in which no weight meets itself on a path (so not for recurrent ones)."""
    assume(not (isinstance(p.params, dict) and "U" in p.params))
    nearest = []
    seen = p._replace(act=lambda z: nearest.append(np.min(np.abs(z), initial=1.0)) or p.act(z))
    loss(seen, p.params)
    assume(min(nearest, default=1.0) > 2e-2)
    theta, step = flat(p.params), 1e-3
    at = lambda v: float(loss(p, unflat(v, p.params)))
    second = []
    for e in np.eye(len(theta)):
        # fourth order: the error is h⁴ f⁽⁶⁾ / 90
        far, near = (at(theta + k * step * e) + at(theta - k * step * e) for k in (2, 1))
        second.append((-far + 16 * near - 30 * at(theta)) / (12 * step**2))
    scale = 1 + np.max(np.abs(second))
    np.testing.assert_allclose(flat(fisher_of(p)), second, rtol=1e-5, atol=1e-7 * scale)


@few
@given(p=problems(kinds=("dense",)))
def test_6b_softmax_regression_has_hessian_equal_to_fisher_and_any_net_a_ggn_equal_to_it(p):
    logits = p.net(p.params, p.x)
    jacobian = tm.jacobian(lambda v: p.net(unflat_tensor(v, p.params), p.x))(flat(p.params))
    q = ops.softmax(logits)
    covariance = np.einsum("nc,cd->ncd", q, np.eye(q.shape[1])) - q[:, :, None] * q[:, None, :]
    ggn = np.einsum("nci,ncd,ndj->ij", jacobian, covariance, jacobian) / len(p.x)
    np.testing.assert_allclose(full_fisher(p), ggn, atol=1e-10 * (1 + np.max(np.abs(ggn))))
    np.testing.assert_allclose(flat(fisher_of(p)), np.diag(ggn), atol=1e-10 * (1 + np.max(np.abs(ggn))))
    if len(p.params) == 1:
        np.testing.assert_allclose(hessian(p), ggn, atol=1e-10 * (1 + np.max(np.abs(ggn))))


def test_6c_for_tanh_nets_the_hessian_is_another_matrix():
    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, (3, 4, 3), sigma=1.0, dtype=np.float64)
    x, y = rng.normal(size=(5, 3)), rng.integers(3, size=5)
    net = lambda p, x: nets.mlp(p, x, ops.tanh)
    curvature = np.diag(
        tm.hessian(lambda v: ops.mean(ops.softmax_cross_entropy(net(unflat_tensor(v, params), x), y)))(flat(params))
    )
    fisher = flat(ewc.fisher_diagonal(net, params, x))
    assert np.max(np.abs(curvature - fisher)[:16]) > 0.1 * np.max(fisher)
    np.testing.assert_allclose(curvature[16:], fisher[16:], atol=1e-12)  # the last layer: logits are linear in it


@few
@given(p=problems(activations=("tanh", "linear")), seed=seeds)
def test_7_the_kl_divergence_of_a_small_step_is_half_the_fisher_form(p, seed):
    delta = np.random.default_rng(seed).normal(size=flat(p.params).shape)
    delta /= np.linalg.norm(delta)
    log_p = lambda t: ops.log_softmax(p.net(unflat(flat(p.params) + t * delta, p.params), p.x))
    half = 0.5 * delta @ full_fisher(p) @ delta

    def kl(t):
        """Over t²; the mean over ±t cancels the third order."""
        terms = [np.sum(np.exp(log_p(0)) * (log_p(0) - log_p(s)), axis=1).mean() for s in (t, -t)]
        return np.mean(terms) / t**2

    coarse, fine = abs(kl(2e-3) - half), abs(kl(1e-3) - half)
    assert fine <= max(0.3 * coarse, 1e-9 * (1 + half) / 1e-3)  # it falls as t², down to rounding


@given(p=problems(), kind=kinds, scale=st.sampled_from([0.5, 2.0, 4.0]), constant=st.floats(-5, 5), seed=seeds)
def test_8_it_is_nonnegative_and_has_the_symmetries_of_the_net(p, kind, scale, constant, seed):
    plain, rng = fisher_of(p, kind), np.random.default_rng(seed)
    assert all((F >= 0).all() for F in trees.leaves(plain))
    shifted = p._replace(layers=lambda params, x, act: p.layers(params, x, act) + constant)
    assert_trees_close(fisher_of(shifted, kind), plain)

    sizes = {
        n: size for axes, w in leaves_with_axes(p) for n, size in zip(axes.split(), w.shape, strict=True) if n != "."
    }
    for name, size in sizes.items():
        if name == "out" and kind == "sampled":
            continue  # draws go through the classes in order
        order = rng.permutation(size)  # of pixels: the symmetry of permuted MNIST
        other = p._replace(params=numbered(p.params, p.axes, name, order), x=numbered(p.x, p.seen, name, order))
        other = other._replace(y=np.argsort(order)[p.y] if name == "out" else p.y)
        assert_trees_close(fisher_of(other, kind), numbered(plain, p.axes, name, order))

    def at(tree, name, i):
        """What belongs to number i of those called `name`."""
        return [np.take(w, i, axis) for w, axes in zip(trees.leaves(tree), trees.leaves(p.axes), strict=True)
                for axis in places(axes, name)]  # fmt: skip

    off = rng.integers(sizes["in"])
    on = np.arange(sizes["in"]) != off
    along = lambda factor, names: factor.reshape([-1 if name == "in" else 1 for name in names.split()])
    dark = fisher_of(p._replace(x=p.x * along(on, p.seen)), kind)
    assert not any(F.any() for F in at(dark, "in", off))  # a pixel that is never on

    factor = np.where(on, 1, scale)
    scaled = lambda power: lambda w, names: w * along(factor, names) ** power if "in" in names.split() else w
    inputs = p._replace(x=p.x * along(factor, p.seen), params=trees.map(scaled(-1), p.params, p.axes))
    assert_trees_close(fisher_of(inputs, kind), trees.map(scaled(2), plain, p.axes))

    if p.act is ops.relu:
        for name in sizes.keys() - {"in", "out"}:  # a unit that never is
            unit = rng.integers(sizes[name])
            low = lambda w, names, name=name, unit=unit: w - 1e6 * np.eye(len(w))[unit] if names == name else w
            dead = fisher_of(p._replace(params=trees.map(low, p.params, p.axes)), kind)
            assert len(at(dead, name, unit)) >= 3
            assert not any(F.any() for F in at(dead, name, unit))


def leaves_with_axes(p):
    return zip(trees.leaves(p.axes), trees.leaves(p.params), strict=True)


@given(p=problems())
def test_9_exact_and_sampled_do_not_look_at_labels_and_empirical_does(p):
    other = p._replace(y=(p.y + 1) % p.classes)
    for kind in ("exact", "sampled"):
        trees.map(np.testing.assert_array_equal, fisher_of(p, kind), fisher_of(other, kind))
        trees.map(np.testing.assert_array_equal, fisher_of(p, kind), fisher_of(p._replace(y=None), kind))
    one = p._replace(x=p.x[:1], y=p.y[:1])
    for c, score in enumerate(scores(one, 0)):
        assert_trees_close(fisher_of(one._replace(y=np.array([c])), "empirical"), trees.map(np.square, score))


@given(p=problems(kinds=("dense",)), kind=kinds)
def test_10_the_sum_over_a_layer_is_the_mean_of_squared_norms(p, kind):
    """Σ F_W = mean_n |d_n|² |a_n|² (the ghost norm), and Σ F_b = |d_n|² for one sample."""
    draws = np.random.default_rng(0).random(len(p.x))
    expected = np.zeros(len(p.params))
    for n in range(len(p.x)):
        one = p._replace(x=p.x[n : n + 1], y=p.y[n : n + 1])
        of_one = fisher_of(one, kind, rng=Uniforms(draws[n : n + 1]))
        a = p.x[n]
        for k, layer in enumerate(p.params):
            expected[k] += of_one[k].b.sum() * (a @ a) / len(p.x)
            a = p.act(a @ layer.w + layer.b)
    found = fisher_of(p, kind, rng=Uniforms(draws))
    np.testing.assert_allclose([layer.w.sum() for layer in found], expected, rtol=1e-9, atol=1e-14)


class Uniforms:
    """A generator of numbers that were drawn before."""

    def __init__(self, numbers):
        self.numbers = numbers

    def random(self, n):
        return self.numbers[:n]


# ---- 15 and 16: rounding, side effects ----


@given(p=problems(), kind=st.sampled_from(["exact", "empirical"]))
def test_15_float32_is_float64_within_the_rounding_of_its_steps(p, kind):
    """The kernels' backends are compared with one another in tests/kernels."""
    single = p._replace(params=trees.map(np.float32, p.params), x=np.float32(p.x))
    double = p._replace(params=trees.map(np.float64, single.params), x=np.float64(single.x))
    found, expected = fisher_of(single, kind), fisher_of(double, kind)
    assert {F.dtype for F in trees.leaves(found)} == {np.dtype(np.float32)}
    assert_trees_close(found, expected, rtol=2e-4, atol=1e-30)


@given(p=problems(), kind=st.sampled_from(list(ewc.KINDS)))
def test_16_the_fisher_pass_has_no_side_effects(p, kind):
    given_ = (p.params, p.x, p.y)
    before, rng = trees.map(np.copy, given_), np.random.default_rng(1)
    state = rng.bit_generator.state
    first = fisher_of(p, kind, rng=rng)
    assert (rng.bit_generator.state == state) == (kind != "sampled")
    trees.map(np.testing.assert_array_equal, given_, before)
    assert all(leaf.flags.writeable for leaf in trees.leaves((given_, first)))
    rng.bit_generator.state = state
    trees.map(np.testing.assert_array_equal, first, fisher_of(p, kind, rng=rng))
