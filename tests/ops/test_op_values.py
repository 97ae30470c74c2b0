"""Every op has the values of NumPy's function of the same name, or of an independent loop where NumPy has none."""

import operator
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies
from tinymeta.check.cases import CASES
from tinymeta.engine import trees
from tinymeta.ops.table import ELEMENTWISE

NUMPY = {name: getattr(np, name) for name in CASES if hasattr(np, name)} | {
    "getitem": operator.getitem,
    "solve": np.linalg.solve,
    "cholesky": np.linalg.cholesky,
}


def scatter_add(x, index, values):
    y = np.array(x)
    np.add.at(y, index, values)
    return y


def sum_to(x, shape):
    lead = x.sum(axis=tuple(range(x.ndim - len(shape))))
    return lead.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)


def conv2d(x, w, stride, padding):
    (sh, sw), (ph, pw) = np.broadcast_to(stride, 2), np.broadcast_to(padding, 2)
    x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(ph, ph), (pw, pw)])
    kh, kw = w.shape[-2:]
    height, width = (x.shape[-2] - kh) // sh + 1, (x.shape[-1] - kw) // sw + 1
    tasks = np.broadcast_shapes(x.shape[:-4], w.shape[:-4])
    y = np.zeros((*tasks, x.shape[-4], w.shape[-4], height, width))
    for i in range(height):
        for j in range(width):
            window = x[..., :, None, :, i * sh : i * sh + kh, j * sw : j * sw + kw]
            y[..., i, j] = (window * w[..., None, :, :, :, :]).sum(axis=(-3, -2, -1))
    return y


def pool2d(x, size, stride, reduce):
    (kh, kw), (sh, sw) = np.broadcast_to(size, 2), np.broadcast_to(size if stride is None else stride, 2)
    rows = range(0, x.shape[-2] - kh + 1, sh)
    columns = range(0, x.shape[-1] - kw + 1, sw)
    return np.stack(
        [np.stack([reduce(x[..., i : i + kh, j : j + kw], (-2, -1)) for j in columns], -1) for i in rows], -2
    )


def batch_norm(x, gamma, beta, axis, eps):
    normal = (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)
    return normal * np.expand_dims(gamma, axis) + np.expand_dims(beta, axis)


def softmax(x, axis):
    return np.exp(x) / np.exp(x).sum(axis, keepdims=True)


LOOPS = {
    "scatter_add": scatter_add,
    "sum_to": sum_to,
    "conv2d": conv2d,
    "max_pool2d": lambda x, size, stride: pool2d(x, size, stride, np.max),
    "mean_pool2d": lambda x, size, stride: pool2d(x, size, stride, np.mean),
    "batch_norm": batch_norm,
    "softmax": softmax,
    "log_softmax": lambda x, axis: np.log(softmax(x, axis)),
    "softmax_cross_entropy": lambda x, labels: (
        -np.log(np.take_along_axis(softmax(x, -1), labels[..., None], -1))[..., 0]
    ),
    "relu": lambda x: x * (x > 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "logsumexp": lambda x, axis, keepdims: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
    "norm": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
}


def assert_same(got, expected):
    for a, b in zip(trees.leaves(got), trees.leaves(expected), strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_elementwise_ops_are_pickled_by_name():
    for op in ELEMENTWISE.values():
        assert pickle.loads(pickle.dumps(op)) is op


def test_every_op_has_an_oracle():
    assert set(NUMPY | LOOPS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15)
@given(data=st.data())
def test_values_of_arrays_and_of_tensors(name, data):
    args, kwargs = data.draw(strategies.arrays_for(name))
    expected = (LOOPS | NUMPY)[name](*args, **kwargs)
    op = getattr(ops, name)
    assert_same(op(*args, **kwargs), expected)
    f, xs = strategies.as_function(op, args, kwargs)
    assert_same(tm.vjp(f, *xs)[0], expected)


@pytest.mark.parametrize("name", [*NUMPY, "norm"])
@settings(max_examples=8)
@given(data=st.data())
def test_numpys_own_function_differentiates_as_the_op(name, data):
    args, kwargs = data.draw(strategies.arrays_for(name))
    numpys = np.linalg.norm if name == "norm" else NUMPY[name]
    f, xs = strategies.as_function(getattr(ops, name), args, kwargs)
    through_protocol, _ = strategies.as_function(numpys, args, kwargs)
    (y, pull), (z, pull_protocol) = tm.vjp(f, *xs), tm.vjp(through_protocol, *xs)
    assert_same(z, y)
    cotangent = trees.map(np.cos, y)
    assert_same(pull_protocol(cotangent), pull(cotangent))


WITHOUT_DERIVATIVE = sorted(set(ops.__all__) - set(CASES) - {"one_hot"})


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
@given(data=st.data())
def test_ops_without_a_derivative_return_numpys_plain_arrays(name, data):
    numpys = getattr(np, name)
    special = st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.5, np.inf, -np.inf, np.nan])
    x, y = (np.array(data.draw(st.lists(special, min_size=3, max_size=3))) for _ in range(2))
    args = (x, y) if numpys.nin == 2 else (x,)
    expected, found = numpys(*args), []

    def f(*tensors):
        found.append(getattr(ops, name)(*tensors))
        return np.float64(0)

    tm.vjp(f, *args)
    assert type(found[0]) is np.ndarray
    assert found[0].dtype == expected.dtype
    np.testing.assert_array_equal(found[0], expected)


