"""tm.ewc.fisher_diagonal: the vectorised path against a loop over samples and labels, and the laws of the Fisher information."""

import random
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops
from tinymeta.engine import trees
from tinymeta.ewc import sums
from tinymeta.kernels.fisher import mlp_fisher, sample_labels

seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(lambda s: (*s[:-1], s[-1] + 1))
activations = st.sampled_from([ops.relu, ops.tanh])
kinds = st.sampled_from(list(ewc.KINDS))
counts = st.integers(1, 7)


def problem(seed, sizes, count, dtype=np.float64):
    """Weights with biases, samples and labels, all random."""
    rng = np.random.default_rng(seed)
    params = trees.map(lambda w: rng.normal(size=w.shape).astype(dtype), nets.init_mlp(rng, sizes))
    return params, rng.normal(size=(count, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], count)


def hidden_structure(net):
    """The same function, which does not run inside a vmap: one gradient per sample."""
    return lambda params, x: net(params, x.view())


def by_hand(net, params, x, weight_of_labels):
    """mean_n Σ_c weight_of_labels[n, c] (∂ log p(c | x_n) / ∂θ)², by as many gradients."""
    total = trees.map(np.zeros_like, params)
    for n, weights in enumerate(weight_of_labels):
        for c, weight in enumerate(weights):
            score = tm.grad(lambda p: ops.log_softmax(net(p, x[n : n + 1]))[0, c])(params)  # noqa: B023
            total = trees.map(lambda t, g: t + weight * g * g / len(x), total, score)  # noqa: B023
    return total


def assert_trees_close(found, expected, rtol=1e-9, atol=0.0):
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=atol + rtol * np.max(np.abs(b), initial=0))


# ---- one answer by every road ----


@given(seed=seeds, sizes=sizes, count=counts, activation=activations, kind=kinds, batch_size=st.integers(1, 8))
def test_all_samples_at_once_equal_one_by_one_and_the_kernel(seed, sizes, count, activation, kind, batch_size):
    params, x, y = problem(seed, sizes, count)
    net = lambda p, x: nets.mlp(p, x, activation)
    found = ewc.fisher_diagonal(net, params, x, y, kind, batch_size=batch_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ewc.SlowFisher)
        slow = ewc.fisher_diagonal(hidden_structure(net), params, x, y, kind, batch_size=batch_size)
    assert type(found[0]) is nets.Layer
    assert_trees_close(found, slow)
    uniforms = np.random.default_rng(0).random(count)
    assert_trees_close(found, mlp_fisher(params, x, y, activation.__name__, kind, uniforms, batch_size))


@given(seed=seeds, sizes=sizes, count=counts, activation=activations)
def test_exact_and_empirical_are_sums_of_squared_gradients_of_log_probabilities(seed, sizes, count, activation):
    params, x, y = problem(seed, sizes, count)
    net = lambda p, x: nets.mlp(p, x, activation)
    p = np.exp(ops.log_softmax(net(params, x)))
    assert_trees_close(ewc.fisher_diagonal(net, params, x), by_hand(net, params, x, p))
    one_hot = np.eye(sizes[-1])[y]
    assert_trees_close(ewc.fisher_diagonal(net, params, x, y, "empirical"), by_hand(net, params, x, one_hot))


@given(seed=seeds, count=counts, batch_size=st.integers(1, 8))
def test_batched_squares_the_gradient_of_each_batch(seed, count, batch_size):
    params, x, y = problem(seed, (3, 4, 3), count)
    loss = lambda p, rows: ops.sum(ops.softmax_cross_entropy(nets.mlp(p, x[rows]), y[rows]))
    batches = [slice(s, s + batch_size) for s in range(0, count, batch_size)]
    squares = [trees.map(np.square, tm.grad(loss)(params, rows)) for rows in batches]
    expected = trees.map(lambda *parts: sum(parts) / count, *squares)
    assert_trees_close(ewc.fisher_diagonal(nets.mlp, params, x, y, "batched", batch_size=batch_size), expected)


