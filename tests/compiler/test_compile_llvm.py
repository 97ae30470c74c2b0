"""Machine code gives what eager execution gives, up to rounding; and its source, run as Python, does too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiler.machine_code import assert_close, check, numbers
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies
from tinymeta.engine.tensor import Prim
from tinymeta.kernels.simd.threads import together

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")
from tinymeta.compiler import machine

pytestmark = pytest.mark.usefixtures("machine_code")
DTYPES = (np.float32, np.float64)


# ---- ops ----

ELEMENTWISE = {
    "add": lambda x, y: x + y, "subtract": lambda x, y: x - 1.5 * y, "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / (ops.abs(y) + 1), "maximum": ops.maximum, "minimum": ops.minimum,
    "exp": lambda x, y: ops.exp(x), "log": lambda x, y: ops.log(ops.abs(y) + 0.1), "sqrt": lambda x, y: ops.sqrt(ops.square(x)),
    "tanh": lambda x, y: ops.tanh(x), "sigmoid": lambda x, y: ops.sigmoid(y), "relu": lambda x, y: ops.relu(x),
    "softplus": lambda x, y: ops.softplus(x), "logaddexp": ops.logaddexp, "power": lambda x, y: ops.abs(x) ** 1.5,
    "sin": lambda x, y: ops.sin(x) * ops.cos(y), "tan": lambda x, y: ops.tan(x / 4), "arctan": lambda x, y: ops.arctan(x),
    "sinh": lambda x, y: ops.sinh(x) - ops.cosh(y), "expm1": lambda x, y: ops.expm1(x) + ops.log1p(ops.abs(y)),
    "where": lambda x, y: ops.where(x > y, x, 2.0), "compare": lambda x, y: (x >= y, x == x, x != y, x < 0.5),
    "sign": lambda x, y: ops.sign(x) * ops.floor(y) + ops.ceil(x) - ops.rint(3 * y),
    "masks": lambda x, y: ops.where((x > 0) & (y > 0) | ~(x < 1), x, y), "finite": lambda x, y: (ops.isfinite(x), ops.isnan(x)),
    "reciprocal": lambda x, y: ops.reciprocal(ops.abs(x) + 1), "astype": lambda x, y: (x > 0).astype(x.dtype) * y,
    "narrow": lambda x, y: ops.astype(x, np.float32) + 1, "wide": lambda x, y: ops.astype(ops.astype(x, np.float64) + 1, x.dtype),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_on_every_width_of_vector(name, dtype):
    rng = np.random.default_rng(0)
    for shape in ((), (1,), (7,), (3, 5), (2, 33)):
        x, y = (np.asarray(numbers(rng, *shape, dtype=dtype)) for _ in range(2))
        check(ELEMENTWISE[name], x, y)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_values_are_numpys(dtype):
    x = np.array([0, -0.0, 1e-30, -1e30, 1e30, np.inf, -np.inf, np.nan, 1], dtype)
    y = np.array([np.nan, 0, np.inf, 1, -1, np.inf, np.inf, 2, -np.inf], dtype)
    for f in (ops.add, ops.maximum, ops.minimum, ops.logaddexp, lambda x, y: ops.relu(x), lambda x, y: ops.sigmoid(x),
              lambda x, y: ops.where(x > y, x, y), lambda x, y: (x == y, x != y, x < y, ops.isfinite(x), ops.isnan(y)),
              lambda x, y: ops.sign(x), lambda x, y: ops.softplus(x)):  # fmt: skip
        with np.errstate(all="ignore"):
            found, expected = check(f, x, y, source=False)(x, y), f(x, y)
        each = lambda a, b: np.testing.assert_allclose(a, b, rtol=8 * np.finfo(dtype).eps)  # not of the largest
        tm.trees.map(each, found, expected)


REDUCTIONS = {
    "last": lambda x: ops.sum(x, axis=-1), "first": lambda x: ops.sum(x, axis=0), "middle": lambda x: ops.mean(x, axis=1),
    "all": lambda x: ops.mean(x), "two": lambda x: ops.sum(x, axis=(0, 2), keepdims=True), "max": lambda x: ops.max(x, axis=1),
    "min": lambda x: ops.min(x), "logsumexp": lambda x: ops.logsumexp(x, axis=-1), "var": lambda x: ops.var(x, axis=(0, 1)),
    "of_transposed": lambda x: ops.sum(ops.transpose(x) * 2, axis=0), "sum_to": lambda x: ops.sum_to(x, (1, x.shape[1], 1)),
    "same_twice": lambda x: (ops.sum(x * x, axis=0), ops.sum(x + 1, axis=0), ops.sum(x, axis=1)),
    "softmax": ops.softmax, "norm": lambda x: ops.norm(x),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name, dtype):
    rng = np.random.default_rng(1)
    for shape in ((2, 3, 4), (1, 1, 1), (5, 1, 37), (3, 20, 1)):
        check(REDUCTIONS[name], numbers(rng, *shape, dtype=dtype))


@given(st.data())
def test_sums_of_turned_arrays(data):
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    turned = data.draw(st.permutations(range(3)))
    axis = data.draw(st.sampled_from([0, 1, 2, (0, 1), (0, 2), (1, 2)]))
    x, y = numbers(np.random.default_rng(3), 2, *shape)
    check(lambda x, y: ops.sum(ops.transpose(x, turned) * ops.transpose(y, turned), axis=axis), x, y)


SHAPES = {
    "reshape": lambda x: ops.reshape(x, (x.size,)) * 2, "transpose": lambda x: ops.transpose(x, (2, 0, 1)) + 1,
    "reshape_of_transpose": lambda x: ops.reshape(ops.transpose(x), (-1,)) * 2, "flip": lambda x: ops.flip(x, 1) - x,
    "slice": lambda x: x[:, 1:, ::2] * 3, "index": lambda x: x[0] + x[-1], "new": lambda x: x[:, None] * x[..., None, :, :],
    "pad": lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 1))), "concatenate": lambda x: ops.concatenate([x, 2 * x, x[:, :1]], axis=1),
    "stack": lambda x: ops.stack([x, x + 1], axis=1), "broadcast": lambda x: ops.broadcast_to(x[0], (4, *x.shape[1:])) * 2,
    "split": lambda x: ops.split(x, [1, 2], axis=2), "scatter": lambda x: tm.grad(lambda x: ops.sum(x[:, 1:, ::2] ** 2))(x),
    "results_are_views": lambda x: (x, x.T, x[0], ops.broadcast_to(x, (2, *x.shape))),
    "moveaxis": lambda x: ops.moveaxis(x, 0, 2) * x.mT.mT.sum(),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    check(SHAPES[name], numbers(np.random.default_rng(2), 2, 4, 5))


@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 3), lead=st.sampled_from([(), (3,), (2, 2)]),
    turned=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_products_of_every_size_and_layout(sizes, lead, turned, dtype, seed):
    (m, k, n), rng = sizes, np.random.default_rng(seed)
    a = numbers(rng, *lead, *((k, m) if turned[0] else (m, k)), dtype=dtype)
    b = numbers(rng, *((n, k) if turned[1] else (k, n)), dtype=dtype)

    def f(a, b):
        return ops.matmul(*(ops.swapaxes(x, -1, -2) if t else x for x, t in zip((a, b), turned, strict=True)))

    compiled = tm.compile(f)
    for _ in range(2):
        assert_close(compiled(a, b), f(a, b), 8 * k)
    assert compiled.backend == "llvm"


def test_the_code_of_a_product_does_not_grow_with_its_columns():
    def code(n):
        compiled = tm.compile(ops.matmul)
        compiled(np.ones((20, 3), np.float32), np.ones((3, n), np.float32))
        return str(compiled._last().code.machine.module)

    assert len(code(64_000)) < 1.1 * len(code(640))


@pytest.mark.parametrize("k", [511, 512, 513, 1024, 100_000])
def test_a_long_inner_axis_loses_few_bits(k):
    rng = np.random.default_rng(5)
    a, b = (rng.random(shape).astype(np.float32) for shape in ((3, k), (k, 20)))
    compiled = tm.compile(ops.matmul)
    np.testing.assert_allclose(compiled(a, b), np.float64(a) @ np.float64(b), rtol=32 * np.finfo(np.float32).eps)
    assert compiled.backend == "llvm"


def test_indices_and_labels():
    rng = np.random.default_rng(3)
    x, labels = numbers(rng, 5, 4), np.array([0, 3, 1, 1, -1])
    check(lambda x, i: ops.take_along_axis(x, i[:, None], 1), x, labels)
    check(tm.grad(lambda x, i: ops.sum(ops.take_along_axis(x, i[:, None], 1) ** 2)), x, labels)
    check(lambda x, i: ops.softmax_cross_entropy(x, i), x, labels % 4)


def test_an_index_out_of_range_is_an_error_in_every_call():
    x, good = numbers(np.random.default_rng(3), 3, 4), np.array([[0], [3], [-4]])
    for f in (
        lambda x, i: ops.take_along_axis(x, i, 1),
        tm.grad(lambda x, i: ops.sum(ops.take_along_axis(x, i, 1) ** 2)),
    ):
        compiled = tm.compile(f)
        compiled(x, good)
        assert compiled.backend == "llvm"
        for wrong in (4, -5, 2**40):
            with pytest.raises(
                IndexError, match=r"(getitem|put) at .*test_compile_llvm.py:\d+: an index is out of range for float64"
            ):
                compiled(x, np.array([[0], [wrong], [1]]))
        np.testing.assert_array_equal(compiled(x, good), f(x, good))


def test_an_index_out_of_range_is_an_error_whichever_thread_finds_it(monkeypatch):
    """All threads but one find theirs in range, in the same moments."""
    monkeypatch.setattr(machine, "_threads", lambda layout: (2, together))
    compiled = tm.compile(tm.vmap(lambda x, i: ops.sum(ops.sin(x[i]))))
    x, places = np.zeros((16, 50)), np.zeros((16, 5000), int)
    compiled(x, places)
    assert compiled.backend == "llvm"
    places[3, 7] = 50
    for _ in range(200):
        with pytest.raises(IndexError, match="an index is out of range"):
            compiled(x, places)


def test_an_elementwise_primitive_of_the_users_is_not_the_one_of_that_name():
    """Zeros, where the two agree, hide it in the first call."""
    steep = Prim(
        "sigmoid", lambda x: 1 / (1 + np.exp(-2 * x)), (lambda g, y, x: g * 2 * y * (1 - y),), kind="elementwise"
    )
    compiled = tm.compile(lambda x: steep(x))
    compiled(np.zeros(3))
    np.testing.assert_array_equal(compiled(np.ones(3)), 1 / (1 + np.exp(-2 * np.ones(3))))
    assert compiled.backend == "numpy"


def test_without_numba_a_program_runs_on_numpy_and_says_so(monkeypatch):
    from tinymeta.compiler import replay

    monkeypatch.setattr(replay.importlib.util, "find_spec", lambda name: None)
    compiled = tm.compile(ops.sin)
    compiled(np.arange(3.0))
    assert compiled.backend == "numpy"
    assert compiled.why_not_compiled == 'numba is not installed: pip install "tinymeta[fast]"'


@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 0, 3), (2, 1, 3), ((1, 2), (2, 0), (2, 3)), (3, 1, 1)])
@pytest.mark.parametrize("lead", [(), (1,)])
def test_convolutions_and_their_derivatives(stride, padding, kernel, lead):
    rng = np.random.default_rng(4)
    x = numbers(rng, *lead, 2, 3, 7, 8)
    w = numbers(rng, *lead, 4, 3, *((kernel, kernel) if isinstance(kernel, int) else kernel))

    def loss(w, x):
        return ops.sum(ops.sin(ops.conv2d(x, w, stride=stride, padding=padding)))

    check(lambda w, x: ops.conv2d(x, w, stride=stride, padding=padding), w, x)
    check(tm.grad(loss, (0, 1)), w, x)
    check(lambda w, x: tm.hvp(lambda w: loss(w, x), w, w), w, x, factor=512)


@pytest.mark.parametrize("pool", [ops.max_pool2d, ops.mean_pool2d])
@pytest.mark.parametrize(("size", "stride"), [(2, None), ((2, 3), (1, 2))])
def test_pooling_and_its_derivatives(pool, size, stride):
    x = numbers(np.random.default_rng(4), 2, 3, 6, 7)

    def loss(x):
        return ops.sum(ops.sin(pool(x, size, stride)))

    check(lambda x: pool(x, size, stride), x)
    check(tm.grad(loss), x)
    check(lambda x: tm.hvp(loss, x, x), x)


@given(program=strategies.compositions(), seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_random_programs_and_their_derivatives(program, seed, order):
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, 3, 3))
    f = [program, tm.value_and_grad(program), lambda x: tm.hvp(program, x, v)][order]
    compiled, expected = tm.compile(f), f(x)
    for _ in range(2):
        tm.trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), compiled(x), expected)


def test_arguments_may_lie_in_memory_as_they_like():
    rng = np.random.default_rng(9)
    compiled = tm.compile(lambda x, y: ops.sin(x) @ y)
    x, y = numbers(rng, 6, 8), numbers(rng, 8, 4)
    expected = np.sin(x) @ y
    x.flags.writeable = False
    for a in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        assert_close(compiled(a, y[::-1][::-1]), expected)
    assert compiled.backend == "llvm"


def test_ops_without_loops_run_on_numpy_and_say_why():
    x = np.eye(3) * 2
    compiled = tm.compile(lambda x: ops.cholesky(x) * 2)
    np.testing.assert_array_equal(compiled(x), np.linalg.cholesky(x) * 2)
    assert compiled.backend == "numpy"
    line = compiled.__wrapped__.__code__.co_firstlineno
    assert compiled.why_not_compiled == f"there are no loops for cholesky of float64[3,3], at {__file__}:{line}"
    empty = tm.compile(lambda x: ops.sum(ops.sin(x), axis=0))
    np.testing.assert_array_equal(empty(np.zeros((0, 3))), np.zeros(3))


SUMS = {
    "all": lambda x: ops.sum(x), "mean": lambda x: ops.mean(x), "columns": lambda x: ops.sum(x, axis=0),
    "rows": lambda x: ops.mean(x, axis=1), "two axes": lambda x: ops.sum(ops.reshape(x, (-1, 5, x.shape[1])), axis=(0, 2)),
    "dot": lambda x: ops.dot(ops.ravel(x), ops.ravel(x)), "squares": lambda x: ops.sum(ops.square(x), axis=(0, 1)),
}  # fmt: skip


@given(
    rows=st.sampled_from([5, 155, 160, 165, 1025, 100_000]), columns=st.sampled_from([1, 3, 33, 520]),
    name=st.sampled_from(sorted(SUMS)), even=st.booleans(),
)  # fmt: skip
@settings(max_examples=40)
def test_long_sums_lose_no_more_bits_than_numpys(rows, columns, name, even):
    rows = min(rows, 1_000_000 // columns) // 5 * 5
    x = (
        np.full((rows, columns), 0.1, np.float32)
        if even
        else np.random.default_rng(6).random((rows, columns), np.float32)
    )
    compiled, f = tm.compile(SUMS[name]), SUMS[name]
    np.testing.assert_allclose(compiled(x), f(x.astype(np.float64)), rtol=16 * np.finfo(np.float32).eps)
    assert compiled.backend == "llvm"


def test_a_sum_of_ten_million_numbers_against_the_exact_one():
    x = np.full(10**7, 0.1, np.float32)
    exact = math.fsum(x.tolist())
    assert abs(float(tm.compile(lambda x: ops.sum(x))(x)) - exact) <= 16 * np.finfo(np.float32).eps * exact


def test_whole_numbers_and_extremes_by_stretches():
    x = np.arange(70_001).reshape(-1, 1) % 4001
    check(lambda x: (ops.sum(x), ops.max(x), ops.min(x, axis=0)), x, source=False)
    check(lambda x: (ops.max(x), ops.min(x, axis=(0, 1))), np.float32(x), source=False)


def test_the_source_has_a_letter_for_every_axis_and_brackets_for_negative_numbers():
    check(lambda x: ops.exp(x.T) + x, np.random.default_rng(0).normal(size=(2,) * 9))
    check(lambda x: ops.power(-2.0, x) + x, np.array([2.0, 3.0]))