@given(labels=st.lists(st.integers(0, 4), max_size=5))
def test_one_hot_has_a_single_one_at_each_label(labels):
    rows = ops.one_hot(np.array(labels, np.int64), 5)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.eye(5)[np.array(labels, np.int64)])


@pytest.mark.parametrize("operator_name", ["add", "sub", "mul", "truediv", "pow", "matmul"])
def test_python_operators_in_both_orders(operator_name):
    op = getattr(operator, operator_name)
    a, b = np.array([[1.5, 2.0], [0.5, 3.0]]), np.array([[2.0, 0.5], [1.0, 2.5]])
    for f in (lambda x: op(x, b), lambda x: op(a, x), lambda x: op(x, x)):
        assert_same(tm.vjp(f, b)[0], f(b))
        jacobian = tm.jacobian(f)(b)
        for index in np.ndindex(b.shape):
            step = np.zeros_like(b)
            step[index] = 1e-6
            np.testing.assert_allclose(jacobian[:, :, *index], (f(b + step) - f(b - step)) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "f",
    [
        lambda x, i: ops.sum(x, axis=i),
        lambda x, i: ops.max(x, axis=i, keepdims=True),
        lambda x, i: ops.prod(x, axis=i),
        lambda x, i: ops.reshape(x, i * 6),
        lambda x, i: ops.expand_dims(x, i),
        lambda x, i: ops.moveaxis(x, i, 0),
        lambda x, i: ops.squeeze(x[:, :, None], i + i),
        lambda x, i: ops.split(x, i + 2, axis=i)[0],
        lambda x, i: ops.roll(x, i, axis=i),
        lambda x, i: x.reshape(i + 1, i + 2),
    ],
)
def test_integers_of_numpy_serve_as_axes_and_sizes(f):
    x = np.arange(1.0, 7.0).reshape(2, 3)
    assert_same(f(x, np.int64(1)), f(x, 1))
    gradient = tm.grad(lambda x, i: np.sum(f(x, i) ** 2))
    np.testing.assert_array_equal(gradient(x, np.int64(1)), gradient(x, 1))


ROW, PAIR = [1.0, 2.0, 3.0], [2.0, 5.0]
OF_LISTS = {
    "concatenate": lambda x: np.concatenate([x[0], PAIR]),
    "stack": lambda x: np.stack([x[0], ROW]),
    "matmul": lambda x: PAIR @ x @ np.array(ROW) + PAIR @ (x @ ROW),
    "solve": lambda x: np.linalg.solve([[2.0, 0.0], [0.0, 4.0]], x),
    "outer": lambda x: np.outer(PAIR, x),
    "tensordot": lambda x: np.tensordot([PAIR], x, 1),
    "take": lambda x: np.take(x, (0, 2)),
    "take of an axis": lambda x: np.take(x, [[0, 1]], axis=1),
    "take of nothing": lambda x: np.take(x, []),
    "take of booleans": lambda x: np.take(x, [True, False, True]),
    "take of one boolean": lambda x: np.take(x, True, axis=0),
    "where": lambda x: np.where([True, False, True], x, ROW),
}


