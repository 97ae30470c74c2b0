"""NumPy's own functions of captured values: every argument counts, in each call."""

from __future__ import annotations

import functools
import tracemalloc

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops
from tinymeta.engine.tensor import Prim, bind

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


TIES = np.array([0, 1] * 40)
SEARCHES = {
    "argsort": lambda x: np.argsort(x, -1, "stable"),
    "argsort by name": lambda x: np.argsort(a=x, kind="stable", axis=0),
    "argmax": lambda x: np.argmax(x, 0, None, keepdims=True),
    "argmin": lambda x: np.argmin(x, keepdims=True),
    "any": lambda x: np.any(x > 0, 0, None, True),
    "all": lambda x: np.all(x > 0, None, None, True),
    "count_nonzero": lambda x: np.count_nonzero(x, 0, keepdims=True),
}


@pytest.mark.parametrize("what", SEARCHES)
def test_every_argument_of_a_search_counts(what):
    f = SEARCHES[what]
    expected = f(TIES)
    np.testing.assert_array_equal(tm.vmap(f)(np.stack([TIES, 1 - TIES]))[0], expected)
    compiled = tm.compile(f)
    for _ in range(2):
        np.testing.assert_array_equal(compiled(TIES), expected)


def test_a_search_takes_no_place_for_its_result():
    for run in (lambda f: tm.compile(f)(X), lambda f: tm.vmap(f)(X[None])):
        with pytest.raises(TypeError, match=r"np.argmax with out= of float64\[3\]: expected none"):
            run(lambda x: np.argmax(x, 0, np.zeros((), int) if type(x) is not np.ndarray else None))


def test_an_array_by_keyword_is_taken_as_the_first():
    np.testing.assert_array_equal(tm.compile(lambda x: x + np.ones_like(a=x))(X), X + 1)
    for f in (lambda x: np.sum(a=x), lambda x: x + np.argmax(a=x), lambda x: np.max(a=x, axis=0)):
        np.testing.assert_array_equal(tm.compile(f)(X), f(X))


def test_an_argument_that_only_numpy_has_is_named():
    with pytest.raises(
        TypeError, match=r"np.sum of float64\[3\]: too many positional arguments, expected only x, axis"
    ):
        tm.compile(lambda x: np.sum(x, 0, None))(X)


@pytest.mark.parametrize("number", [np.float64(2), np.float32(2), 2, 2.0, np.array(2.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_number_is_joined_to_what_is_captured(number, dtype):
    x = np.arange(6, dtype=dtype).reshape(2, 3)
    for f in (
        lambda x: np.stack([x[0, 1], number, x[1, 1]]),
        lambda x: np.concatenate([x[0], [number]]),
        tm.vmap(lambda row: np.stack([number, row[0]])),
    ):
        compiled = tm.compile(f)
        compiled(x)
        found, expected = compiled(x + 1), f(x + 1)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def test_vecdot_takes_its_axis():
    compiled = tm.compile(tm.grad(lambda x: np.sum(np.vecdot(x, x, axis=0) ** 2)))
    x = np.arange(6.0).reshape(2, 3)
    for _ in range(2):
        np.testing.assert_allclose(compiled(x), 4 * x * np.sum(x * x, axis=0), rtol=1e-15)


# ---- memory and names of the NumPy program ----


@pytest.fixture
def on_numpy(monkeypatch):
    monkeypatch.setenv("TINYMETA_BACKEND", "numpy")


def check(f, first, then):
    """Compiled at the first argument, against f at the second."""
    compiled = tm.compile(f)
    compiled(first)
    np.testing.assert_allclose(compiled(then), f(then), rtol=1e-12)


SWAP = Prim("swap", lambda x: np.swapaxes(x, -1, -2), kind="linear")
VIEWS = {"a window of one": lambda x: ops.max_pool2d(x, 1), "a user's view": lambda x: bind(SWAP, x)}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.usefixtures("on_numpy")
def test_a_buffer_is_not_used_again_while_a_view_of_it_lives(name):
    def f(x):
        seen = VIEWS[name](ops.tanh(x))
        return 2 * seen + ops.roll(ops.sin(3 * x), 1, -1)

    check(f, np.zeros((1, 1, 4, 4)), np.arange(16.0).reshape(1, 1, 4, 4))


@pytest.mark.usefixtures("on_numpy")
def test_a_mean_of_halves_is_not_summed_in_halves():
    check(lambda x: ops.mean(x, -1), np.ones((2, 1000), np.float16), np.full((2, 1000), 100, np.float16))


NAMES = {
    "soft-sign": lambda x: x / (1 + np.abs(x)), "t0": lambda x: 2 * x, "a0": lambda x: 3 * x, "lambda": lambda x: 4 * x,
    "np": lambda x: 5 * x, "out": lambda x: 6 * x, "log": np.log10, "partial": functools.partial(np.multiply, 7.0),
}  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", ""])
@pytest.mark.parametrize("name", NAMES)
def test_a_primitive_may_have_any_name(monkeypatch, name, backend):
    monkeypatch.setenv("TINYMETA_BACKEND", backend)
    prim = Prim(name, NAMES[name], (lambda g, y, x: g,), kind="elementwise")
    check(lambda x: bind(prim, x) + ops.roll(x, 1), X, 2 * X)


@pytest.mark.usefixtures("on_numpy")
def test_what_has_no_buffer_is_let_go_when_it_is_read():
    order = np.random.default_rng(0).permutation(50_000)

    def f(x):
        for _ in range(10):
            x = np.tanh(x[order])
        return x

    x, compiled = np.ones(50_000), tm.compile(f)
    compiled(x)
    tracemalloc.start()
    compiled(x)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * x.nbytes
