"""The convolutional optimizee: PyTorch's net in float64, value and gradient; leading axes; problems on mini-batches."""

from __future__ import annotations

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import nets, ops, trees
from tinymeta.l2l.convnet import EPS, ConvNet, conv_net, conv_problem, init_conv_net
from tinymeta.l2l.runner import losses_and_grads


def params_in_float64(rng, image=(3, 8, 8), classes=4, filters=(3, 2, 4), hidden=5, tasks=()):
    """Weights of full size, and shifts so low that every unit is off for some images: else the next mean cancels its shift."""
    start = init_conv_net(rng, image, classes, filters, hidden, tasks=tasks)
    params = trees.map(lambda x: x + 0.4 * rng.normal(size=x.shape), start)
    return params._replace(conv=tuple(layer._replace(beta=layer.beta - 0.7) for layer in params.conv))


def torch_loss(torch, params, x, y):
    """The order of the authors' code: convolution, batch norm, ReLU, pooling."""
    functional = torch.nn.functional
    norm = lambda z, beta: functional.batch_norm(z, None, None, None, beta, training=True, eps=EPS)
    for w, beta in params.conv:
        x = functional.max_pool2d(functional.relu(norm(functional.conv2d(x, w, padding="same"), beta)), 2)
    x = functional.relu(norm(x.flatten(1) @ params.hidden.w, params.hidden.beta))
    return functional.cross_entropy(x @ params.out.w + params.out.b, y)


@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_pytorchs_in_float64(seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    params, x, y = params_in_float64(rng), rng.random((8, 3, 8, 8)), rng.integers(4, size=8)
    ours, gradient = tm.value_and_grad(lambda p: ops.mean(ops.softmax_cross_entropy(conv_net(p, x), y)))(params)
    theirs = trees.map(lambda a: torch.tensor(a, requires_grad=True), params)
    loss = torch_loss(torch, theirs, torch.tensor(x), torch.tensor(y))
    np.testing.assert_allclose(ours, loss.item(), rtol=1e-12)
    expected = torch.autograd.grad(loss, trees.leaves(theirs))
    for (path, found), wanted in zip(trees.items(gradient), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-8, atol=1e-11, err_msg=path)
        assert np.abs(found).max() > 1e-6, f"{path} does not matter here"


def test_leading_axes_are_nets_of_their_own():
    rng = np.random.default_rng(0)
    params, x = params_in_float64(rng, tasks=(2,)), rng.random((2, 5, 3, 8, 8))
    for b in range(2):
        one = trees.map(lambda p, b=b: p[b], params)
        np.testing.assert_allclose(conv_net(params, x)[b], conv_net(one, x[b]), rtol=1e-10, atol=1e-12)


def test_the_sizes_of_the_authors_code():
    """5 x 5 kernels, 16-16-16 filters, 32 units: 22,682 parameters there, of which 80 are biases that batch norm cancels."""
    params = init_conv_net(np.random.default_rng(0), (3, 32, 32), 10)
    assert [layer.w.shape for layer in params.conv] == [(16, 3, 5, 5), (16, 16, 5, 5), (16, 16, 5, 5)]
    assert sum(x.size for x in trees.leaves(params)) == 22_682 - 80
    assert {x.dtype for x in trees.leaves(params)} == {np.dtype(np.float32)}
    assert np.std(params.hidden.w) == pytest.approx(0.01, rel=0.05)
    assert isinstance(params, ConvNet)
    assert isinstance(params.out, nets.Layer)


@pytest.mark.parametrize("image", [(3, 8, 12), (3, 4, 8)])
def test_images_that_cannot_be_halved_are_refused(image):
    with pytest.raises(ValueError, match=f"images are {image[1]} x {image[2]}, expected multiples of 8"):
        init_conv_net(np.random.default_rng(0), image, 10)


def test_a_problem_is_its_nets_on_their_own_mini_batches():
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(20, 3, 8, 8)).astype(np.uint8), rng.integers(3, size=20)
    batches = rng.integers(20, size=(2, 3, 6))
    problem = conv_problem(x, y, batches, rng, filters=(2, 2), hidden=3, sigma=0.5)
    losses, gradient = losses_and_grads(problem, problem.theta, 4)
    for b, chosen in enumerate(batches[:, 1]):  # the batches begin anew after the third
        one = trees.map(lambda p, b=b: p[b], problem.theta)
        pixels = x[chosen].astype(np.float32) / 255
        loss = lambda p, pixels=pixels, chosen=chosen: ops.mean(
            ops.softmax_cross_entropy(conv_net(p, pixels), y[chosen])
        )
        value, expected = tm.value_and_grad(loss)(one)
        np.testing.assert_allclose(losses[b], value, rtol=1e-6)
        trees.map(lambda g, e, b=b: np.testing.assert_allclose(g[b], e, rtol=2e-4, atol=1e-6), gradient, expected)
    assert not np.array_equal(problem.theta.conv[0].w[0], problem.theta.conv[0].w[1])


def test_the_compiled_gradient_can_be_differentiated():
    rng = np.random.default_rng(0)
    problem = conv_problem(
        rng.random((9, 3, 8, 8)), rng.integers(3, size=9), np.arange(8).reshape(2, 1, 4), rng, (2,), 3, 0.5
    )
    theta = trees.map(np.float64, problem.theta)
    plain = problem._replace(gradient=None)
    norm = lambda problem: (
        lambda theta: sum(ops.sum(g * g) for g in trees.leaves(losses_and_grads(problem, theta, 0)[1]))
    )
    assert norm(problem)(theta) == pytest.approx(norm(plain)(theta))
    compared = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    trees.map(compared, tm.grad(norm(problem))(theta), tm.grad(norm(plain))(theta))


def test_float_images_are_taken_as_they_are():
    rng = np.random.default_rng(0)
    x, y, batches = (
        rng.integers(256, size=(9, 3, 8, 8)).astype(np.uint8),
        rng.integers(3, size=9),
        np.arange(9).reshape(1, 1, 9),
    )
    by_dtype = [conv_problem(z, y, batches, np.random.default_rng(1), (2,), 3, 0.5) for z in (x, x / np.float32(255))]
    np.testing.assert_array_equal(*(problem.loss(problem.theta, 0) for problem in by_dtype))
