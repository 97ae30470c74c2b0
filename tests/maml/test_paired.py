"""Targets that broadcast beside predictions, so that all points are compared with all, are refused with the line that does it."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import maml, ops

ALL_WITH_ALL = (
    r"maml: .*test_paired\.py:\d+ meets float64\[{}\] with {}\[1\], float64\[{}\], so that each of 5 points is compared"
)
WAYS = {
    "by itself": lambda f: f,
    "compiled": tm.compile,
    "in a derivative": lambda f: lambda data: tm.grad(lambda s: ops.sum(f((s, data[1]))["b"]))(data[0]),
    "in a vmap": lambda f: lambda data: tm.vmap(f)(tuple(np.stack([x, x]) for x in data)),
}


def linear(p, x):
    return x @ p["w"] + p["b"]


def example():
    rng = np.random.default_rng(0)
    return {"w": np.zeros((1, 1)), "b": np.zeros(1)}, rng.normal(size=(5, 1)), rng.normal(size=5)


def adapted(loss):
    return lambda data: maml.adapt(loss, example()[0], data, 0.1, 1)


@pytest.mark.parametrize("way", WAYS)
def test_targets_of_fewer_axes(way):
    _, x, y = example()
    loss = lambda p, d: np.mean((d[1] - linear(p, d[0])) ** 2)
    with pytest.raises(ValueError, match=ALL_WITH_ALL.format("5,1", "support", "5")):
        WAYS[way](adapted(loss))((x, y))


def test_predictions_of_fewer_axes():
    _, x, y = example()
    loss = lambda p, d: np.mean((linear(p, d[0])[:, 0] - d[1]) ** 2)
    with pytest.raises(ValueError, match=ALL_WITH_ALL.format("5", "support", "5,1")):
        adapted(loss)((x, y[:, None]))


@pytest.mark.parametrize("steps", [0, 1])
def test_targets_of_the_query_set(steps):
    params, x, y = example()
    loss = lambda p, d: np.mean((linear(p, d[0]) - d[1]) ** 2)
    objective = lambda p: maml.meta_loss(loss, p, (x, y[:, None]), (x, y), 0.1, steps)
    with pytest.raises(ValueError, match=ALL_WITH_ALL.format("5,1", "query", "5")):
        tm.grad(objective)(params)


IN_ORDER = {
    "as many axes": lambda p, x, y: linear(p, x)[:, 0] - y,
    "pairs that are meant": lambda p, x, y: linear(p, x) - y[None, :],
    "predictions among themselves": lambda p, x, y: linear(p, x) - linear(p, x)[:, 0],
    "a product of matrices": lambda p, x, y: y @ linear(p, x),
    "features of the parameters": lambda p, x, y: np.exp(p["w"] + np.zeros((5, 1))) * y,
    "a constant of the loss": lambda p, x, y: linear(p, x) - np.arange(5.0),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_only_looks_like_it_is_in_order(name):
    params, x, y = example()
    loss = lambda p, d: np.mean(IN_ORDER[name](p, *d) ** 2)
    found = maml.adapt(loss, params, (x, y), 0.1, 1)
    np.testing.assert_allclose(found["w"], params["w"] - 0.1 * tm.grad(loss)(params, (x, y))["w"])
