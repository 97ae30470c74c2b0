"""Single elements of arrays, which NumPy copies where a program needs their place; and a replay that reads what it should not."""

import re

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops
from tinymeta.compiler.verify import verify

INDICES = [
    0, 2, -1, (1, 2), (slice(None), 1), (..., 0), (0, ...), (None, 1), (slice(0, 2), 2), True, (True, 1), (np.False_,),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("made", [False, True], ids=["argument", "computed"])
def test_elements_and_slices(backend, index, made):
    rng = np.random.default_rng(0)

    def f(w, r):
        r = np.tanh(r) * 2 if made else r
        return np.sum(w * r[index]), tm.ops.exp(r[index]) if made else r[index] + 1

    with tm.backend(backend):
        compiled = tm.compile(f)
        for _ in range(3):
            w, r = rng.normal(size=()), rng.normal(size=(3, 3))
            for found, expected in zip(compiled(w, r), f(w, r), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_through_single_elements(backend):
    loss = lambda w, r: np.sum(w * r[0]) ** 2 + r[1] * w[2] * r[1]
    w, r = np.arange(1.0, 5.0), np.array([0.1, 0.2, 0.3])
    with tm.backend(backend):
        for argnums in (0, 1):
            compiled = tm.compile(tm.grad(loss, argnums))
            np.testing.assert_allclose(compiled(w, r), tm.grad(loss, argnums)(w, r), rtol=1e-14)
            np.testing.assert_allclose(compiled(2 * w, r), tm.grad(loss, argnums)(2 * w, r), rtol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_constant_of_zeros_of_either_sign_is_not_one_number(backend):
    x = np.array([1.0, 2.0])
    with tm.backend(backend), np.errstate(divide="ignore"):
        np.testing.assert_array_equal(tm.compile(lambda x: x / np.array([0.0, -0.0]))(x), [np.inf, -np.inf])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_single_number_is_flipped(backend):
    with tm.backend(backend):
        assert tm.compile(lambda x: np.flip(np.sum(x)) + 1)(np.ones(3)) == 4.0


def test_a_replay_that_is_no_function_of_its_arguments_is_refused():
    """What moves a result is asked of f, not of the program: one that reads foreign memory moves as far as you like."""
    rng = np.random.default_rng(0)
    x = np.ones(3)
    with pytest.raises(ValueError, match="differs by"):
        verify(lambda x: x + 1, lambda args, kwargs: 100 * rng.normal(size=3), x, x + 1, (x,), {})


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_mask_that_is_a_constant_is_an_index(backend):
    mask = np.array([True, False, True])
    with tm.backend(backend):
        compiled = tm.compile(tm.grad(lambda x: ops.mean(ops.square(x[mask]))))
        np.testing.assert_array_equal(compiled(np.arange(3.0)), [0, 0, 2])


def test_an_error_of_numpy_in_a_replay_names_the_op_and_the_line():
    compiled = tm.compile(lambda a, b: ops.solve(a, b))
    compiled(np.eye(2), np.ones((2, 1)))
    with pytest.raises(np.linalg.LinAlgError, match="Singular matrix") as raised:
        compiled(np.zeros((2, 2)), np.ones((2, 1)))
    line = compiled.__wrapped__.__code__.co_firstlineno
    told = rf"in the program of tm\.compile: t0 = .*solve.* # solve float64\[2,1\] .*test_compile_elements\.py:{line}: "
    assert re.match(told, raised.value.__notes__[0])
