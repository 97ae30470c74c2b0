"""Each rule of tm.ewc.fisher_diagonal against per-sample gradients by vmap, against a loop of gradients, and told to the user."""

import itertools
import tracemalloc
import warnings
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from ewc.every_rule import NETS, draw
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ewc, nets, ops
from tinymeta.engine import trees
from tinymeta.engine.tensor import Tensor
from tinymeta.ewc import by_layer, perceptron, sums
from tinymeta.ewc.entries import GRADIENTS, PATCHES, ROWS, UNUSED
from tinymeta.kernels import fisher as fisher_kernels

seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 6)


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
    if sums.ONE_BY_ONE not in NETS[name][2].values():
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
    """Sums of blocks of one sample, each column by itself, differ by rounding; batch_size by nothing, bit for bit."""
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
        patch.setattr(sums, "BLOCK_BYTES", 1)
        patch.setattr(by_layer, "COLUMNS", 1)
        blocks_of_one = ewc.fisher_diagonal(net, params, x, y, kind, rng=np.random.default_rng(1))
    assert_trees_close(blocks_of_one, found[0], rtol=1e-12)


def network_of(C):
    """Rows, patches, positions and per-sample gradients on the way to C classes."""

    def net(p, x):
        z = ops.relu(ops.conv2d(x, p["filters"]) * p["scale"])
        z = ops.tanh(ops.mean(z, axis=3).swapaxes(1, 2) @ p["rows"]).sum(axis=1)
        return ops.tanh(z @ p["hidden"] + p["b"]) @ p["head"]

    shapes = {"filters": (2, 1, 2, 2), "scale": (1,), "rows": (2, 3), "hidden": (3, 6), "b": (6,), "head": (6, C)}
    rng = np.random.default_rng(0)
    return net, {name: draw(rng, *shape) for name, shape in shapes.items()}, draw(rng, 5, 1, 4, 4)


