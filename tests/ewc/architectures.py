"""Generated networks in float64 for the laws of the Fisher information: dense, convolutional, over time, recurrent."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tinymeta import nets, ops
from tinymeta.engine import trees

ACTIVATIONS = {"relu": ops.relu, "tanh": ops.tanh, "linear": lambda z: z}


class Problem(NamedTuple):
    """A net (params, x, activation) -> logits, its parameters, samples and labels; `act` is the activation it was drawn with.

    `axes` is a tree like the parameters that names their axes, as "in hidden" (inputs are "in", classes "out", "." is any other),
    and `seen` names those of x: what is numbered anew under one name, everywhere, is the same net.
    """

    layers: Callable
    params: Any
    axes: Any
    seen: str
    x: np.ndarray
    y: np.ndarray
    act: Callable

    def net(self, params, x):
        return self.layers(params, x, self.act)

    @property
    def classes(self):
        return self.net(self.params, self.x).shape[1]


def dense(draw, normal):
    sizes = [draw(st.integers(1, 5)) for _ in range(draw(st.integers(1, 3)))]
    sizes.append(draw(st.integers(2, 4)))
    params = tuple(nets.Layer(normal(a, b), normal(b)) for a, b in itertools.pairwise(sizes))
    names = ["in", *(f"hidden{k}" for k in range(1, len(params))), "out"]
    axes = tuple(nets.Layer(f"{a} {b}", b) for a, b in itertools.pairwise(names))
    return nets.mlp, params, axes, (sizes[0],), "n in"


def convolution(draw, normal):
    """A convolution with a bias, batch norm with given statistics, mean pooling over everything, a head."""
    c, o, k, stride, padding = (draw(st.integers(1, high)) for high in (2, 3, 3, 2, 2))
    mean, var = normal(o, 1, 1), np.exp(normal(o, 1, 1))

    def layers(p, x, act):
        z = ops.conv2d(x, p["w"], stride, padding - 1) + p["b"]
        z = (z - mean) / np.sqrt(var + 1e-5) * p["gamma"] + p["beta"]
        return ops.mean(act(z), axis=(2, 3)) @ p["head"]

    params = {"w": normal(o, c, k, k), "gamma": normal(o, 1, 1), "beta": normal(o, 1, 1), "b": normal(o, 1, 1)}
    axes = {
        "w": ". in . .",
        "gamma": ". . .",
        "beta": ". . .",
        "b": ". . .",
        "head": ". out",
    }  # statistics stay in place
    shape = (c, draw(st.integers(3, 5)), draw(st.integers(3, 4)))
    return layers, params | {"head": normal(o, 3)}, axes, shape, "n in . ."


def over_time(draw, normal):
    """One layer at every time, summed, and a head."""
    times, i, o = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layers = lambda p, x, act: act(x @ p[0].w + p[0].b).sum(axis=1) @ p[1].w + p[1].b
    params = nets.Layer(normal(i, o), normal(o)), nets.Layer(normal(o, 3), normal(3))
    return layers, params, (nets.Layer("in hidden", "hidden"), nets.Layer("hidden out", "out")), (times, i), "n . in"


def recurrent(draw, normal):
    """h ← act(x W + h U + b), with the same weights at every time."""
    times, i, o = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def layers(p, x, act):
        h = np.zeros((len(x), o))
        for t in range(times):
            h = act(x[:, t] @ p["W"] + h @ p["U"] + p["b"])
        return h @ p["V"]

    params = {"W": normal(i, o), "U": normal(o, o), "b": normal(o), "V": normal(o, 3)}
    axes = {"W": "in hidden", "U": "hidden hidden", "b": "hidden", "V": "hidden out"}
    return layers, params, axes, (times, i), "n . in"


KINDS = {"dense": dense, "convolution": convolution, "over time": over_time, "recurrent": recurrent}


@st.composite
def problems(draw, activations=tuple(ACTIVATIONS), kinds=tuple(KINDS), samples=5):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, params, axes, shape, seen = KINDS[draw(st.sampled_from(kinds))](draw, lambda *s: rng.normal(size=s))
    x = rng.normal(size=(draw(st.integers(1, samples)), *shape))
    act = ACTIVATIONS[draw(st.sampled_from(activations))]
    y = rng.integers(layers(params, x, act).shape[1], size=len(x))
    return Problem(layers, params, axes, seen, x, y, act)


def places(names, name):
    """The axes of this name, of those that a string has."""
    return [axis for axis, other in enumerate(names.split()) if other == name]


def numbered(tree, axes, name, order):
    """The tree with what is called `name` in this order."""

    def leaf(w, names):
        for axis in places(names, name):
            w = np.take(w, order, axis)
        return w

    return trees.map(leaf, tree, axes)
