"""What others do with a compiled function: derivatives, vmaps, captures, methods, threads; and arrays that are not plain."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops

X = np.array([1.0, 2.0, 3.0])


def programs(f):
    return len(f._programs)


def test_inside_derivatives_vmaps_and_captures_it_is_the_function():
    square = tm.compile(lambda x: ops.sum(x * x))
    np.testing.assert_array_equal(tm.grad(square)(X), 2 * X)
    np.testing.assert_array_equal(tm.hvp(square, X, X), 2 * X)
    np.testing.assert_array_equal(tm.vmap(square)(np.stack([X, X])), [14, 14])
    outer = tm.compile(lambda x: square(x) + tm.grad(square)(x))
    for _ in range(2):
        np.testing.assert_array_equal(outer(X), 14 + 2 * X)
    assert "multiply" in outer.source


def test_inside_derivatives_vmaps_and_captures_it_is_the_function_for_closed_over_values_too():
    """What is differentiated, mapped or captured may come in by closure alone, or as an attribute."""
    ones, W = np.ones(3), np.ones((3, 2))
    assert tm.grad(lambda lr: np.sum(tm.compile(lambda p: p * lr)(ones)))(0.1) == 3
    np.testing.assert_array_equal(
        tm.vmap(lambda s: tm.compile(lambda x: x * s)(ones))(np.arange(2.0)), [[0] * 3, [1] * 3]
    )
    outer = tm.compile(lambda w: tm.compile(lambda x: x @ w)(ones))
    for _ in range(2):
        np.testing.assert_array_equal(outer(W), [3, 3])
    inner_step = lambda s: np.sum(tm.compile(tm.grad(lambda w: np.sum(w**2 * s)))(ones) ** 2)
    assert tm.grad(inner_step)(1.0) == 24
    net = Scaled(2.0)
    compiled = tm.compile(net.apply)
    compiled(ones)

    def loss(factor):
        net.factor = factor
        return np.sum(compiled(ones))

    assert tm.grad(loss)(2.0) == 3


def test_classes_of_numpy_are_static_arguments_and_results():
    cast = tm.compile(lambda x, dtype=None: (x.astype(dtype), dtype))
    for dtype in (np.float32, np.float64, np.dtype("f4"), "float64"):
        for _ in range(2):
            result, same = cast(X, dtype=dtype)
            assert result.dtype == np.dtype(dtype)
            assert same is dtype
    assert programs(cast) == 4


def test_an_object_that_has_a_dtype_alone_is_a_static_argument():
    class Net:
        dtype = np.float32

        @tm.compile
        def double(self, x):
            return 2 * x.astype(self.dtype)

    net = Net()
    for _ in range(2):
        np.testing.assert_array_equal(net.double(X), 2 * X)


def test_an_array_whose_arithmetic_is_its_own_is_refused(tmp_path):
    compiled = tm.compile(lambda x: np.sum(x * 2))
    compiled(np.ones(3))
    with pytest.raises(TypeError, match=r"argument 0 is a MaskedArray, .* expected a plain array"):
        compiled(np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]))
    compiled(np.array(2.0))
    with pytest.raises(TypeError, match=r"argument 0 is a MaskedArray, .* expected a plain array"):
        compiled(np.ma.array(2.0, mask=True))
    on_disk = np.memmap(tmp_path / "x", np.float64, "w+", shape=(3,))
    on_disk[:] = 1
    assert compiled(on_disk) == 6


def test_a_complex_result_is_refused_by_name():
    with pytest.raises(
        TypeError, match=r"tm\.compile: the result\[0\] is complex128\[3\], expected an array of floats"
    ):
        tm.compile(lambda x: (x * 1j, x))(X)


def test_a_function_of_a_number_is_the_function_inside_all_others_too():
    compiled, two, numbers = tm.compile(lambda s: s * s + 1), np.float64(2.0), np.arange(3.0)
    for _ in range(2):
        assert compiled(two) == 5
        assert tm.grad(compiled)(two) == 4
        assert tm.hvp(compiled, two, two) == 4
        np.testing.assert_array_equal(tm.vmap(compiled)(numbers), numbers**2 + 1)
        assert tm.compile(lambda s: compiled(s) * 2)(two) == 10
    assert programs(compiled) == 1


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    @tm.compile
    def times(self, x):
        """x times the factor."""
        return x * self.factor

    def apply(self, x):
        return x * self.factor


def test_a_method_may_be_compiled():
    two, three = Scaled(2.0), Scaled(np.float64(3.0))
    for _ in range(2):
        np.testing.assert_array_equal(two.times(X), 2 * X)
        np.testing.assert_array_equal(three.times(X), 3 * X)
        np.testing.assert_array_equal(Scaled.times(two, X), 2 * X)
        np.testing.assert_array_equal(tm.grad(lambda x: ops.sum(two.times(x)))(X), np.full(3, 2.0))
    assert programs(Scaled.times) == 2
    assert (two.times.__doc__, "multiply" in two.times.source) == ("x times the factor.", True)


def test_threads_do_not_share_buffers():
    compiled = tm.compile(lambda x: ops.sum(ops.sin(x) * x) + x)
    inputs = [np.full((200, 200), float(k)) for k in range(4)]
    expected = [compiled(x) for x in inputs]
    wrong = []

    def work(k):
        wrong.extend(k for _ in range(20) if not np.array_equal(compiled(inputs[k]), expected[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
