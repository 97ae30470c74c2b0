"""What tests of the EWC experiments do with trees of weights."""

import numpy as np

import tinymeta as tm
from tinymeta import nets

LR = 0.05


def a_tree(rng, n):
    return (nets.Layer(rng.normal(size=(n, 3)).astype(np.float32), rng.normal(size=n).astype(np.float32)),)


def assert_close(tree, other, rtol=1e-5, atol=1e-6):
    tm.trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), tree, other)


def copied(tree):
    return tm.trees.map(np.copy, tree)