@given(seed=seeds, sizes=sizes, count=counts, kind=kinds)
def test_float32_stays_float32_and_close_to_float64(seed, sizes, count, kind):
    params, x, y = problem(seed, sizes, count, np.float32)
    found = ewc.fisher_diagonal(nets.mlp, params, x, y, kind)
    assert {F.dtype for F in trees.leaves(found)} == {np.dtype(np.float32)}
    wide = ewc.fisher_diagonal(nets.mlp, trees.map(np.float64, params), np.float64(x), y, kind)
    assert_trees_close(found, wide, rtol=1e-3)


# ---- laws that test_properties.py has not ----


def hessian_diagonal(net, params, x, y):
    """The diagonal of the Hessian of the mean cross-entropy, by our own second derivatives."""
    blocks = tm.hessian(lambda p: ops.mean(ops.softmax_cross_entropy(net(p, x), y)))(trees.leaves(params))
    diagonals = [
        np.diag(blocks[k][k].reshape(w.size, w.size)).reshape(w.shape) for k, w in enumerate(trees.leaves(params))
    ]
    return trees.unflatten(params, diagonals)


def flat(net, like):
    return lambda leaves, x: net(trees.unflatten(like, leaves), x)


def largest_output_derivative(params, x):
    jacobians = trees.leaves(tm.jacobian(lambda p: nets.mlp(p, x))(params))
    return max(float(np.max(np.abs(J), initial=0)) for J in jacobians)


@given(seed=seeds, count=counts)
def test_for_relu_nets_it_is_the_diagonal_of_the_hessian_at_any_point_and_labels(seed, count):
    params, x, y = problem(seed, (3, 4, 3, 3), count)
    hessian = hessian_diagonal(flat(nets.mlp, params), params, x, y)
    # where p is close to 1 the Hessian's p - p² is good to rounding errors of 1, however small it is itself
    rounding = 64 * np.finfo(float).eps * largest_output_derivative(params, x) ** 2
    assert_trees_close(ewc.fisher_diagonal(nets.mlp, params, x), hessian, 1e-8, atol=rounding)


def test_for_tanh_nets_it_is_not_the_hessian():
    params, x, y = problem(0, (3, 4, 3), 5)
    net = lambda p, x: nets.mlp(p, x, ops.tanh)
    fisher, hessian = ewc.fisher_diagonal(net, params, x), hessian_diagonal(flat(net, params), params, x, y)
    assert np.max(np.abs(fisher[0].w - hessian[0].w)) > 0.1 * np.max(fisher[0].w)
    assert_trees_close((fisher[1],), (hessian[1],))  # the last layer is linear in its weights


@pytest.mark.filterwarnings("ignore::tinymeta.ewc.SlowFisher")
@pytest.mark.parametrize("net", [nets.mlp, hidden_structure(nets.mlp)], ids=["at once", "one by one"])
@pytest.mark.parametrize("kind", ewc.KINDS)
def test_it_has_no_side_effects_and_repeats_itself(net, kind):
    params, x, y = problem(0, (4, 5, 3), 6)
    before = trees.map(np.copy, (params, x, y))
    rng = np.random.default_rng(1)
    state = rng.bit_generator.state
    first = ewc.fisher_diagonal(net, params, x, y, kind, rng=rng)
    assert (rng.bit_generator.state == state) == (kind != "sampled")
    trees.map(np.testing.assert_array_equal, (params, x, y), before)
    assert all(leaf.flags.writeable for leaf in trees.leaves((params, x, first)))
    rng.bit_generator.state = state
    trees.map(np.testing.assert_array_equal, first, ewc.fisher_diagonal(net, params, x, y, kind, rng=rng))


# ---- what is refused ----


def mixing(params, x):
    return nets.mlp(params, x - ops.mean(x, axis=0))


def mixing_unseen(params, x):
    return nets.mlp(params, ops.where(x > ops.mean(x, axis=0), x, 0.0))


