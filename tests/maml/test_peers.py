"""Meta-gradients against PyTorch's and JAX's on shared weights."""

import numpy as np
import pytest
from maml.problems import assert_close, mse, net, points

import tinymeta as tm
from tinymeta import maml, nets, ops


def torch_tree(torch, tree):
    return tm.trees.map(lambda p: torch.tensor(p, requires_grad=True), tree)


def torch_gradient(torch, loss, params, support, query, lr, steps, order):
    """The gradient of the mean query loss of several tasks, one after the other, by autograd with create_graph."""
    leaves, total = tm.trees.leaves(params), 0.0
    for t in range(len(support[0])):
        fast = params
        for _ in range(steps):
            flat = tm.trees.leaves(fast)
            gradients = torch.autograd.grad(loss(fast, [a[t] for a in support]), flat, create_graph=True)
            gradients = gradients if order == 2 else [g.detach() for g in gradients]
            fast = tm.trees.unflatten(fast, [p - lr * g for p, g in zip(flat, gradients, strict=True)])
        total = total + loss(fast, [a[t] for a in query]) / len(support[0])
    found = torch.autograd.grad(total, leaves)
    return tm.trees.unflatten(params, [g.numpy() for g in found])


@pytest.mark.parametrize("order", [1, 2])
def test_mlp_against_pytorch(order):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params, support, query = net(rng), points(rng, 3, 5), points(rng, 3, 4)

    def loss(layers, data):
        x, y = data
        for layer in layers[:-1]:
            x = torch.tanh(x @ layer.w + layer.b)
        return torch.mean((x @ layers[-1].w + layers[-1].b - y) ** 2)

    tensors = [[torch.tensor(a) for a in data] for data in (support, query)]
    expected = torch_gradient(torch, loss, torch_tree(torch, params), *tensors, 0.1, 3, order)
    assert_close(maml.maml(0.1, 3, order).meta_gradient(mse, params, support, query)[1], expected)


@pytest.mark.parametrize("pooled", [False, True])
def test_conv4_against_pytorch(pooled):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    if pooled:
        params, apply = (
            nets.init_pooled_conv4(rng, 3, filters=4, channels=2, side=17, dtype=np.float64),
            nets.pooled_conv4,
        )
    else:
        params, apply = nets.init_conv4(rng, 3, filters=4, channels=2, dtype=np.float64), nets.conv4
    support, query = ((rng.normal(size=(2, n, 2, 17, 17)), np.tile(np.arange(n) % 3, (2, 1))) for n in (3, 6))
    functional = torch.nn.functional

    def loss(params, data):
        (x, y), (layers, head) = data, params
        for layer in layers:
            x = functional.conv2d(x, layer.w, stride=1 if pooled else 2, padding=1)
            x = torch.relu(functional.batch_norm(x, None, None, layer.gamma, layer.beta, training=True))
            x = functional.max_pool2d(x, 2) if pooled else x
        x = x.flatten(1) if pooled else x.mean((-2, -1))
        return functional.cross_entropy(x @ head.w + head.b, y)

    def ours(params, data):
        x, y = data
        return ops.mean(ops.softmax_cross_entropy(apply(params, x), y), axis=-1)

    tensors = [[torch.tensor(a) for a in data] for data in (support, query)]
    expected = torch_gradient(torch, loss, torch_tree(torch, params), *tensors, 0.4, 2, 2)
    found = maml.maml(0.4, 2).meta_gradient(ours, params, support, query)[1]
    assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_methods_with_learned_rates_against_jax():
    jax = pytest.importorskip("jax")
    rng = np.random.default_rng(2)
    params, support, query = net(rng, np.float32), *(points(rng, 3, n, dtype=np.float32) for n in (5, 4))
    step_weights = maml.step_weights(2, 0.5)

    def loss(layers, data):
        x, y = data
        for layer in layers[:-1]:
            x = jax.numpy.tanh(x @ layer.w + layer.b)
        return jax.numpy.mean((x @ layers[-1].w + layers[-1].b - y) ** 2)

    def objective(rate, weights):
        def of_task(meta, support, query):
            fast, total = meta.params, 0.0
            for step, weight in enumerate(weights):
                gradient = jax.grad(loss)(fast, support)
                fast = jax.tree.map(lambda p, g, r: p - r * g, fast, gradient, rate(meta.rates, step))
                total = total + weight * loss(fast, query)
            return total

        return lambda meta: jax.numpy.mean(jax.vmap(of_task, (None, 0, 0))(meta, support, query))

    for method, rate, weights in (
        (maml.meta_sgd(0.1, 2), lambda rates, step: rates, np.array([0.0, 1.0], np.float32)),
        (maml.maml_plus_plus(0.1, 2), lambda rates, step: rates[step], step_weights),
    ):
        meta = method.init(params)
        value, gradient = jax.value_and_grad(objective(rate, weights))(meta)
        found = method.meta_gradient(mse, meta, support, query, weights)
        assert_close(found, (np.asarray(value), tm.trees.map(np.asarray, gradient)), rtol=2e-4, atol=1e-5)
