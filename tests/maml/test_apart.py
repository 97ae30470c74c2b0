"""Tasks whose parameters broadcast along each other's points are refused; those that are kept apart are not."""

import numpy as np
import pytest
from maml.problems import mse, net, points

import tinymeta as tm
from tinymeta import maml, ops

MIXED = "maml: the loss of a task changes with the parameters of other tasks"


def own_net(p, x):
    """Layers as one writes them for one task."""
    return np.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]


def loss(p, data):
    return np.mean((own_net(p, data[0]) - data[1]) ** 2, axis=(-2, -1))


def example(tasks, points):
    rng = np.random.default_rng(0)
    shapes = {"w1": (2, 8), "b1": (8,), "w2": (8, 1), "b2": (1,)}
    params = {name: 0.5 * rng.normal(size=shape) for name, shape in shapes.items()}
    draw = lambda: (rng.normal(size=(tasks, points, 2)), rng.normal(size=(tasks, points, 1)))
    return params, draw(), draw()


@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_bias_that_broadcasts_along_the_points_is_refused(points, compiled):
    params, support, query = example(5, points)
    step = tm.grad(lambda p: maml.meta_loss(loss, p, support, query, lr=0.5, steps=2))
    with pytest.raises(ValueError, match=MIXED):
        (tm.compile(step) if compiled else step)(params)


AMONG_OTHER_AXES = {  # what is alike beside the axis of points, and so lets a parameter broadcast along it
    "a number along a last axis of 1": ({"a": ()}, (3, 5, 1), lambda p, x: p["a"] * np.sin(x)),
    "a number along a made axis of 1": ({"w": (2, 1), "b": ()}, (3, 5, 2), lambda p, x: x @ p["w"] + p["b"]),
    "a matrix along channels of 1": ({"w": (6, 6)}, (3, 4, 1, 6, 6), lambda p, x: x * p["w"]),
    "a matrix along as many channels as tasks": ({"w": (6, 6)}, (3, 4, 3, 6, 6), lambda p, x: x * p["w"]),
}


@pytest.mark.parametrize("case", AMONG_OTHER_AXES)
def test_parameters_that_broadcast_along_another_axis_are_refused(case):
    shapes, shape, net = AMONG_OTHER_AXES[case]
    rng = np.random.default_rng(0)
    params, x = {name: rng.normal(size=s) for name, s in shapes.items()}, rng.normal(size=shape)
    squares = lambda p, x: ops.square(net(p, x) - 1)
    loss = lambda p, x: np.mean(squares(p, x), axis=tuple(range(1, squares(p, x).ndim)))
    with pytest.raises(ValueError, match=MIXED):
        maml.adapt(loss, params, x, lr=0.1, steps=1)


TARGETS_OF_OTHERS = {  # shapes of predictions and of further data, and the squared errors
    "targets without the last axis, as many points as tasks": ((5, 5, 1), (5, 5), lambda z, y: np.square(z - y)),
    "targets without the last axis, one point": ((5, 1, 1), (5, 1), lambda z, y: np.square(z - y)),
    "targets without the axis of points": ((5, 5, 3), (5, 3), lambda z, y: np.square(z - y)),
    "weights of tasks": ((5, 4, 1), (5,), lambda z, w: w * np.square(z)),
}