@pytest.mark.parametrize("case", OF_LISTS)
def test_lists_and_numbers_are_constants_as_in_numpy(case):
    f, x = OF_LISTS[case], np.arange(6.0).reshape(2, 3)
    assert_same(tm.vjp(f, x)[0], f(x))
    assert_same(tm.vmap(f)(np.stack([x, x]))[1], f(x))
    assert_same(tm.compile(f)(x), f(x))
    tm.check.gradients(f, x)


def test_a_number_is_stacked_with_a_tensor_and_with_a_mapped_value():
    f, x = lambda x: np.stack([x[0], 1.0]), np.arange(6.0).reshape(3, 2)
    assert_same(tm.vmap(f)(x), np.stack([f(row) for row in x]))
    np.testing.assert_array_equal(tm.jacobian(f)(x[0]), [[1, 0], [0, 0]])


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("prod", (ROW,)),
        ("var", (ROW,)),
        ("std", (ROW, 0)),
        ("matmul", ([PAIR], [[1.0], [2.0]])),
        ("squeeze", ([PAIR],)),
        ("roll", ([PAIR], 1)),
        ("take", (ROW, [True, False])),
    ],
)
def test_ops_take_lists(op, args):
    assert_same(getattr(ops, op)(*args), getattr(np, op)(*args))


def beside_the_diagonal(term, x):
    """Where the places along the axes of a letter differ."""
    places = [
        place for place, letter in zip(np.indices(x.shape), term.replace("...", "z"), strict=True) if letter == "i"
    ]
    return np.any([p != places[0] for p in places], axis=0)


@pytest.mark.parametrize("subscripts", ["ii->i", "ii", "iij->ij", "iji->j", "iii", "ii,i->i", "...ii->...i"])
def test_a_diagonal_has_nothing_of_what_lies_beside_it(subscripts):
    """Even if that is not finite; inside a vmap and compiled too, and in the derivative, which is 0 there."""
    terms = subscripts.partition("->")[0].split(",")
    shapes = [(3,) * len(term.replace("...", "z")) for term in terms]
    x, *others = (np.random.default_rng(0).normal(size=shape) for shape in shapes)
    beside = beside_the_diagonal(terms[0], x)
    poisoned = np.where(beside, np.nan, x)
    f = lambda x: ops.einsum(subscripts, x, *others)
    expected = np.einsum(subscripts, poisoned, *others)
    assert np.isfinite(expected).all()
    for g in (f, tm.compile(f), lambda x: tm.vmap(f)(np.stack([x, x]))[1]):
        assert_same(g(poisoned), expected)
    square = tm.grad(lambda x: np.sum(f(x) ** 2))
    np.testing.assert_allclose(square(poisoned), np.where(beside, 0, square(np.where(beside, 0, x))), rtol=1e-14)
    tm.check.gradients(f, x)


def test_extreme_logits_neither_overflow_nor_lose_their_gradient():
    logits = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4]])
    np.testing.assert_array_equal(ops.softmax(logits), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(ops.sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])
    np.testing.assert_array_equal(ops.softplus(np.array([-1e4, 1e4])), [0, 1e4])
    gradient = tm.grad(lambda x: np.sum(ops.softmax_cross_entropy(x, np.array([1, 2]))))(logits)
    np.testing.assert_array_equal(gradient, [[1, -1, 0], [0, 0, 0]])
    curvature = tm.hvp(lambda x: np.sum(ops.softplus(x) + ops.sigmoid(x)), np.array([-1e4, 1e4]), np.ones(2))
    np.testing.assert_array_equal(curvature, [0, 0])


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "u4", "i8", "f4"])
def test_a_product_of_small_integers_is_a_large_one(dtype):
    x = np.full((1, 10), 2, dtype)
    for f in (lambda x: ops.prod(x, 1), tm.vmap(ops.prod), tm.compile(tm.vmap(ops.prod))):
        assert_same(f(x), np.prod(x, 1))


