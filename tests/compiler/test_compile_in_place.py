"""What changes an argument in place is refused before it does so; what changes its own arrays is compiled."""

from __future__ import annotations

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops

X = np.array([1.0, 2.0, 3.0])


def _one_more(x):
    x += 1
    return x


def _first_is_zero(x):
    x[0] = 0
    return x


IN_PLACE = {
    "itself": _one_more,
    "an element": _first_is_zero,
    "a slice": lambda x: (_one_more(x[:2]), x * 0),
    "a view of a view": lambda x: (_one_more(x[1:].reshape(2, 1).T), x * 0),
    "a broadcast": lambda x: (_one_more(np.broadcast_to(x, (2, 3))), x * 0),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_an_input_changed_in_place_is_refused_and_unchanged(what):
    x = X.copy()
    with pytest.raises(TypeError, match=r"change in place of .* would be made by the first call alone: "):
        tm.compile(IN_PLACE[what])(x)
    np.testing.assert_array_equal(x, X)


PURE = {
    "a copy": lambda x: _one_more(x.copy()),
    "another dtype": lambda x: _one_more(x.astype(np.float32)),
    "the same dtype": lambda x: _one_more(x.astype(x.dtype)),
    "a result": lambda x: _one_more(ops.sin(x)),
    "a view of a copy": lambda x: _one_more(x.copy()[1:]),
    "the elements of an index": lambda x: _one_more(x[np.array([0, 2])]),
}


@pytest.mark.parametrize("what", PURE)
def test_a_copy_may_be_changed_in_place(what):
    compiled, x = tm.compile(PURE[what]), X.copy()
    for _ in range(2):
        np.testing.assert_allclose(compiled(x), PURE[what](x), rtol=1e-6)
        np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize(("change", "start"), [("+=", 0.0), ("*=", 1.0)])
def test_another_name_is_found_where_the_first_change_changes_nothing(change, start):
    def layer(x, w, b):
        h = x @ w
        skip = h
        if change == "+=":
            h += b
        else:
            h *= b
        return np.tanh(h) + skip

    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="f is not pure"):
        tm.compile(layer)(rng.normal(size=(4, 3)), rng.normal(size=(3, 2)), np.full(2, start))


def test_where_f_is_not_defined_at_other_numbers_it_is_taken_as_it_is():
    def f(x):
        if x.shape and type(x) is np.ndarray and (x != X).any():
            raise ValueError("another x")
        y = ops.sin(x)
        y += 1
        return y

    np.testing.assert_allclose(tm.compile(f)(X), np.sin(X) + 1)
