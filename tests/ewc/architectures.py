"""Generated networks in float64 for the laws of the Fisher information: dense, convolutional, over time, recurrent."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tinymeta import nets, ops

ACTIVATIONS = {"relu": ops.relu, "tanh": ops.tanh, "linear": lambda z: z}


class Problem(NamedTuple):
    """A net (params, x, activation) -> logits, its parameters, samples and labels; `act` is the activation it was drawn with."""

    layers: Callable
    params: Any
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
    return nets.mlp, params, (sizes[0],)


def convolution(draw, normal):
    """A convolution with a bias, batch norm with given statistics, mean pooling over everything, a head."""
    c, o, k, stride, padding = (draw(st.integers(1, high)) for high in (2, 3, 3, 2, 2))
    mean, var = normal(o, 1, 1), np.exp(normal(o, 1, 1))

    def layers(p, x, act):
        z = ops.conv2d(x, p["w"], stride, padding - 1) + p["b"]
        z = (z - mean) / np.sqrt(var + 1e-5) * p["gamma"] + p["beta"]
        return ops.mean(act(z), axis=(2, 3)) @ p["head"]

    params = {"w": normal(o, c, k, k), "gamma": normal(o, 1, 1), "beta": normal(o, 1, 1), "b": normal(o, 1, 1)}
    return layers, params | {"head": normal(o, 3)}, (c, draw(st.integers(3, 5)), draw(st.integers(3, 4)))


def over_time(draw, normal):
    """One layer at every time, summed, and a head."""
    times, i, o = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layers = lambda p, x, act: act(x @ p[0].w + p[0].b).sum(axis=1) @ p[1].w + p[1].b
    return layers, (nets.Layer(normal(i, o), normal(o)), nets.Layer(normal(o, 3), normal(3))), (times, i)


def recurrent(draw, normal):
    """h ← act(x W + h U + b), with the same weights at every time."""
    times, i, o = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def layers(p, x, act):
        h = np.zeros((len(x), o))
        for t in range(times):
            h = act(x[:, t] @ p["W"] + h @ p["U"] + p["b"])
        return h @ p["V"]

    return layers, {"W": normal(i, o), "U": normal(o, o), "b": normal(o), "V": normal(o, 3)}, (times, i)


KINDS = {"dense": dense, "convolution": convolution, "over time": over_time, "recurrent": recurrent}


@st.composite
def problems(draw, activations=tuple(ACTIVATIONS), kinds=tuple(KINDS), samples=5):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layers, params, shape = KINDS[draw(st.sampled_from(kinds))](draw, lambda *s: rng.normal(size=s))
    x = rng.normal(size=(draw(st.integers(1, samples)), *shape))
    act = ACTIVATIONS[draw(st.sampled_from(activations))]
    return Problem(layers, params, x, rng.integers(layers(params, x, act).shape[1], size=len(x)), act)
