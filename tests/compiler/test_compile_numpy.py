"""NumPy's own functions of captured values: every argument counts, in each call."""

from __future__ import annotations

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops

X = np.ones(3)


def test_full_like_takes_the_number_of_each_call():
    compiled = tm.compile(lambda x, s: x + np.full_like(x, s))
    for s in (1.0, 2.0, -3.0):
        np.testing.assert_array_equal(compiled(X, np.float64(s)), X + s)


def test_full_like_has_a_derivative_and_a_batching_rule():
    assert tm.grad(lambda s: ops.sum(np.full_like(s * X, s)))(np.float64(2.0)) == 3
    s = np.arange(4.0)
    np.testing.assert_array_equal(tm.vmap(lambda s: np.full_like(s * X, s))(s), np.outer(s, X))
    twice = tm.vmap(tm.grad(lambda s: ops.sum(ops.square(np.full_like(s * X, s)))))
    np.testing.assert_array_equal(tm.compile(twice)(s), 6 * s)


@pytest.mark.parametrize(
    ("fill", "options"), [(3, {}), (-0.0, {}), (2.7, {"dtype": int}), (np.nan, {"shape": (2, 2)}), (1, {"dtype": bool}),
                          ([1.0, 2.0, 3.0], {}), (np.arange(3), {"dtype": np.float32})],
)  # fmt: skip
def test_full_like_of_plain_numbers_is_numpys(fill, options):
    expected = np.full_like(X, fill, **options)

    def same(made):
        assert isinstance(made, np.ndarray)
        assert made.flags.writeable
        assert made.dtype == expected.dtype
        np.testing.assert_array_equal(made, expected)
        np.testing.assert_array_equal(np.signbit(made.astype(float)), np.signbit(expected.astype(float)))

    def f(x):
        same(np.full_like(x, fill, **options))
        return ops.sum(x)

    tm.grad(f)(X)
    tm.compile(f)(X)
