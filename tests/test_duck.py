"""The engine, the ops and the three algorithms on a strict array that is not NumPy's: what a GPU would run, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from duck import Duck

import tinymeta as tm
from tinymeta import l2l, nets, ops, optim


def ducks(tree: Any) -> Any:
    return tm.trees.map(lambda x: Duck(x.copy()) if isinstance(x, (np.ndarray, np.generic)) else x, tree)


def host(tree: Any) -> Any:
    def inner(x: Any) -> Any:
        assert not isinstance(x, np.ndarray), "a NumPy array came out of a computation on Ducks"
        return x.inner if isinstance(x, Duck) else x

    return tm.trees.map(inner, tree)


def assert_same(on_ducks: Any, on_numpy: Any, atol: float = 0.0) -> None:
    for a, b in zip(tm.trees.leaves(host(on_ducks)), tm.trees.leaves(on_numpy), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def elementwise(x: Any) -> Any:
    smooth = ops.tanh(x) * ops.sqrt(ops.abs(x)) + ops.power(x, 3) + ops.softplus(x) + ops.log1p(ops.square(x))
    kinked = ops.relu(x) + ops.maximum(x, 0.1) + ops.logaddexp(x, 0.5) + ops.clip(x, -1, 1) + ops.where(x > 0, x, 2 * x)
    return ops.sum(smooth * kinked)


def reductions(x: Any) -> Any:
    totals = ops.std(x) + ops.max(x) + ops.prod(x) + ops.mean(ops.var(x, axis=1))
    return totals + ops.sum(ops.logsumexp(x, axis=1)) + ops.sum(ops.cumsum(x, axis=0) * x) + ops.sum(ops.min(x, axis=0))


def indexing(x: Any, i: Any) -> Any:
    read = x[i] * x[[0, 0, 2]] + ops.take(x, i, axis=0) ** 2
    return (
        ops.sum(read) + ops.sum(ops.scatter_add(x, i, x * 2) ** 2) + ops.sum(ops.take_along_axis(x, i[:, None], 1) ** 2)
    )


def moves(x: Any) -> Any:
    joined = ops.concatenate([ops.flip(x, 0), ops.roll(x, 1, 0), ops.pad(x, 1)[1:-1, 1:-1]])
    return ops.sum(joined**2) + ops.sum(ops.stack([x, x * x]) ** 3) + ops.sum(ops.split(x, 2, axis=1)[1] ** 2)


def network(x: Any, labels: Any) -> Any:
    chosen = ops.one_hot(labels, x.shape[-1], x.dtype) * ops.log_softmax(x)
    return ops.mean(ops.softmax_cross_entropy(ops.tanh(x), labels)) + ops.sum(chosen**2)


CASES: dict[str, tuple[Callable, tuple[Any, ...]]] = {
    "elementwise": (elementwise, ()),
    "reductions": (reductions, ()),
    "indexing": (indexing, (np.array([0, 2, 1]),)),
    "moves": (moves, ()),
    "network": (network, (np.array([0, 3, 1]),)),
}


@pytest.mark.parametrize("name", CASES)
def test_ops_and_their_derivatives_stay_on_the_array_type(name: str) -> None:
    f, more = CASES[name]
    rng = np.random.default_rng(7)
    x, v = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))

    def run(z: Any, rest: Any, direction: Any) -> Any:
        def g(a: Any) -> Any:
            return f(a, *rest)

        hvps = [tm.hvp(g, z, direction, mode) for mode in ("forward-over-reverse", "reverse-over-reverse")]
        return [tm.grad(g)(z), *hvps, tm.jvp(g, (z,), (direction,))[1]]

    assert_same(run(*ducks((x, more, v))), run(x, more, v))


def test_matrix_functions_stay_on_the_array_type() -> None:
    rng = np.random.default_rng(8)
    w = rng.normal(size=(4, 4))
    args = (rng.normal(size=(3, 4)), w @ w.T + np.eye(4), rng.normal(size=(3, 4)))

    def run(x: Any, s: Any, v: Any) -> Any:
        def f(x: Any, s: Any) -> Any:
            matrix = ops.sum(ops.solve(s, ops.swapaxes(x, 0, 1)) ** 2) + ops.sum(ops.cholesky(s) ** 3)
            products = (
                ops.sum(ops.einsum("ij,jk->ik", x, s) ** 2)
                + ops.einsum("ii->", s) ** 2
                + ops.sum(ops.einsum("ij->j", x) ** 2)
            )
            return (
                matrix
                + products
                + ops.norm(x)
                + ops.dot(x[0], s[0])
                + ops.sum(ops.tensordot(x, s, 1) * ops.outer(x[0], s[0])[:3])
            )

        return [tm.grad(f, argnums=(0, 1))(x, s), tm.hvp(lambda a: f(a, s), x, v)]

    assert_same(run(*ducks(args)), run(*args))


def test_a_convolutional_net_with_batch_norm_and_pooling() -> None:
    rng = np.random.default_rng(9)
    params, images = nets.init_conv4(rng, 3, filters=4, dtype=np.float64), rng.normal(size=(2, 3, 1, 16, 16))
    labels = np.array([[0, 1, 2], [2, 1, 0]])

    def run(params: Any, images: Any, labels: Any) -> Any:
        def loss(p: Any) -> Any:
            pooled = ops.mean(ops.max_pool2d(images, 2)) * ops.mean(ops.mean_pool2d(images, 2))
            return ops.mean(ops.softmax_cross_entropy(nets.conv4(p, images), labels)) + pooled

        return [tm.grad(loss)(params), tm.hvp(loss, params, params)]

    assert_same(run(*ducks((params, images, labels))), run(params, images, labels))


def test_checkpoint_jacobian_and_linearize() -> None:
    rng = np.random.default_rng(10)
    x, w = rng.normal(size=3), rng.normal(size=(3, 3))

    def run(x: Any, w: Any) -> Any:
        block = tm.checkpoint(lambda h: ops.tanh(ops.matmul(w, h)) * h)
        y, push = tm.linearize(block, x)
        return [y, push(x), tm.jacobian(block)(x), tm.hessian(lambda z: ops.sum(block(z) ** 2))(x)]

    assert_same(run(*ducks((x, w))), run(x, w))


def test_the_learned_optimizer_trains() -> None:
    rng = np.random.default_rng(11)
    optimizer = l2l.LSTMOptimizer.create(rng, hidden=(5, 4))
    draws = tuple(rng.normal(size=shape).astype(np.float32) for shape in ((2, 3, 3), (2, 3), (2, 3)))

    def run(weights: Any, draws: Any) -> Any:
        adam = optim.adam(1e-2)
        step = l2l.meta_step(
            optimizer.with_weights(weights), l2l.quadratic_problem(*draws), None, adam, adam.init(weights), 4
        )
        return step[0].weights

    # NumPy's own arrays go through another kernel, which rounds otherwise
    assert_same(run(*ducks((optimizer.weights, draws))), run(optimizer.weights, draws), atol=1e-6)


def test_maml_adapts_and_its_meta_gradient_flows() -> None:
    rng = np.random.default_rng(12)
    params = nets.init_mlp(rng, (1, 5, 1), dtype=np.float64)
    support, query = ((rng.normal(size=(3, 4, 1)), rng.normal(size=(3, 4, 1))) for _ in range(2))

    def run(params: Any, support: Any, query: Any) -> Any:
        def loss(p: Any, batch: Any) -> Any:
            return ops.mean(ops.square(nets.mlp(p, batch[0]) - batch[1]), axis=(-2, -1))

        def meta_gradient(order: int) -> Any:
            return tm.grad(lambda p: tm.maml.meta_loss(loss, p, support, query, 0.1, 2, order))(params)

        return [meta_gradient(1), meta_gradient(2)]

    assert_same(run(*ducks((params, support, query))), run(params, support, query))


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
def test_fisher_and_the_ewc_penalty(kind: str) -> None:
    rng = np.random.default_rng(13)
    params, x = nets.init_mlp(rng, (3, 4, 2), dtype=np.float64), rng.normal(size=(6, 3))
    labels = rng.integers(0, 2, size=6)

    def run(params: Any, x: Any, labels: Any) -> Any:
        fisher = tm.ewc.fisher_diagonal(nets.mlp, params, x, labels, kind=kind, **KIND_OPTIONS[kind]())
        penalty = tm.ewc.Penalty(3.0).add_task(params, fisher)
        moved = tm.trees.map(lambda p: p + 0.5, params)
        return [fisher, penalty.grad(moved), tm.grad(penalty.value)(moved)]

    assert_same(run(*ducks((params, x, labels))), run(params, x, labels))


KIND_OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "exact": dict,
    "sampled": lambda: {"rng": np.random.default_rng(5)},
    "empirical": dict,
    "batched": lambda: {"batch_size": 2},
}


def test_the_duck_is_strict() -> None:
    duck = Duck(np.ones(3))
    for convert in (np.asarray, lambda d: d + np.ones(3), lambda d: np.concatenate([d, np.ones(3)]), int):
        with pytest.raises(TypeError):
            convert(duck)