@pytest.mark.parametrize("net", [mixing, mixing_unseen])
@pytest.mark.parametrize("kind", ewc.KINDS)
@pytest.mark.parametrize("block_bytes", [sums.BLOCK_BYTES, 1])
def test_nets_that_mix_samples_are_refused(monkeypatch, net, kind, block_bytes):
    monkeypatch.setattr(sums, "BLOCK_BYTES", block_bytes)
    params, x, y = problem(0, (4, 5, 3), 6)
    with pytest.raises(ValueError, match=r"logits of a sample change by .* without the rest of its batch"):
        ewc.fisher_diagonal(net, params, x, y, kind)


@pytest.mark.filterwarnings("ignore:.*invalid value encountered in divide:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::tinymeta.ewc.SlowFisher")  # it is told so too
def test_a_net_whose_lone_samples_are_nan_is_said_to_mix_them():
    """Of one sample alone the spread is 0."""

    def mixing_without_eps(params, x):
        centred = x - ops.mean(x, axis=0)
        return nets.mlp(params, centred / ops.sqrt(ops.mean(ops.square(centred), axis=0)))

    params, x, y = problem(0, (4, 5, 3), 6)
    with pytest.raises(ValueError, match=r"logits of a sample change by nan when .* without the rest of its batch"):
        ewc.fisher_diagonal(mixing_without_eps, params, x, y)