@pytest.mark.parametrize("C", [17, 18, 20, 40])
def test_a_layer_of_rows_takes_one_product_whatever_the_number_of_classes(C):
    net, params, x = network_of(C)
    assert [rule for rule in trees.leaves(ewc.fisher_rules(net, params, x)) if rule == ROWS] == [ROWS, ROWS]
    calls = []
    counted = by_layer.SQUARES._replace(rows=lambda A, S: calls.append(S.shape) or by_layer.SQUARES.rows(A, S))
    totals = [np.zeros_like(w) for w in trees.leaves(params)]
    by_layer.add_reduced(totals, net, params, x, fisher_kernels.scores_reduced, counted)
    assert len(calls) == 2  # one for each layer
    assert all(shape[0] <= by_layer.COLUMNS + 1 for shape in calls)
    assert_trees_close([total / len(x) for total in totals], trees.leaves(by_vmap(net, params, x)))
    assert_trees_close(ewc.fisher_diagonal(net, params, x), by_vmap(net, params, x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_classes_are_those_of_the_reference_kernel(dtype):
    rng = np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (5, 7, 20), sigma=1.0, dtype=dtype), draw(rng, 30, 5).astype(dtype)
    layers = [(layer.w.astype(np.float64), layer.b.astype(np.float64)) for layer in params]
    expected = fisher_kernels.mlp_fisher(layers, x.astype(np.float64))
    for net in (nets.mlp, lambda p, x: nets.mlp(p, x) * 1.0):
        found = ewc.fisher_diagonal(net, params, x)
        assert_trees_close(found, expected, rtol=1e-5 if dtype is np.float32 else 1e-12)


@given(seed=seeds)
def test_integer_samples_are_no_obstacle(seed):
    rng = np.random.default_rng(seed)
    table, x = {"table": draw(rng, 5, 3), "w": draw(rng, 3, 3)}, rng.integers(5, size=4)
    net = lambda p, x: ops.tanh(ops.take(p["table"], x, axis=0)) @ p["w"]
    assert ewc.fisher_rules(net, table, x) == {"table": GRADIENTS, "w": ROWS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ewc.SlowFisher)
        assert_trees_close(ewc.fisher_diagonal(net, table, x), by_loop(net, table, x))


@quiet
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(("weights", "samples"), [("f", "u1"), ("f", "d"), ("d", "f"), ("fd", "f"), ("df", "e")])
def test_every_rule_takes_samples_and_weights_of_several_dtypes(name, weights, samples):
    """Images as bytes, weights of double precision, a head of single: as the gradients of single samples do."""
    make, net, _ = NETS[name]
    params, x = make(np.random.default_rng(0), 4)
    dtypes = itertools.cycle(weights)
    params, x = trees.map(lambda w: w.astype(next(dtypes)), params), np.abs(3 * x).astype(samples)
    one_by_one = lambda p, x: net(p, x.view())
    for importance in (
        ewc.mas_importance,
        *(partial(ewc.fisher_diagonal, y=np.arange(4) % 2, kind=k) for k in ewc.KINDS),
    ):
        found = importance(net, params, x)
        assert_trees_close(found, importance(one_by_one, params, x), 1e-4)
        assert [F.dtype for F in trees.leaves(found)] == [w.dtype for w in trees.leaves(params)]


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


# ---- nets that are multilayer perceptrons have a kernel of their own ----


def same_weights_in_other_words(p, x):
    hidden = np.tanh(np.matmul(x, p[0].w) + p[0].b)
    return ops.matmul(hidden, p[1].w) + p[1].b


LOOKALIKES = {
    "of absolute values": lambda p, x: nets.mlp(p, ops.relu(x)),
    "another activation": lambda p, x: nets.mlp(p, x, ops.sigmoid),
    "two activations": lambda p, x: ops.tanh(ops.relu(x @ p[0].w + p[0].b)) @ p[1].w + p[1].b,
    "a constant": lambda p, x: nets.mlp(p, x) + np.array([1.0, 0.0, 2.0]),
    "a shortcut": lambda p, x: nets.mlp(p, x) + (x @ p[0].w)[:, :3],
    "a maximum": lambda p, x: nets.mlp(p, x, lambda z: np.maximum(z, 0)),
    "no bias": lambda p, x: ops.relu(x @ p[0].w) @ p[1].w + p[1].b,
    "the same bias twice": lambda p, x: (ops.relu(x @ p[0].w + p[0].b) @ p[1].w + p[1].b) @ np.eye(3) + p[1].b,
    "twice as large on arrays": lambda p, x: nets.mlp(p, x) * (1 if type(x) is Tensor else 2),
    "fewer classes on arrays": lambda p, x: nets.mlp(p, x) if type(x) is Tensor else nets.mlp(p, x)[:, :2],
}


@pytest.fixture
def whole(monkeypatch):
    """The kinds for which the kernel of whole networks is called."""
    calls, kernel = [], perceptron.kernels.mlp_fisher
    noted = lambda *args, **kwargs: calls.append(kwargs["kind"]) or kernel(*args, **kwargs)
    monkeypatch.setattr(perceptron.kernels, "mlp_fisher", noted)
    return calls


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("net", [nets.mlp, lambda p, x: nets.mlp(p, x, ops.tanh), same_weights_in_other_words])
def test_a_perceptron_is_recognised_and_gets_what_the_rules_by_layer_give(whole, net, dtype):
    rng = np.random.default_rng(0)
    params = {"unused": np.ones(2, dtype), "layers": nets.init_mlp(rng, (4, 6, 3), sigma=1.0, dtype=dtype)}
    x, y = rng.normal(size=(50, 4)).astype(dtype), rng.integers(3, size=50)
    of_layers = lambda p, x: net(p["layers"], x)
    by_layer = lambda p, x: of_layers(p, x) * 1.0
    for kind in ("exact", "sampled", "empirical"):
        found, expected = (ewc.fisher_diagonal(f, params, x, y, kind) for f in (of_layers, by_layer))
        assert_trees_close(found, expected, rtol=1e-10 if dtype is np.float64 else 1e-4)
        assert {F.dtype for F in trees.leaves(found)} == {np.dtype(dtype)}
        assert not found["unused"].any()
        assert all(F.flags.owndata and F.flags.writeable for F in trees.leaves(found))
    assert whole == ["exact", "sampled", "empirical"]


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_a_perceptron_is_not_taken_for_one(whole, name):
    rng = np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (4, 6, 3), sigma=1.0, dtype=np.float64), np.abs(rng.normal(size=(5, 4)))
    assert_trees_close(ewc.fisher_diagonal(LOOKALIKES[name], params, x), by_loop(LOOKALIKES[name], params, x))
    assert whole == []