@pytest.mark.parametrize("case", TARGETS_OF_OTHERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_data_that_broadcast_along_another_axis_are_refused(case, compiled):
    (tasks, count, outputs), shape, errors = TARGETS_OF_OTHERS[case]
    rng = np.random.default_rng(0)
    params, x, other = {"w": rng.normal(size=(1, outputs))}, rng.normal(size=(tasks, count, 1)), rng.normal(size=shape)
    loss = lambda p, d: np.mean(errors(np.sin(d[0] @ p["w"]), d[1]), axis=(-2, -1))
    step = lambda data: maml.adapt(loss, params, data, lr=0.1, steps=1)
    with pytest.raises(ValueError, match="maml: the loss of a task changes with the data of other tasks"):
        (tm.compile(step) if compiled else step)((x, other))


def test_a_weight_of_each_task_is_in_order():
    rng = np.random.default_rng(0)
    params, data, weights = net(rng), points(rng, 5, 4), rng.uniform(1, 2, size=5)
    weighted = lambda p, d: d[1] * mse(p, d[0])
    together = maml.adapt(weighted, params, (data, weights), lr=0.1, steps=1)
    alone = maml.adapt(weighted, params, (tuple(x[3] for x in data), weights[3]), lr=0.1, steps=1)
    np.testing.assert_allclose(together[0].w[3], alone[0].w, rtol=1e-12)


def test_a_number_of_each_task_with_axes_of_its_own_is_in_order():
    rng = np.random.default_rng(0)
    params, x = {"a": np.array(1.0), "b": np.array(0.5)}, rng.normal(size=(3, 5, 1))
    wide = lambda p: p[..., None, None]
    loss = lambda p, x: np.mean(ops.square(wide(p["a"]) * np.sin(x - wide(p["b"])) - x), axis=(-2, -1))
    together = maml.adapt(loss, params, x, lr=0.1, steps=2)
    alone = [maml.adapt(loss, params, one, lr=0.1, steps=2)["a"] for one in x]
    np.testing.assert_allclose(together["a"], alone, rtol=1e-12)


def test_every_method_refuses_it():
    params, support, query = example(5, 5)
    for method in (maml.maml(0.1, 1), maml.meta_sgd(0.1, 1), maml.reptile(0.1, 2), maml.implicit(0.1, 2, 1.0)):
        with pytest.raises(ValueError, match=MIXED):
            method.meta_gradient(loss, method.init(params), support, query)


@pytest.mark.parametrize("points", [1, 5])
def test_a_loss_of_one_task_may_be_mapped(points):
    params, support, query = example(5, points)
    by_task = tm.vmap(lambda s, q: maml.meta_loss(loss, params, s, q, lr=0.5, steps=2))(support, query)
    alone = [
        maml.meta_loss(loss, params, *(tuple(x[t] for x in d) for d in (support, query)), lr=0.5, steps=2)
        for t in range(5)
    ]
    np.testing.assert_allclose(by_task, alone, rtol=1e-12)


@pytest.mark.parametrize("shape", [(5, 5), (5, 1), (1, 5), (4, 4)])
def test_tasks_that_are_kept_apart_are_not_refused(shape):
    rng = np.random.default_rng(0)
    params, data = net(rng), points(rng, *shape)
    for precise in (params, tm.trees.map(lambda p: p.astype(np.float32), params)):
        assert np.isfinite(maml.meta_loss(mse, precise, data, data, 0.1, 1))


def test_the_look_is_no_part_of_a_program():
    rng = np.random.default_rng(0)
    params, data = net(rng), points(rng, 5, 5)
    ambiguous = tm.compile(tm.grad(lambda p, d: maml.meta_loss(mse, p, d, d, 0.1, 1)))
    ambiguous(params, data)
    plain = tm.compile(tm.grad(lambda p, d: maml.meta_loss(mse, p, d, d, 0.1, 1)))
    plain(params, points(rng, 5, 6))
    assert ambiguous.source.count("\n") == plain.source.count("\n")


def test_of_a_loss_that_draws_numbers_nothing_is_said():
    rng = np.random.default_rng(0)
    params, data = net(rng), points(rng, 5, 5)
    noisy = lambda p, d: mse(p, d) + rng.normal(size=5)
    assert np.isfinite(maml.meta_loss(noisy, params, data, data, 0.1, 1))


def test_overflow_of_the_moved_parameters_is_no_error():
    params, data = {"a": np.zeros(1, np.float32)}, np.ones((3, 1), np.float32)
    steep = lambda p, d: ops.sum(ops.exp(300 * (p["a"] - d)), axis=-1)
    assert np.isfinite(maml.meta_loss(steep, params, data, data, 0.1, 1))