def changed(index, value):
    def change(args):
        args[index] = value(args[index]) if callable(value) else value
        return args

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            changed(4, "exakt"),
            ValueError,
            "kind is 'exakt', expected one of 'exact', 'sampled', 'empirical', 'batched'",
        ),
        (changed(3, None), ValueError, "kind 'empirical' needs the labels y"),
        (changed(3, lambda y: y.astype(float)), TypeError, r"y is float64\[6\], expected integer labels"),
        (changed(3, lambda y: y[:4]), ValueError, r"y is int64\[4\], expected one label per sample, shape \[6\]"),
        (
            changed(3, [0, 1, 2, 0, 3, 1]),
            ValueError,
            "label of sample 4 is 3, expected 0 to 2, for the net has 3 outputs",
        ),
        (changed(3, [0, 1, -1, 0, 1, 1]), ValueError, "label of sample 2 is -1"),
        (changed(2, lambda x: x[:0]), ValueError, r"x is float64\[0,4\], expected .* at least one sample"),
        (changed(2, 3.0), ValueError, "x is float, expected an array"),
        (changed(2, lambda x: np.where(np.arange(6)[:, None] == 5, np.nan, x)), ValueError, "sample 5 are not finite"),
        (
            changed(0, lambda net: lambda p, x: net(p, x)[:, 0]),
            ValueError,
            r"net gave float64\[6\] .* shape \[6,classes\]",
        ),
        (changed(0, lambda net: lambda p, x: net(p, x)[:1]), ValueError, r"net gave float64\[1,3\]"),
        (changed(0, lambda net: lambda p, x: x > 0), ValueError, r"net gave bool\[6,4\]"),
        (
            changed(1, lambda p: [p[0].w.astype(int), p[1]]),
            TypeError,
            r"params\[0\] is int64\[4,5\], expected .* floats",
        ),
        (changed(1, lambda p: [1.0]), TypeError, r"params\[0\] is float, expected an array of floats"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    params, x, y = problem(0, (4, 5, 3), 6)
    net, params, x, y, kind = change([nets.mlp, params, x, y, "empirical"])
    with pytest.raises(error, match=f"fisher_diagonal: .*{message}"):
        ewc.fisher_diagonal(net, params, x, y, kind, batch_size=2)


@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("wrong", range(6))
def test_wrong_samples_are_named_by_their_place_among_all(samples, wrong):
    """A label also where it is not taken."""
    params, x, y = problem(0, (4, 5, 3), 6)
    y[wrong], holed = 7, np.where(np.arange(6)[:, None] == wrong, np.nan, x)
    with pytest.raises(ValueError, match=f"label of sample {wrong} is 7, expected 0 to 2"):
        ewc.fisher_diagonal(nets.mlp, params, x, y, "empirical", samples=samples)
    taken = np.random.default_rng(2).choice(6, samples, replace=False)
    draw = lambda: ewc.fisher_diagonal(nets.mlp, params, holed, samples=samples, rng=np.random.default_rng(2))
    if wrong in taken:
        with pytest.raises(ewc.NotFinite, match=f"the logits of sample {wrong} are not finite"):
            draw()
    else:
        assert all(np.isfinite(F).all() for F in trees.leaves(draw()))


@pytest.mark.parametrize("batch_size", [0, 3.5, "3", None, True])
def test_a_batch_is_of_one_sample_or_more(batch_size):
    params, x, _ = problem(0, (4, 5, 3), 6)
    with pytest.raises(ValueError, match=f"batch_size is {batch_size!r}, expected an int, 1 or more"):
        ewc.fisher_diagonal(nets.mlp, params, x, batch_size=batch_size)


@pytest.mark.parametrize("importance", [ewc.fisher_diagonal, ewc.fisher_rules, ewc.mas_importance])
def test_the_net_comes_before_its_params(importance):
    params, x, _ = problem(0, (4, 5, 3), 6)
    with pytest.raises(TypeError, match=r"net is tuple, expected a function of .*; the order is net, params, x"):
        importance(tuple(params), nets.mlp, x)


def test_overflow_is_refused():
    params = (nets.Layer(np.zeros((1, 2), np.float32), np.zeros(2, np.float32)),)
    with pytest.raises(ewc.NotFinite, match=r"result at params\[0\]\['w'\] overflows float32"):
        ewc.fisher_diagonal(nets.mlp, params, np.full((2, 1), 1e25, np.float32))
    huge = trees.map(lambda w: w + np.float32(1e30), params)
    with pytest.raises(ewc.NotFinite, match=r"the logits of sample 0 are not finite"):
        ewc.fisher_diagonal(nets.mlp, huge, np.full((2, 1), 1e25, np.float32))


def test_it_refuses_to_be_differentiated():
    params, x, _ = problem(0, (4, 5, 3), 6)
    with pytest.raises(TypeError, match=r"params\[0\]\['w'\] is a Tensor; the Fisher has no derivative"):
        tm.grad(lambda p: ewc.fisher_diagonal(nets.mlp, p, x)[0].w.sum())(params)
    with pytest.raises(TypeError, match="the net uses a Tensor from outside"):
        tm.grad(lambda s: ewc.fisher_diagonal(lambda p, x: s * nets.mlp(p, x), params, x)[0].w.sum())(np.float64(2))
    with pytest.raises(TypeError, match="x is a Tensor; the Fisher has no derivative"):
        tm.grad(lambda x: ewc.fisher_diagonal(nets.mlp, params, x)[0].w.sum())(x)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_outputs_that_are_no_logits_of_classes_are_refused(kind):
    params, x, y = problem(0, (4, 5, 3), 6)
    with pytest.raises(ValueError, match=r"the net gave probabilities .*, expected logits; leave out the softmax"):
        ewc.fisher_diagonal(lambda p, x: ops.softmax(nets.mlp(p, x)), params, x, y, kind)
    with pytest.raises(ValueError, match=r"the net gave float64\[6,1\], one output per sample"):
        ewc.fisher_diagonal(lambda p, x: nets.mlp(p, x)[:, :1], params, x, 0 * y, kind)


@pytest.mark.parametrize("block_bytes", [sums.BLOCK_BYTES, 1])
def test_batch_norm_in_training_mode_is_refused(monkeypatch, block_bytes):
    """Also where a block holds one sample, as those of nets.pooled_conv4 do for images of 84x84."""
    monkeypatch.setattr(sums, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    params, x = nets.init_conv4(rng, 3, filters=2), rng.normal(size=(4, 1, 8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match=r"use a net without batch statistics \(batch norm as in evaluation\)"):
        ewc.fisher_diagonal(nets.conv4, params, x)
    with pytest.raises(ValueError, match=r"mas_importance: .* use a net without batch statistics"):
        ewc.mas_importance(nets.conv4, params, x)


@pytest.mark.parametrize("mask", [0.0, -1e4, -1e9])
@pytest.mark.parametrize("hidden", [False, True])
def test_classes_that_are_masked_hide_no_mixing(mask, hidden):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(5, 6)), "out": rng.normal(size=(6, 4))}
    params, x = trees.map(np.float32, params), rng.normal(size=(9, 5)).astype(np.float32)
    excluded = np.array([0, 0, mask, mask], np.float32)

    def net(p, x, mixed=True):
        h = x @ p["w"]
        return ops.relu(h - ops.mean(h, axis=0) if mixed else h) @ p["out"] + excluded

    wrap = hidden_structure if hidden else lambda net: net
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ewc.SlowFisher)
        with pytest.raises(ValueError, match=r"logits of a sample change by .* without the rest of its batch"):
            ewc.fisher_diagonal(wrap(net), params, x)
        sound = ewc.fisher_diagonal(wrap(lambda p, x: net(p, x, mixed=False)), params, x)
    assert (sound["out"].max(axis=0)[2:] > 0).all() == (mask == 0)
    with pytest.raises(ewc.NotFinite, match="mask classes by a finite number"):
        ewc.fisher_diagonal(lambda p, x: net(p, x) + np.float32([0, 0, 0, -np.inf]), params, x)


