"""How the laws compare trees: leaf by leaf, or as one vector."""

import numpy as np

from tinymeta.engine import trees


def assert_trees_close(found, expected, rtol=1e-9, atol=1e-14):
    for a, b in zip(trees.leaves(found), trees.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol, atol=atol + rtol * np.max(np.abs(b), initial=0))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in trees.leaves(tree)])
