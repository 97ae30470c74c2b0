"""Nets (params, x) with the rule that serves each leaf: every rule, every view of a weight, and every way to have none."""

import numpy as np

from tinymeta import nets, ops
from tinymeta.ewc import sums
from tinymeta.ewc.entries import BIAS, GRADIENTS, PATCHES, POSITIONS, ROWS


def draw(rng, *shape):
    return rng.normal(size=shape)


# ---- (params, x) from a generator and a number of samples ----


def dense(rng, n):
    return {"w": draw(rng, 4, 3), "b": draw(rng, 3), "s": draw(rng, 1, 4), "v": draw(rng, 3, 4)}, draw(rng, n, 4)


def of_images(rng, n):
    params = {"w": draw(rng, 4, 2, 2, 3), "b": draw(rng, 4, 1, 1), "gamma": draw(rng, 4), "beta": draw(rng, 4)}
    return params | {"head": nets.Layer(draw(rng, 4, 3), draw(rng, 3))}, draw(rng, n, 2, 5, 6)


def of_sequences(rng, n):
    params = {"x": draw(rng, 3, 8), "h": draw(rng, 2, 8), "b": draw(rng, 8), "head": draw(rng, 2, 3)}
    return params, draw(rng, n, 4, 3)


# ---- the functions ----


def convnet(p, x):
    """Convolution with a bias, batch norm with given statistics, pooling, a linear head."""
    mean, var = np.array([0.1, -0.2, 0.3, 0.0]), np.array([0.5, 1.0, 2.0, 1.5])
    z = ops.conv2d(x, p["w"], stride=(1, 2), padding=1) + p["b"]
    z = (z - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]
    z = ops.relu(z * p["gamma"][:, None, None] + p["beta"][:, None, None])
    z = ops.max_pool2d(z, 2)
    return ops.mean(z, axis=(2, 3)) @ p["head"].w + p["head"].b


def conv_twice(p, x):
    """One kernel on two scales, and its positions summed over both before the square."""
    two = [ops.conv2d(x, p["w"], stride=s) for s in (1, 2)]
    return sum(ops.mean(ops.tanh(z), axis=(2, 3)) for z in two) @ p["head"].w


def lstm(p, x):
    h = c = np.zeros((len(x), 2))
    for t in range(x.shape[1]):
        i, f, o, g = ops.split(x[:, t] @ p["x"] + h @ p["h"] + p["b"], 4, axis=1)
        c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
        h = ops.sigmoid(o) * ops.tanh(c)
    return h @ p["head"]


def attention(p, x):
    """Time inside the square: every position enters through x @ w, and positions see one another."""
    q, k, v, _ = ops.split(x @ p["x"], 4, axis=-1)
    weights = ops.softmax(q @ ops.swapaxes(k, -1, -2) / np.sqrt(2))
    return ops.mean(weights @ v, axis=1) @ p["head"]


# name -> (maker of params and samples, function, rule of each leaf that it uses but for the head)
NETS = {
    "linear": (dense, lambda p, x: x @ p["w"], {"w": ROWS}),
    "bias": (dense, lambda p, x: x @ p["w"] + p["b"], {"w": ROWS, "b": BIAS}),
    "bias of z and of z²": (dense, lambda p, x: (z := x @ p["w"]) + p["b"] + z * z, {"w": ROWS, "b": GRADIENTS}),
    "bias as a row": (dense, lambda p, x: p["b"][None] + (x @ p["w"]), {"w": ROWS, "b": GRADIENTS}),
    "bias by a view": (dense, lambda p, x: x @ p["w"] + np.expand_dims(p["b"], 0), {"w": ROWS, "b": BIAS}),
    "bias of one output": (dense, lambda p, x: ops.tanh(x @ p["w"] + p["b"].sum()), {"w": ROWS, "b": GRADIENTS}),
    "broad bias": (dense, lambda p, x: ops.tanh((x @ p["w"])[:, :1] + p["b"]), {"w": ROWS, "b": GRADIENTS}),
    "transposed": (dense, lambda p, x: x @ p["v"].T, {"v": ROWS}),
    "left": (dense, lambda p, x: (p["v"] @ x.T).T, {"v": ROWS}),
    "reshaped": (dense, lambda p, x: x @ p["v"].reshape(4, 3), {"v": ROWS}),
    "tensordot": (dense, lambda p, x: np.tensordot(x, p["v"], ([1], [1])), {"v": ROWS}),
    "hidden": (dense, lambda p, x: ops.tanh(x @ p["w"]) @ p["v"] @ np.eye(4, 3), {"w": ROWS, "v": ROWS}),
    "normalised": (dense, lambda p, x: ops.log_softmax(x @ p["w"]), {"w": ROWS}),
    "gated": (dense, lambda p, x: (x * p["s"]) @ p["w"] + p["b"], {"w": ROWS, "s": GRADIENTS, "b": BIAS}),
    "added twice": (dense, lambda p, x: (x @ p["w"] + p["b"]) * 2 + p["b"], {"w": ROWS, "b": GRADIENTS}),
    "leaky": (dense, lambda p, x: np.where(x > 0, x, 0.1 * x).reshape(len(x), -1) @ p["w"], {"w": ROWS}),
    "used twice": (dense, lambda p, x: x @ p["w"] + ops.square(x) @ p["w"], {"w": POSITIONS}),
    "scaled": (dense, lambda p, x: x @ (2.0 * p["w"]), {"w": GRADIENTS}),
    "tied": (dense, lambda p, x: ops.tanh(x @ p["w"]) @ p["w"].T @ p["w"], {"w": GRADIENTS}),
    "product": (dense, lambda p, x: x @ (p["w"] @ p["v"]) @ np.eye(4, 3), {"w": POSITIONS, "v": POSITIONS}),
    "einsum": (dense, lambda p, x: np.einsum("ni,io->no", x, p["w"]), {"w": GRADIENTS}),
    "pairs": (dense, lambda p, x: (x.reshape(len(x), 2, 2) @ p["w"][:2]).sum(axis=1), {"w": GRADIENTS}),
    "time": (of_sequences, lambda p, x: ops.tanh(x @ p["x"] + p["b"]).sum(axis=1)[:, :3], {"x": POSITIONS, "b": BIAS}),
    "lstm": (of_sequences, lstm, {"x": POSITIONS, "h": POSITIONS, "b": GRADIENTS, "head": ROWS}),
    "attention": (of_sequences, attention, {"x": POSITIONS, "head": ROWS}),
    "conv": (of_images, convnet, {"w": PATCHES, "b": BIAS, "gamma": GRADIENTS, "beta": GRADIENTS}),
    "conv reshaped": (
        of_images,
        lambda p, x: (
            ops.relu(ops.conv2d(x, p["w"]).reshape(len(x), 2, 4, 2, 4) + p["b"]).sum(axis=(1, 3, 4)) @ p["head"].w
        ),
        {"w": PATCHES, "b": GRADIENTS},
    ),
    "conv twice": (of_images, conv_twice, {"w": PATCHES}),
    "views": (dense, lambda p, x: x.view() @ p["w"], dict.fromkeys("wbsv", sums.ONE_BY_ONE)),
    "two-faced": (
        dense,
        lambda p, x: (x if isinstance(x, np.ndarray) else 2 * x) @ p["w"],
        dict.fromkeys("wbsv", sums.ONE_BY_ONE),
    ),
}