def test_rng_is_a_generator_and_params_hold_an_array():
    params, x, _ = problem(0, (2, 3), 4)
    with pytest.raises(TypeError, match="rng is 0, expected a generator such as"):
        ewc.fisher_diagonal(nets.mlp, params, x, kind="sampled", rng=0)
    with pytest.raises(ValueError, match="params has no arrays, expected a tree of one or more"):
        ewc.fisher_diagonal(lambda p, x: x, {}, x)


# ---- the labels that the sampled kind draws ----


def splits(n, rng):
    """Of n samples: whole, one by one, and at random places."""
    return [n], [1] * n, np.diff([0, *np.sort(rng.choice(np.arange(1, n), 4, replace=False)), n]).tolist()


DRAWING = {
    "perceptron": (nets.mlp, np.float32),
    "perceptron in float64": (nets.mlp, np.float64),
    "rules by layer": (lambda p, x: nets.mlp(p, x) * 1.0, np.float32),
    "rules by layer in float64": (lambda p, x: nets.mlp(p, x) * 1.0, np.float64),
    "one by one": (hidden_structure(nets.mlp), np.float64),
}


@pytest.mark.filterwarnings("ignore::tinymeta.ewc.SlowFisher")
@pytest.mark.parametrize("block_bytes", [sums.BLOCK_BYTES, 1])
@pytest.mark.parametrize("name", DRAWING)
def test_the_labels_drawn_are_the_samples_own_however_they_are_split(monkeypatch, name, block_bytes):
    """Sampled is empirical with labels that one generator has drawn before, bit for bit: into however many calls, and blocks, the
    samples are split, each has its label. Seeds are fixed, for a number as near to the edge of a class as rounding of the logits
    reaches would fall on either side."""
    monkeypatch.setattr(sums, "BLOCK_BYTES", block_bytes)
    (net, dtype), rng = DRAWING[name], np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (9, 5, 4), sigma=1.0, dtype=dtype), rng.normal(size=(60, 9)).astype(dtype)
    wide = nets.mlp(trees.map(np.float64, params), x.astype(np.float64))
    labels = sample_labels(wide, np.random.default_rng(3).random(60))
    assert set(labels) == {0, 1, 2, 3}
    for sizes in splits(60, rng):
        drawing, start = np.random.default_rng(3), 0
        for size in sizes:
            rows = slice(start, start + size)
            sampled = ewc.fisher_diagonal(net, params, x[rows], kind="sampled", rng=drawing)
            empirical = ewc.fisher_diagonal(net, params, x[rows], labels[rows], "empirical")
            trees.map(np.testing.assert_array_equal, sampled, empirical)
            start += size


