"""tinymeta.nets: shapes and initial distributions, leading task axes against a loop over tasks, gradients to second order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import nets, ops, trees

seeds = st.integers(0, 2**32 - 1)
task_axes = st.sampled_from([(), (3,), (1,), (2, 2)])


def in_float64(params):
    return trees.map(lambda x: x.astype(np.float64), params)


def perturbed(rng, params, tasks=()):
    """Copies of params for each task, every entry different: biases, gammas and betas too."""
    return trees.map(lambda x: x + 0.3 * rng.normal(size=(*tasks, *x.shape)), in_float64(params))


def task(tree, at):
    return trees.map(lambda x: x[at], tree)


# ---- the multilayer perceptron ----


def test_an_mlp_has_a_layer_between_each_two_sizes():
    params = nets.init_mlp(np.random.default_rng(0), (784, 20, 10))
    assert [(layer.w.shape, layer.b.shape) for layer in params] == [((784, 20), (20,)), ((20, 10), (10,))]
    assert sum(x.size for x in trees.leaves(params)) == 15_910
    assert {x.dtype for x in trees.leaves(params)} == {np.dtype(np.float32)}
    assert nets.mlp(params, np.zeros((5, 784), np.float32)).dtype == np.float32


@pytest.mark.parametrize(("sigma", "scale"), [(None, np.sqrt(2 / 300)), (0.01, 0.01), (0.0, 0.0)])
def test_mlp_weights_have_the_stated_spread_and_biases_are_zero(sigma, scale):
    (layer,) = nets.init_mlp(np.random.default_rng(0), (300, 200), sigma, np.float64)
    assert np.std(layer.w) == pytest.approx(scale, rel=0.02)
    assert np.mean(layer.w) == pytest.approx(0, abs=0.02 * scale)
    assert not layer.b.any()


@given(seed=seeds, n=st.integers(0, 3), depth=st.integers(1, 3))
def test_an_mlp_is_its_layers_written_out(seed, n, depth):
    rng = np.random.default_rng(seed)
    params = perturbed(rng, nets.init_mlp(rng, (2, 4, 3, 5)[: depth + 1]))
    x = rng.normal(size=(n, 2))
    y = x
    for k, (w, b) in enumerate(params):
        y = y @ w + b
        y = np.tanh(y) if k < depth - 1 else y
    np.testing.assert_allclose(nets.mlp(params, x, ops.tanh), y, rtol=1e-13, atol=1e-13)


def test_an_mlp_uses_relu_unless_told_otherwise():
    params = (nets.Layer(np.eye(2), np.zeros(2)), nets.Layer(np.eye(2), np.zeros(2)))
    np.testing.assert_array_equal(nets.mlp(params, np.array([[-1.0, 2.0]])), [[0.0, 2.0]])


@given(seed=seeds, tasks=task_axes, n=st.integers(0, 3))
def test_task_axes_of_an_mlp_are_a_loop_over_tasks(seed, tasks, n):
    rng = np.random.default_rng(seed)
    params = perturbed(rng, nets.init_mlp(rng, (2, 4, 3)), tasks)
    x = rng.normal(size=(*tasks, n, 2))
    logits = nets.mlp(params, x, ops.tanh)
    assert logits.shape == (*tasks, n, 3)
    for at in np.ndindex(tasks):
        np.testing.assert_allclose(logits[at], nets.mlp(task(params, at), x[at], ops.tanh), rtol=1e-12, atol=1e-13)


@given(seed=seeds, tasks=task_axes, n=st.integers(0, 3))
def test_an_mlp_shares_inputs_or_parameters_over_tasks(seed, tasks, n):
    rng = np.random.default_rng(seed)
    start = nets.init_mlp(rng, (2, 4, 3))
    many, one = perturbed(rng, start, tasks), perturbed(rng, start)
    x, xs = rng.normal(size=(n, 2)), rng.normal(size=(*tasks, n, 2))
    for at in np.ndindex(tasks):
        np.testing.assert_allclose(nets.mlp(many, x)[at], nets.mlp(task(many, at), x), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(nets.mlp(one, xs)[at], nets.mlp(one, xs[at]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tasks", [(), (2,)])
def test_mlp_gradients_are_right_to_second_order(tasks):
    rng = np.random.default_rng(0)
    params, x = perturbed(rng, nets.init_mlp(rng, (2, 3, 2)), tasks), rng.normal(size=(*tasks, 3, 2))
    tm.check.gradients(lambda params, x: nets.mlp(params, x, ops.tanh), params, x, order=2)


def test_each_task_has_its_own_gradient():
    rng = np.random.default_rng(0)
    params, x = perturbed(rng, nets.init_mlp(rng, (2, 3, 2)), (3,)), rng.normal(size=(3, 4, 2))
    loss = lambda params, x: ops.sum(ops.square(nets.mlp(params, x, ops.tanh)))
    together = tm.grad(loss)(params, x)
    for t in range(3):
        alone = tm.grad(loss)(task(params, t), x[t])
        for a, b in zip(trees.leaves(task(together, t)), trees.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


# ---- the convolutional net ----


def small_conv4(rng, tasks=(), filters=3, channels=2, classes=4):
    return perturbed(rng, nets.init_conv4(rng, classes, filters, channels), tasks)


def images(rng, *shape):
    return rng.normal(size=(*shape, 2, 9, 8))


def test_conv4_has_the_published_shapes():
    """MAML's Omniglot net: 4 blocks of 64 filters, 3x3, stride 2 (28 -> 14 -> 7 -> 4 -> 2), then 64 features."""
    params = nets.init_conv4(np.random.default_rng(0), classes=5)
    convolutions, head = params
    assert [layer.w.shape for layer in convolutions] == [(64, 1, 3, 3)] + 3 * [(64, 64, 3, 3)]
    assert head.w.shape == (64, 5)
    assert sum(x.size for x in trees.leaves(params)) == 576 + 3 * 36_864 + 4 * 128 + 325
    logits = nets.conv4(params, np.random.default_rng(1).random((3, 1, 28, 28), np.float32))
    assert (logits.shape, logits.dtype) == ((3, 5), np.float32)


