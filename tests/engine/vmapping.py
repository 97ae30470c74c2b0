"""What the tests of tm.vmap share: examples, the loop that it must equal, and how it refuses."""

import numpy as np
import pytest

from tinymeta import trees
from tinymeta.engine.tensor import OPEN, THREAD

RNG = np.random.default_rng(3)
X = RNG.normal(size=(4, 3))


def assert_same(got, expected, rtol=1e-10):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


def loop(f):
    """tm.vmap(f) by NumPy alone: over axis 0 of every leaf."""

    def looped(*args):
        n = len(trees.leaves(args)[0])
        results = [f(*trees.map(lambda x: x[i], args)) for i in range(n)]  # noqa: B023
        return trees.map(lambda *ys: np.stack(ys), *results)

    return looped


def refused(call, *parts, error=ValueError):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert THREAD.maps == ()
    assert OPEN == []