# ---- exact on n samples ----


@given(seed=seeds, kind=kinds, samples=st.integers(1, 6))
def test_samples_takes_so_many_of_them_without_replacement(seed, kind, samples):
    params, x, y = problem(seed, (3, 4, 3), 6)
    rng = np.random.default_rng(2)
    chosen = np.sort(rng.choice(6, samples, replace=False))
    expected = ewc.fisher_diagonal(nets.mlp, params, x[chosen], y[chosen], kind, rng=rng)
    found = ewc.fisher_diagonal(nets.mlp, params, x, y, kind, samples=samples, rng=np.random.default_rng(2))
    trees.map(np.testing.assert_array_equal, found, expected)
    assert len(set(chosen)) == samples


@pytest.mark.parametrize("samples", [0, 7, -1, 2.0, True])
def test_a_number_of_samples_that_there_are_not_is_refused(samples):
    params, x, _ = problem(0, (3, 4, 3), 6)
    with pytest.raises(ValueError, match=f"samples is {samples}, expected an int from 1 to 6"):
        ewc.fisher_diagonal(nets.mlp, params, x, samples=samples)


@pytest.mark.parametrize("kind", ["exact", "batched"])
def test_batch_norm_is_found_where_the_first_samples_are_alike(kind):
    rng = np.random.default_rng(0)
    params, x = nets.init_normed_mlp(rng, (4, 6, 3)), rng.normal(size=(64, 4)).astype(np.float32)
    x[:8] = x[0]
    with pytest.raises(ValueError, match="the logits of a sample change by"):
        ewc.fisher_diagonal(nets.normed_mlp, params, x, np.zeros(64, int), kind)


def test_a_kind_in_the_place_of_the_labels_is_refused():
    params, x, _ = problem(0, (3, 4, 2), 5)
    with pytest.raises(
        TypeError, match="y is 'empirical', expected labels; the kind is given by name, kind='empirical'"
    ):
        ewc.fisher_diagonal(nets.mlp, params, x, "empirical")


def test_a_net_that_is_another_one_in_a_vmap_is_served_one_by_one():
    params, x, _ = problem(0, (3, 4, 2), 5)
    net = lambda p, x: nets.mlp(p, x / 2 if type(x) is np.ndarray else x)
    halved = ewc.fisher_diagonal(nets.mlp, params, x / 2)
    with pytest.warns(ewc.SlowFisher):
        found = ewc.fisher_diagonal(net, params, x)
    assert_trees_close(found, halved)


def test_samples_without_features():
    params, _, _ = problem(0, (1, 3), 4)
    params = (nets.Layer(np.zeros((0, 3)), params[0].b),)
    found = ewc.fisher_diagonal(nets.mlp, params, np.zeros((4, 0)))
    assert found[0].w.shape == (0, 3)
    assert (found[0].b > 0).all()


def test_floats_of_another_byte_order():
    params, x, _ = problem(0, (3, 4, 2), 5, np.float32)
    swapped = trees.map(lambda w: w.astype(">f4"), params)
    assert_trees_close(
        ewc.fisher_diagonal(nets.mlp, swapped, x.astype(">f4")), ewc.fisher_diagonal(nets.mlp, params, x), rtol=1e-5
    )


def test_pythons_own_random_numbers_are_refused():
    params, x, _ = problem(0, (3, 2), 5)
    with pytest.raises(TypeError, match=r"expected a generator such as np.random.default_rng\(0\)"):
        ewc.fisher_diagonal(nets.mlp, params, x, kind="sampled", rng=random.Random(0))