def test_conv4_starts_within_glorots_limits_and_batch_norm_as_the_identity():
    convolutions, _ = nets.init_conv4(np.random.default_rng(0), classes=5, filters=32, channels=3)
    for layer, fan_in in zip(convolutions, (3, 32, 32, 32), strict=True):
        limit = np.sqrt(6 / (9 * (fan_in + 32)))
        assert limit * 0.9 < np.max(np.abs(layer.w)) <= np.float32(limit)
        np.testing.assert_array_equal(layer.gamma, 1)
        np.testing.assert_array_equal(layer.beta, 0)


def block(x, layer):
    """One block in loops: convolution of stride 2 and padding 1, batch norm over images and positions, ReLU."""
    w, gamma, beta = layer
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = (x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2
    y = np.empty((len(x), len(w), height, width))
    for i, j in np.ndindex(height, width):
        y[:, :, i, j] = np.einsum("ncij,ocij->no", padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], w)
    mean, var = y.mean(axis=(0, 2, 3), keepdims=True), y.var(axis=(0, 2, 3), keepdims=True)
    return np.maximum((y - mean) / np.sqrt(var + 1e-5) * gamma[:, None, None] + beta[:, None, None], 0)


@given(seed=seeds, n=st.integers(1, 4))
def test_conv4_is_its_blocks_written_out(seed, n):
    rng = np.random.default_rng(seed)
    convolutions, head = params = small_conv4(rng)
    x = y = images(rng, n)
    for layer in convolutions:
        y = block(y, layer)
    np.testing.assert_allclose(nets.conv4(params, x), y.mean(axis=(2, 3)) @ head.w + head.b, rtol=1e-9, atol=1e-9)