def test_samples_that_are_not_finite_are_named_for_a_perceptron_too():
    params, x = nets.init_mlp(np.random.default_rng(0), (4, 6, 3)), np.ones((20, 4), np.float32)
    x[17, 2] = np.nan
    with pytest.raises(ValueError, match="the logits of sample 17 are not finite"):
        ewc.fisher_diagonal(nets.mlp, params, x)


def peak(f):
    """The most bytes that NumPy's arrays had at once, which tracemalloc sees."""
    tracemalloc.start()
    f()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


@pytest.fixture
def one_thread(monkeypatch):
    """A second one, which may or may not be awake in time, would keep room to work in of its own."""
    if find_spec("numba"):
        from tinymeta.kernels.fisher import cpu

        monkeypatch.setattr(cpu, "available", lambda: 1)


@pytest.mark.usefixtures("one_thread")
def test_memory_is_that_of_a_block_whatever_the_number_of_samples():
    """8000 samples need no more than 2000, and less than their per-sample gradients."""
    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, (100, 80, 10))
    peaks = []
    for n in (2000, 8000):
        x = rng.normal(size=(n, 100)).astype(np.float32)
        peaks.append(peak(lambda: ewc.fisher_diagonal(lambda p, x: nets.mlp(p, x) * 2, params, x)))  # noqa: B023
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 2000 * 8000 * 4


@quiet
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.view()], ids=["at once", "one by one"])
def test_the_scores_of_many_classes_are_those_of_a_block_too(monkeypatch, view):
    """C - 1 columns of C for each sample, which are more than all values of a small net."""
    monkeypatch.setattr(sums, "BLOCK_BYTES", 1_000_000)
    rng = np.random.default_rng(0)
    params, peaks = {"w": draw(rng, 3, 4), "head": draw(rng, 4, 100)}, []
    for n in (20, 100):
        x = draw(rng, n, 3)
        peaks.append(peak(lambda: ewc.fisher_diagonal(lambda p, x: ops.sin(view(x) @ p["w"]) @ p["head"], params, x)))  # noqa: B023
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.usefixtures("one_thread")
def test_a_perceptron_takes_no_memory_of_the_size_of_its_samples():
    params, x = nets.init_mlp(np.random.default_rng(0), (200, 30, 10)), np.ones((60_000, 200), np.float32)
    x[::2] = 0.5
    ewc.fisher_diagonal(nets.mlp, params, x[:2000])  # what the kernel keeps for the next call
    assert (
        peak(lambda: ewc.fisher_diagonal(nets.mlp, params, x)) < x.size / 4
    )  # where a byte for each number would be x.size


def test_a_convolution_takes_the_memory_of_its_weights_and_values_not_of_their_product(monkeypatch):
    """At each of 28 x 28 positions a sample has an outer product of the size of the weights, 64 x 576: together 116 MB."""
    monkeypatch.setattr(sums, "BLOCK_BYTES", 1)  # one sample at a time
    rng = np.random.default_rng(0)
    convolved = lambda p, x: ops.mean(ops.relu(ops.conv2d(x, p["w"], padding=1)), axis=(2, 3)) @ p["head"]
    params = {"w": draw(rng, 64, 64, 3, 3).astype(np.float32), "head": draw(rng, 64, 5).astype(np.float32)}
    assert ewc.fisher_rules(convolved, params, draw(rng, 1, 64, 8, 8))["w"] == PATCHES
    peaks = []
    for n in (8, 24):
        x = draw(rng, n, 64, 28, 28).astype(np.float32)
        peaks.append(peak(lambda: ewc.fisher_diagonal(convolved, params, x)))  # noqa: B023
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 28 * 28 * params["w"].nbytes / 10


def test_a_batch_takes_few_calls_of_the_net():
    rng = np.random.default_rng(0)
    params, x = nets.init_mlp(rng, (6, 5, 10)), rng.normal(size=(3000, 6)).astype(np.float32)
    calls = []
    for net, most in ((nets.mlp, 2), (lambda p, x: 2 * nets.mlp(p, x), 3 + 2 * 3)):
        calls.clear()
        ewc.fisher_diagonal(lambda p, x: calls.append(0) or net(p, x), params, x)  # noqa: B023
        assert len(calls) <= most
