"""Small smooth problems in float64, so that derivatives of any order can be compared with finite differences."""

from __future__ import annotations

import numpy as np

import tinymeta as tm
from tinymeta import nets, ops


def mse(params, data):
    """One value per task: () for x (K, 1), (T,) for x (T, K, 1)."""
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x, activation=ops.tanh) - y), axis=(-2, -1))


def net(rng, dtype=np.float64):
    return nets.init_mlp(rng, (1, 4, 3, 1), sigma=0.7, dtype=dtype)


def points(rng, *shape, dtype=np.float64):
    x = rng.normal(size=(*shape, 1)).astype(dtype)
    return x, np.sin(x) * rng.normal(size=(*shape[:-1], 1, 1)).astype(dtype)


def task(data, t):
    return tuple(a[t] for a in data)


def quadratic(w, data):
    """w·Aw/2 - b·w; A and b are a task's, or have a leading task axis."""
    a, b = data
    return ops.sum(w * (0.5 * ops.einsum("...ij,...j->...i", a, w) - b), axis=-1)


def symmetric(rng, *shape):
    a = rng.normal(size=shape)
    return a + np.swapaxes(a, -1, -2)


def difference(f, params, direction, step=1e-5):
    """The central difference of a function of a tree along a direction; a tree like f's result."""
    ahead, behind = (tm.trees.map(lambda p, d, s=s: p + s * d, params, direction) for s in (step, -step))
    return tm.trees.map(lambda a, b: (a - b) / (2 * step), f(ahead), f(behind))


def random_like(rng, params):
    return tm.trees.map(lambda p: rng.normal(size=np.shape(p)), params)


def inner(a, b):
    return sum(float(np.sum(u * v)) for u, v in zip(tm.trees.leaves(a), tm.trees.leaves(b), strict=True))


def assert_close(a, b, rtol=1e-9, atol=1e-12):
    tm.trees.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=rtol, atol=atol), a, b)