@given(seed=seeds, tasks=task_axes, n=st.integers(2, 3))
def test_task_axes_of_conv4_are_a_loop_over_tasks(seed, tasks, n):
    """Batch norm takes each task's own statistics; images or parameters may be shared."""
    rng = np.random.default_rng(seed)
    params, x = small_conv4(rng, tasks), images(rng, *tasks, n)
    shared_params, shared_x = small_conv4(rng), images(rng, n)
    for at in np.ndindex(tasks):
        for found, expected in (
            (nets.conv4(params, x), nets.conv4(task(params, at), x[at])),
            (nets.conv4(params, shared_x), nets.conv4(task(params, at), shared_x)),
            (nets.conv4(shared_params, x), nets.conv4(shared_params, x[at])),
        ):
            assert found.shape == (*tasks, n, 4)
            np.testing.assert_allclose(found[at], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tasks", [(), (2,)])
def test_conv4_gradients_are_right_to_second_order(tasks):
    rng = np.random.default_rng(0)
    params, x = small_conv4(rng, tasks, filters=2), images(rng, *tasks, 3)
    labels = rng.integers(0, 4, (*tasks, 3))
    loss = lambda params, x: ops.mean(ops.softmax_cross_entropy(nets.conv4(params, x), labels))
    tm.check.gradients(loss, params, x, order=2)


def test_pooled_conv4_has_the_published_shapes():
    """MAML's mini-ImageNet net: 32 filters, 84 -> 42 -> 21 -> 10 -> 5 by max-pooling, then 800 features."""
    params = nets.init_pooled_conv4(np.random.default_rng(0), classes=5, scaled=False)
    convolutions, head = params
    assert [layer.w.shape for layer in convolutions] == [(32, 3, 3, 3)] + 3 * [(32, 32, 3, 3)]
    assert head.w.shape == (800, 5)
    assert sum(x.size for x in trees.leaves(params)) == 864 + 3 * 9_216 + 4 * 32 + 4_005
    assert nets.pooled_conv4(params, np.random.default_rng(1).random((2, 3, 84, 84), np.float32)).shape == (2, 5)


@pytest.mark.parametrize("tasks", [(), (2,)])
def test_pooled_conv4_is_its_blocks_written_out(tasks):
    rng = np.random.default_rng(2)
    params = perturbed(rng, nets.init_pooled_conv4(rng, 3, filters=2, channels=2, side=17), tasks)
    x = rng.normal(size=(*tasks, 3, 2, 17, 17))
    for at in np.ndindex(tasks):
        convolutions, head = task(params, at)
        y = x[at]
        for layer in convolutions:
            y = ops.conv2d(y, layer.w, padding=1)
            y = (y - y.mean((0, 2, 3), keepdims=True)) / np.sqrt(y.var((0, 2, 3), keepdims=True) + 1e-5)
            y = np.maximum(y * layer.gamma[:, None, None] + layer.beta[:, None, None], 0)
            side = y.shape[-1] // 2
            y = y[..., : 2 * side, : 2 * side].reshape(*y.shape[:2], side, 2, side, 2).max(axis=(3, 5))
        expected = y.reshape(3, -1) @ head.w + head.b
        np.testing.assert_allclose(nets.pooled_conv4(params, x)[at], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scaled", [True, False])
def test_normed_mlp_is_its_layers_written_out(scaled):
    rng = np.random.default_rng(3)
    params = perturbed(rng, nets.init_normed_mlp(rng, (4, 5, 3, 2), scaled=scaled), (2,))
    x = rng.normal(size=(2, 6, 4))
    assert all((layer.gamma is not None) == scaled for layer in params[:-1])
    for t in range(2):
        y = x[t]
        for layer in task(params, t)[:-1]:
            y = y @ layer.w
            y = (y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5)
            y = np.maximum((y * layer.gamma if scaled else y) + layer.beta, 0)
        head = task(params[-1], t)
        np.testing.assert_allclose(nets.normed_mlp(params, x)[t], y @ head.w + head.b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("init", "apply", "shape"),
    [
        (lambda rng: nets.init_normed_mlp(rng, (3, 4, 2), scaled=True), nets.normed_mlp, (2, 4, 3)),
        (lambda rng: nets.init_pooled_conv4(rng, 2, 2, 1, 16, scaled=False), nets.pooled_conv4, (2, 3, 1, 16, 16)),
    ],
    ids=["normed_mlp", "pooled_conv4"],
)
def test_nets_with_batch_norm_are_right_to_second_order(init, apply, shape):
    rng = np.random.default_rng(4)
    params, x = perturbed(rng, init(rng), (2,)), rng.normal(size=shape)
    labels = rng.integers(0, 2, shape[:2])
    tm.check.gradients(lambda params: ops.mean(ops.softmax_cross_entropy(apply(params, x), labels)), params, order=2)


def test_images_that_four_poolings_leave_nothing_of_are_refused():
    with pytest.raises(ValueError, match="init_pooled_conv4: side is 12, expected 16 or more"):
        nets.init_pooled_conv4(np.random.default_rng(0), 5, side=12)


HEADS = {  # inputs of the head, and the spread of its initial weights: the root of 1 / inputs unless told otherwise
    "conv4": (lambda rng: nets.init_conv4(rng, 500, filters=16), 1 / 4),
    "conv4 of the authors' code": (lambda rng: nets.init_conv4(rng, 500, filters=16, head_sigma=1.0), 1.0),
    "pooled_conv4": (lambda rng: nets.init_pooled_conv4(rng, 500, filters=4, side=32), 1 / 4),
    "normed_mlp": (lambda rng: nets.init_normed_mlp(rng, (2, 16, 500)), 0.01),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_have_the_stated_spread_and_their_biases_are_zero(name):
    init, spread = HEADS[name]
    *_, head = init(np.random.default_rng(0))
    assert np.std(head.w) == pytest.approx(spread, rel=0.03)
    assert not head.b.any()


@pytest.mark.parametrize(
    ("init", "apply", "shape"),
    [
        (lambda rng: nets.init_normed_mlp(rng, (3, 4, 2), 1.0), nets.normed_mlp, (5, 3)),
        (lambda rng: nets.init_conv4(rng, 2, 3), nets.conv4, (5, 1, 9, 9)),
        (lambda rng: nets.init_pooled_conv4(rng, 2, 3, 1, 16), nets.pooled_conv4, (5, 1, 16, 16)),
    ],
    ids=["normed_mlp", "conv4", "pooled_conv4"],
)
def test_eps_is_added_to_the_variances_of_every_batch_norm(init, apply, shape):
    """Maps before batch norm that are ten times as large, and an eps a hundred times as large, leave the logits as they are."""
    rng = np.random.default_rng(5)
    params, x = in_float64(init(rng)), rng.normal(size=shape)
    layers = params[:-1] if apply is nets.normed_mlp else params[0]
    larger = tuple(layer._replace(w=10 * layer.w) for layer in layers)
    larger = (*larger, params[-1]) if apply is nets.normed_mlp else (larger, params[-1])
    np.testing.assert_allclose(apply(larger, x, 10.0), apply(params, x, 0.1), rtol=1e-9)
    assert not np.allclose(apply(params, x, 0.1), apply(params, x), rtol=1e-3)