def test_a_product_shares_no_memory_with_its_input():
    x = np.ones((1, 3))
    product = lambda x: ops.prod(x, axis=0)
    for y in (product(x), tm.vmap(product, 1)(x), tm.vjp(product, x)[0], tm.compile(product)(x)):
        assert not np.shares_memory(y, x)


@pytest.mark.parametrize("copies", [lambda x: np.tile(x, 1), lambda x: np.repeat(x, 1, axis=0), np.copy])
def test_copies_share_no_memory_with_their_input(copies):
    x = np.ones((2, 3))
    for y in (tm.vmap(copies)(x), tm.vjp(copies, x)[0], tm.compile(copies)(x)):
        np.testing.assert_array_equal(y, x)
        assert not np.shares_memory(y, x)
    for f in (ops.tile, ops.repeat):
        assert not np.shares_memory(f(x, 1), x)


OF_TWO_NAMES = {
    "amax": (lambda x: np.amax(x, axis=0), lambda x: ops.max(x, axis=0)),
    "amin": (lambda x: np.amin(x, keepdims=True), lambda x: ops.min(x, keepdims=True)),
    "copy": (lambda x: 2 * np.copy(x, order="C"), lambda x: 2 * x),
    "norm of order 2": (lambda x: np.linalg.norm(x, 2, axis=1), lambda x: ops.norm(x, axis=1)),
    "norm of a vector": (lambda x: np.linalg.norm(x.ravel(), ord=2), ops.norm),
    "norm of one axis": (lambda x: np.linalg.norm(x, 2, (0,), True), lambda x: ops.norm(x, axis=0, keepdims=True)),
    "Frobenius norm": (lambda x: np.linalg.norm(x, "fro"), ops.norm),
    "Frobenius norm of axes": (lambda x: np.linalg.norm(x[None], "fro", axis=(1, 2)), lambda x: ops.norm(x)[None]),
    "x.trace": (lambda x: x.trace(1), lambda x: ops.trace(x, 1)),
    "x.diagonal": (lambda x: x.diagonal(offset=-1), lambda x: ops.diagonal(x, -1)),
    "x.repeat": (lambda x: x.repeat([1, 0, 2], axis=1), lambda x: ops.repeat(x, [1, 0, 2], axis=1)),
    "vecdot of an axis": (lambda x: np.vecdot(x, x[:, ::-1], axis=0), lambda x: np.sum(x * x[:, ::-1], 0)),
}


