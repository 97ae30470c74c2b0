"""tm.vmap of grad: per-example gradients, their variance, and products with each example's Hessian, beside a loop and JAX."""

import numpy as np
import pytest
from engine.vmapping import X, assert_same, loop

import tinymeta as tm
from tinymeta import l2l, nets, ops, trees


def mlp_case():
    params = nets.init_mlp(np.random.default_rng(1), (3, 6, 4), dtype=np.float64)
    return (
        lambda p, x, i: ops.softmax_cross_entropy(nets.mlp(p, x[None]), i[None])[0],
        params,
        X,
        np.array([0, 3, 1, 1]),
    )


def conv_case():
    rng = np.random.default_rng(2)
    params = [rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(12, 4)), rng.normal(size=4)]

    def loss(p, x, i):
        h = ops.max_pool2d(np.tanh(ops.conv2d(x[None], p[0], padding=1)), 2)
        return ops.softmax_cross_entropy(h.reshape(1, 12) @ p[1] + p[2], i[None])[0]

    return loss, params, rng.normal(size=(4, 2, 5, 4)), np.array([2, 0, 3, 3])


def lstm_case():
    rng = np.random.default_rng(4)
    params = [rng.normal(size=(5, 8)), rng.normal(size=8), rng.normal(size=2)]

    def loss(p, x, i):
        h = c = np.zeros((1, 2))
        for _ in range(2):
            h, c = l2l.lstm_cell(x[None], h, c, p[0], p[1])
        return ((h @ p[2])[0] - i) ** 2

    return loss, params, X, np.array([1.0, -1.0, 0.5, 0.0])


CASES = {"mlp": mlp_case, "conv": conv_case, "lstm": lstm_case}


@pytest.mark.parametrize("name", CASES)
def test_per_example_gradients_and_their_variance(name):
    loss, params, x, labels = CASES[name]()
    per_example = tm.vmap(tm.grad(loss), (None, 0, 0))
    expected = loop(lambda x, i: tm.grad(loss)(params, x, i))(x, labels)
    assert_same(per_example(params, x, labels), expected)
    mean = tm.grad(lambda p: np.mean(tm.vmap(loss, (None, 0, 0))(p, x, labels)))(params)
    assert_same(mean, trees.map(lambda g: np.mean(g, axis=0), expected))
    square = lambda gradients: sum(np.sum(g * g) for g in trees.leaves(gradients))
    one = lambda p, x, i: square(tm.grad(loss)(p, x, i))
    outer = tm.grad(lambda p: square(per_example(p, x, labels)))(params)
    assert_same(outer, tm.grad(lambda p: sum(one(p, a, i) for a, i in zip(x, labels, strict=True)))(params))


def jax_losses(jax):
    jnp, nn = jax.numpy, jax.nn

    def cross_entropy(logits, i):
        return -nn.log_softmax(logits)[i]

    def mlp(p, x, i):
        return cross_entropy(nn.relu(x @ p[0].w + p[0].b) @ p[1].w + p[1].b, i)

    def conv(p, x, i):
        h = jnp.tanh(jax.lax.conv_general_dilated(x[None], p[0], (1, 1), [(1, 1), (1, 1)]))
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return cross_entropy((h.reshape(1, 12) @ p[1] + p[2])[0], i)

    def lstm(p, x, i):
        h = c = jnp.zeros(2)
        for _ in range(2):
            a, f, g, o = jnp.split(jnp.concatenate([x, h]) @ p[0] + p[1], 4)
            c = nn.sigmoid(f) * c + nn.sigmoid(a) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
        return (h @ p[2] - i) ** 2

    return {"mlp": mlp, "conv": conv, "lstm": lstm}


@pytest.mark.parametrize("name", CASES)
def test_per_example_gradients_and_hessian_products_are_those_of_jax(name):
    jax = pytest.importorskip("jax", reason="per-example gradients are compared with JAX's where it is installed")
    loss, params, x, labels = CASES[name]()
    theirs = jax_losses(jax)[name]
    curve = lambda grad, jvp, loss: lambda p, x, i: jvp(lambda p: grad(loss)(p, x, i), (p,), (p,))
    with jax.enable_x64(True):
        expected = jax.vmap(curve(jax.grad, jax.jvp, theirs), (None, 0, 0))(params, x, labels)
        expected = trees.map(np.asarray, expected)
    assert_same(tm.vmap(curve(tm.grad, tm.jvp, loss), (None, 0, 0))(params, x, labels), expected, rtol=1e-9)
