"""Each rule of tm.ewc.fisher_diagonal against per-sample gradients by vmap, against a loop of gradients, and told to the user."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops
from tinymeta.engine import trees
from tinymeta.ewc import rules
from tinymeta.ewc.by_layer import GRADIENTS, PATCHES, POSITIONS, ROWS, UNUSED

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 6)


def draw(rng, *shape):
    return rng.normal(size=shape)


# ---- nets: (params, x) from a generator and a number of samples, the function, and the rule of each leaf ----


def dense(rng, n):
    return {"w": draw(rng, 4, 3), "b": draw(rng, 3), "s": draw(rng, 1, 4), "v": draw(rng, 3, 4)}, draw(rng, n, 4)


def of_images(rng, n):
    params = {"w": draw(rng, 4, 2, 2, 3), "b": draw(rng, 4, 1, 1), "gamma": draw(rng, 4), "beta": draw(rng, 4)}
    return params | {"head": nets.Layer(draw(rng, 4, 3), draw(rng, 3))}, draw(rng, n, 2, 5, 6)


def of_sequences(rng, n):
    params = {"x": draw(rng, 3, 8), "h": draw(rng, 2, 8), "b": draw(rng, 8), "head": draw(rng, 2, 3)}
    return params, draw(rng, n, 4, 3)


def convnet(p, x):
    """Convolution with a bias, batch norm with given statistics, pooling, a linear head."""
    mean, var = np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.5, 1.0, 2.0, 1.5])
    z = ops.conv2d(x, p["w"], stride=(1, 2), padding=1) + p["b"]
    z = (z - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    z = ops.relu(z * p["gamma"][:, None, None] + p["beta"][:, None, None])
    z = ops.max_pool2d(z, 2)
    return ops.mean(z, axis=(2, 3)) @ p["head"].w + p["head"].b


def conv_twice(p, x):
    """One kernel on two scales, and its positions summed over both before the square."""
    two = [ops.conv2d(x, p["w"], stride=s) for s in (1, 2)]
    return sum(ops.mean(ops.tanh(z), axis=(2, 3)) for z in two) @ p["head"].w


def lstm(p, x):
    h = c = np.zeros((len(x), 2))
    for t in range(x.shape[1]):
        i, f, o, g = ops.split(x[:, t] @ p["x"] + h @ p["h"] + p["b"], 4, axis=1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
    return h @ p["head"]


def attention(p, x):
    """Time inside the square: every position enters through x @ w, and positions see one another."""
    q, k, v, _ = ops.split(x @ p["x"], 4, axis=-1)
    weights = ops.softmax(q @ ops.swapaxes(k, -1, -2) / np.sqrt(2))
    return ops.mean(weights @ v, axis=1) @ p["head"]


NETS = {
    "linear": (dense, lambda p, x: x @ p["w"], {"w": ROWS}),
    "bias": (dense, lambda p, x: x @ p["w"] + p["b"], {"w": ROWS, "b": GRADIENTS}),
    "transposed": (dense, lambda p, x: x @ p["v"].T, {"v": ROWS}),
    "left": (dense, lambda p, x: (p["v"] @ x.T).T, {"v": ROWS}),
    "reshaped": (dense, lambda p, x: x @ p["v"].reshape(4, 3), {"v": ROWS}),
    "tensordot": (dense, lambda p, x: np.tensordot(x, p["v"], ([1], [1])), {"v": ROWS}),
    "hidden": (dense, lambda p, x: ops.tanh(x @ p["w"]) @ p["v"] @ np.eye(4, 3), {"w": ROWS, "v": ROWS}),
    "normalised": (dense, lambda p, x: ops.log_softmax(x @ p["w"]), {"w": ROWS}),
    "gated": (dense, lambda p, x: (x * p["s"]) @ p["w"] + p["b"], {"w": ROWS, "s": GRADIENTS, "b": GRADIENTS}),
    "added twice": (dense, lambda p, x: (x @ p["w"] + p["b"]) * 2 + p["b"], {"w": ROWS, "b": GRADIENTS}),
    "leaky": (dense, lambda p, x: np.where(x > 0, x, 0.1 * x).reshape(len(x), -1) @ p["w"], {"w": ROWS}),
    "used twice": (dense, lambda p, x: x @ p["w"] + ops.square(x) @ p["w"], {"w": POSITIONS}),
    "scaled": (dense, lambda p, x: x @ (2.0 * p["w"]), {"w": GRADIENTS}),
    "tied": (dense, lambda p, x: ops.tanh(x @ p["w"]) @ p["w"].T @ p["w"], {"w": GRADIENTS}),
    "product": (dense, lambda p, x: x @ (p["w"] @ p["v"]) @ np.eye(4, 3), {"w": POSITIONS, "v": POSITIONS}),
    "einsum": (dense, lambda p, x: np.einsum("ni,io->no", x, p["w"]), {"w": GRADIENTS}),
    "pairs": (dense, lambda p, x: (x.reshape(len(x), 2, 2) @ p["w"][:2]).sum(axis=1), {"w": GRADIENTS}),
    "time": (of_sequences, lambda p, x: (ops.tanh(x @ p["x"])).sum(axis=1)[:, :3], {"x": POSITIONS}),
    "lstm": (of_sequences, lstm, {"x": POSITIONS, "h": POSITIONS, "b": GRADIENTS, "head": ROWS}),
    "attention": (of_sequences, attention, {"x": POSITIONS, "head": ROWS}),
    "conv": (of_images, convnet, {"w": PATCHES, "b": GRADIENTS, "gamma": GRADIENTS, "beta": GRADIENTS}),
    "conv twice": (of_images, conv_twice, {"w": PATCHES}),
    "views": (dense, lambda p, x: x.view() @ p["w"], dict.fromkeys("wbsv", rules.ONE_BY_ONE)),
    "two-faced": (
        dense,
        lambda p, x: (x if isinstance(x, np.ndarray) else 2 * x) @ p["w"],
        dict.fromkeys("wbsv", rules.ONE_BY_ONE),
    ),
}
quiet = pytest.mark.filterwarnings("ignore::tinymeta.ewc.SlowFisher")


def by_loop(net, params, x):
    """mean_n Σ_c p(c | x_n) g(n, c)², by as many gradients."""
    total = trees.map(np.zeros_like, params)
    for n in range(len(x)):
        one = x[n : n + 1]
        for c, p in enumerate(ops.softmax(net(params, one))[0]):
            score = tm.grad(lambda q: ops.log_softmax(net(q, one))[0, c])(params)  # noqa: B023
            total = trees.map(lambda t, g: t + p * g * g / len(x), total, score)  # noqa: B023
    return total


def by_vmap(net, params, x):
    """The same with all per-sample gradients in memory: vmap of grad, squared."""
    score = lambda q, one, c: ops.take(ops.log_softmax(net(q, one[None]))[0], c)
    classes = np.arange(net(params, x).shape[1])
    scores = tm.vmap(lambda one: tm.vmap(tm.grad(score), (None, None, 0))(params, one, classes))(x)
    p = ops.softmax(net(params, x))
    return trees.map(lambda g: np.einsum("nc,nc...->...", p, g**2) / len(x), scores)


def assert_trees_close(found, expected, rtol=1e-9):
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=rtol * np.max(np.abs(b), initial=0))


@quiet
@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5)
@given(seed=seeds, count=counts)
def test_every_rule_equals_the_loop_and_the_per_sample_gradients(name, seed, count):
    make, net, _ = NETS[name]
    params, x = make(np.random.default_rng(seed), count)
    found = ewc.fisher_diagonal(net, params, x)
    assert_trees_close(found, by_loop(net, params, x))
    if rules.ONE_BY_ONE not in NETS[name][2].values():
        assert_trees_close(found, by_vmap(net, params, x))


@pytest.mark.parametrize("name", NETS)
def test_the_user_is_told_the_rule_of_each_leaf(name):
    make, net, expected = NETS[name]
    params, x = make(np.random.default_rng(0), 3)
    found = ewc.fisher_rules(net, params, x)
    assert {key: rule for key, rule in found.items() if rule != UNUSED and key != "head"} == {
        key: rule for key, rule in expected.items() if key != "head"
    }


@quiet
@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5)
@given(seed=seeds, kind=st.sampled_from(["exact", "sampled", "empirical"]))
def test_neither_blocks_nor_batches_change_anything(name, seed, kind):
    """Sums of blocks of one sample differ by rounding; batch_size by nothing, bit for bit."""
    make, net, _ = NETS[name]
    rng = np.random.default_rng(seed)
    params, x = make(rng, 5)
    y = rng.integers(net(params, x).shape[1], size=5)
    found = [
        ewc.fisher_diagonal(net, params, x, y, kind, batch_size=b, rng=np.random.default_rng(1)) for b in (1, 3, 9)
    ]
    for other in found[1:]:
        trees.map(np.testing.assert_array_equal, found[0], other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "BLOCK_BYTES", 1)
        blocks_of_one = ewc.fisher_diagonal(net, params, x, y, kind, rng=np.random.default_rng(1))
    assert_trees_close(blocks_of_one, found[0], rtol=1e-12)


@given(seed=seeds)
def test_integer_samples_are_no_obstacle(seed):
    rng = np.random.default_rng(seed)
    table, x = {"table": draw(rng, 5, 3), "w": draw(rng, 3, 3)}, rng.integers(5, size=4)
    net = lambda p, x: ops.tanh(ops.take(p["table"], x, axis=0)) @ p["w"]
    assert ewc.fisher_rules(net, table, x) == {"table": GRADIENTS, "w": ROWS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ewc.SlowFisher)
        assert_trees_close(ewc.fisher_diagonal(net, table, x), by_loop(net, table, x))


def test_slow_leaves_are_named_in_a_warning_and_fast_nets_are_silent():
    rng = np.random.default_rng(0)
    params, x = {"w": draw(rng, 40, 3), "b": draw(rng, 3)}, draw(rng, 4, 40)
    with pytest.warns(ewc.SlowFisher, match=r"forms a gradient per sample for params\['w'\], which takes longer"):
        ewc.fisher_diagonal(lambda p, x: x @ (2.0 * p["w"]) + p["b"], params, x)
    with pytest.warns(ewc.SlowFisher, match=r"the net does not run inside tm.vmap: AttributeError: .*view"):
        ewc.fisher_diagonal(lambda p, x: x.view() @ p["w"] + p["b"], params, x)
    with pytest.warns(ewc.SlowFisher, match=r"the net does not run inside tm.vmap: there its outputs are others"):
        ewc.fisher_diagonal(lambda p, x: (x if isinstance(x, np.ndarray) else 2 * x) @ p["w"], params, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ewc.fisher_diagonal(lambda p, x: x @ p["w"] + p["b"], params, x)


def test_memory_is_that_of_a_block_whatever_the_number_of_samples():
    """tracemalloc sees NumPy's arrays: 2000 samples need no more than 1000, and less than their per-sample gradients."""
    import tracemalloc

    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, (100, 80, 10))
    peaks = []
    for n in (2000, 8000):
        x = rng.normal(size=(n, 100)).astype(np.float32)
        tracemalloc.start()
        ewc.fisher_diagonal(nets.mlp, params, x)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 2000 * 8000 * 4


def test_a_batch_takes_few_calls_of_the_net():
    rng = np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (6, 5, 10)), rng.normal(size=(3000, 6)).astype(np.float32)
    calls = []
    ewc.fisher_diagonal(lambda p, x: calls.append(0) or nets.mlp(p, x), params, x)
    assert len(calls) <= 3 + 2 * 3