@pytest.mark.parametrize("case", OF_TWO_NAMES)
def test_other_names_and_arguments_are_the_same_op(case):
    f, op = OF_TWO_NAMES[case]
    x = np.random.default_rng(0).normal(size=(2, 3))
    assert_same(f(x), op(x))
    tm.check.gradients(f, x)
    for same in (tm.jacobian, lambda f: tm.hessian(lambda x: np.sum(f(x) ** 3)), lambda f: tm.compile(tm.jacobian(f))):
        np.testing.assert_allclose(same(f)(x), same(op)(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(tm.vmap(f)(np.stack([x, x]))[1], f(x), rtol=1e-12)


OF_ANY_DTYPE = {
    "vdot": lambda m, x: m.vdot(x, x.T),
    "inner": lambda m, x: m.inner(x, x[0]),
    "vecdot": lambda m, x: m.vecdot(x, x[0]),
    "trace": lambda m, x: m.trace(x, -1),
    "diagonal": lambda m, x: m.diagonal(x, 1),
    "diag": lambda m, x: m.diag(x[0], -1),
    "tril": lambda m, x: m.tril(x, 1),
    "triu": lambda m, x: m.triu(x),
    "triu of a vector": lambda m, x: m.triu(x[0]),
    "hstack": lambda m, x: m.hstack([x, x]),
    "vstack": lambda m, x: m.vstack([x[0], x]),
    "vstack of numbers": lambda m, x: m.vstack([x[0, 0], x[0, 0]]),
    "repeat": lambda m, x: m.repeat(x, 2, axis=-1),
    "repeat by counts": lambda m, x: m.repeat(x, np.array([2, 0]), axis=0),
    "tile": lambda m, x: m.tile(x, (2, 1, 2)),
}


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("case", OF_ANY_DTYPE)
def test_numpys_dtypes_of_arrays_and_of_examples(case, dtype):
    f = OF_ANY_DTYPE[case]
    x = np.array([[1, 0, 2], [3, 1, 0]]).astype(dtype)
    expected = f(np, x)
    assert_same(f(ops, x), expected)
    assert_same(tm.vmap(lambda x: f(np, x))(np.stack([x, x]))[1], expected)
    assert_same(tm.compile(lambda x: f(np, x))(x), expected)


@pytest.mark.parametrize("triangle", [ops.tril, ops.triu])
def test_a_triangle_has_nothing_of_the_other_one(triangle):
    """Even if that is not finite, and in the derivative, which is 0 there."""
    x = np.random.default_rng(0).normal(size=(3, 3))
    kept = getattr(np, triangle.__name__)(np.ones((3, 3), bool))
    poisoned = np.where(kept, x, np.nan)
    for f in (triangle, tm.compile(triangle), lambda x: tm.vmap(triangle)(np.stack([x, x]))[1]):
        assert_same(f(poisoned), np.where(kept, x, 0))
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(triangle(x) ** 2))(poisoned), np.where(kept, 2 * x, 0))


def test_a_variance_without_degrees_of_freedom_is_infinite():
    for f in (ops.var, ops.std, lambda x, ddof: tm.vjp(lambda x: ops.var(x, ddof=ddof), x)[0]):
        for ddof in (2, 3):
            with pytest.warns(RuntimeWarning, match="divide by zero"):
                assert f(np.array([1.0, 2.0]), ddof=ddof) == np.inf


def test_an_empty_axis_splits_into_empty_sections():
    sections = ops.split(np.zeros((0, 2)), 3)
    assert [section.shape for section in sections] == [(0, 2)] * 3


def test_batch_norm_without_scale_or_shift():
    rng = np.random.default_rng(0)
    x, gamma, beta = rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=3)
    one, zero = np.ones(3), np.zeros(3)
    for g, b in ((None, beta), (gamma, None), (None, None)):
        expected = ops.batch_norm(x, one if g is None else g, zero if b is None else b, axis=0)
        np.testing.assert_allclose(ops.batch_norm(x, g, b, axis=0), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_softmax_of_large_logits_loses_nothing(dtype):
    """The logarithm of the sum is small beside them, so it must not be added to them first."""
    large = dtype(2000.0 if dtype == np.float16 else 1e8)
    near = np.array([0.0, 1.0, 3.0], dtype)
    alike = ops.softmax(np.full(4, large, dtype))
    np.testing.assert_allclose(alike, np.full(4, 0.25, dtype), rtol=2 * np.finfo(dtype).eps)
    shifted = (large + 16 * near) - large  # what of the differences there is room for
    np.testing.assert_allclose(ops.log_softmax(large + 16 * near), ops.log_softmax(shifted), rtol=np.finfo(dtype).eps)


def test_a_small_cross_entropy_keeps_its_digits():
    logits = np.array([[100.0, 86.0]], np.float32)
    np.testing.assert_allclose(ops.softmax_cross_entropy(logits, np.array([0])), [np.log1p(np.exp(-14.0))], rtol=1e-2)


def test_the_mean_of_many_halves_has_a_gradient():
    np.testing.assert_array_equal(tm.grad(ops.mean)(np.ones(100_000, np.float16)), np.full(100_000, 1e-5, np.float16))


def test_a_window_of_one_is_a_copy():
    x = np.ones((1, 1, 2, 2))
    pooled = ops.max_pool2d(x, 1)
    pooled[...] = 7
    np.testing.assert_array_equal(x, 1)
