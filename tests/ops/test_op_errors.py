"""What the ops refuse, and that the sentence names the op, the dtype[shape], and what to do."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops

X = np.ones((3, 4))


def refused(f, *parts, error=TypeError, x=X):
    """f raises `error` inside a derivative, with every part in its message."""
    with pytest.raises(error) as caught:
        tm.grad(f)(x)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("what", "f"),
    [
        ("float()", lambda x: float(x[0, 0])),
        ("int()", lambda x: int(x[0, 0])),
        ("index()", lambda x: [1, 2, 3][x[0, 0]]),
        ("item()", lambda x: x[0, 0].item()),
        ("np.asarray", lambda x: np.sum(np.asarray(x[0, 0]))),
        ("np.asarray", lambda x: np.sum(np.array([x[0, 0], x[0, 1]]))),
    ],
)
def test_what_would_lose_the_gradient_is_refused(what, f):
    refused(f, f"{what} of a Tensor float64[]", "tm.stop_gradient")


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("np.kron", lambda x: np.sum(np.kron(x, x))),
        ("np.linalg.det", lambda x: np.linalg.det(x)),
        ("np.sort", lambda x: np.sum(np.sort(x))),
        ("np.arcsin", lambda x: np.sum(np.arcsin(x))),
        ("np.add.reduce", lambda x: np.add.reduce(x)),
        ("np.multiply.outer", lambda x: np.multiply.outer(x, x)),
        ("np.add with out", lambda x: np.add(x, 1, out=np.zeros((3, 4)))),
        ("np.remainder", lambda x: np.sum(x % 2.0)),
        ("np.floor_divide", lambda x: np.sum(7 // x)),
        ("np.exp with where", lambda x: np.exp(x, where=x > 0)),
    ],
)
def test_an_unknown_numpy_function_is_refused_by_name(name, f):
    refused(f, name, "has no derivative rule for float64[3,4]", "tinymeta.ops")


def test_an_argument_of_numpys_function_that_the_op_has_not_is_refused():
    for f in (lambda x: np.sum(np.sum(x, 0, np.float32)), lambda x: np.sum(np.var(x, 0, np.float32))):
        refused(f, "of float64[3,4]: too many positional arguments, expected only x, axis")
    refused(lambda x: np.sum(x, dtype=np.float32), "np.sum of float64[3,4]: got an unexpected keyword argument 'dtype'")
    refused(lambda x: x.reshape((4, 3), order="F"), "reshape() got an unexpected keyword argument 'order'")
    refused(lambda x: np.einsum(x, [0, 1], [1, 0]), "einsum: subscripts are float64[3,4], expected letters")
    refused(lambda x: np.sum(x.sum(0, np.float32)), "sum() takes from 1 to 2 positional arguments but 3 were given")


def test_a_tensor_as_an_index_is_refused():
    refused(lambda x: np.arange(3)[x[0, 0]], "of a Tensor float64[] would lose its gradient")
    refused(lambda x: x[x], "getitem: an index is a Tensor of float64")


def test_an_element_of_a_tensor_cannot_be_assigned():
    def assign(x):
        x[0] = 1.0
        return np.sum(x)

    refused(assign, "a Tensor float64[3,4] cannot be changed in place", "scatter_add")


def test_a_tensor_cannot_be_written_into_a_numpy_array():
    def write(x):
        y = np.zeros(2)
        y[0] = x[0, 0]
        return np.sum(x)

    with pytest.raises(ValueError, match="setting an array element") as caught:  # NumPy's words, with ours as the cause
        tm.grad(write)(X)
    assert "of a Tensor float64[] would lose its gradient" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("multiply(float64[3,4], float64[2])", lambda x: np.sum(x * np.ones(2))),
        ("matmul(float64[3,4], float64[3,4])", lambda x: np.sum(x @ x)),
        ("reshape(float64[3,4])", lambda x: np.sum(ops.reshape(x, (5, 2)))),
        ("concatenate(float64[3,4], float64[3,2])", lambda x: np.sum(ops.concatenate([x, x[:, :2]]))),
    ],
)
def test_an_error_of_numpy_says_which_op_on_what(op, call):
    refused(call, op, error=ValueError)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("matmul(float64[], float64[3,4]): a scalar operand", lambda: ops.matmul(np.ones(()), X)),
        ("axes [1] of shape [3, 4] are not all of length 1", lambda: ops.squeeze(X, 1)),
        ("axis 1 of length 4 does not divide into 3", lambda: ops.split(X, 3, axis=1)),
        ("axes [0] and [0] differ in length", lambda: ops.tensordot(X, np.ones(2), ([0], [0]))),
        ("pad: mode 'edge'", lambda: ops.pad(X, 1, mode="edge")),
        ("einsum('ij,jk->ik') names 2 operand(s), got 1", lambda: ops.einsum("ij,jk->ik", X)),
        ("'ijk' names 3 axes of an operand with 2", lambda: ops.einsum("ijk->k", X)),
        (
            "einsum('ii->i'): 'ii' repeats a letter for different lengths of float64[1,4]",
            lambda: ops.einsum("ii->i", X[:1]),
        ),
        ("einsum('...i->i'): the output has no place for the axes of '...'", lambda: ops.einsum("...i->i", X)),
        ("labels lie in [0, 4], expected 0 to 3", lambda: ops.one_hot(np.array([0, 4]), 4)),
        ("labels lie in [-1, 2], expected 0 to 3", lambda: ops.softmax_cross_entropy(X, np.array([0, -1, 2]))),
        ("expected integers of shape [3]", lambda: ops.softmax_cross_entropy(X, np.array([0, 1]))),
        ("expected integers of shape [3]", lambda: ops.softmax_cross_entropy(X, np.zeros(3))),
        ("conv2d(float64[3,4], float64[3,4])", lambda: ops.conv2d(X, X)),
        ("with one C", lambda: ops.conv2d(np.ones((1, 2, 4, 4)), np.ones((1, 3, 2, 2)))),
        ("conv2d: a window of [3, 3]", lambda: ops.conv2d(np.ones((1, 2, 2, 2)), np.ones((1, 2, 3, 3)))),
        ("max_pool2d: a window of [5, 5] with stride [5, 5] does not fit", lambda: ops.max_pool2d(X, 5)),
        ("is not a broadcast of [2]", lambda: ops.sum_to(X, (2,))),
        (
            "repeat: counts [1, 2] for axis 0 of float64[3,4], expected one or 3 counts",
            lambda: ops.repeat(X, [1, 2], 0),
        ),
        ("repeat: counts [-1] for axis 0 of float64[12]", lambda: ops.repeat(X, -1)),
        ("diag: float64[1,3,4], expected one axis or two", lambda: ops.diag(X[None])),
        ("diagonal: axes [1, 1] name one twice", lambda: ops.diagonal(X, 0, 1, -1)),
        ("tril: float64[], expected at least one axis", lambda: ops.tril(np.ones(()))),
        ("triu: float64[], expected at least one axis", lambda: ops.triu(np.ones(()))),
        ("the inner lengths 12 and 4 differ", lambda: ops.vdot(X, X[0])),
        ("the inner lengths 1 and 4 differ", lambda: ops.vecdot(X[:, :1], X)),
    ],
)
def test_bad_arguments_are_refused_in_one_sentence(message, call):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


INTEGERS = st.integers(-4, 4)
SOME = st.lists(INTEGERS, max_size=3).map(tuple)
OF_AXES = {
    "transpose": SOME,
    "moveaxis": st.tuples(INTEGERS, INTEGERS),
    "moveaxis of many": st.tuples(SOME, SOME),
    "swapaxes": st.tuples(INTEGERS, INTEGERS),
    "expand_dims": INTEGERS,
    "expand_dims of many": SOME,
    "squeeze": INTEGERS,
    "squeeze of many": SOME,
    "sum": INTEGERS,
    "max of many": SOME,
    "prod": INTEGERS,
    "prod of many": SOME,
    "cumsum": INTEGERS,
    "flip of many": SOME,
    "split": st.tuples(st.just(1), INTEGERS),
    "take": st.tuples(st.just([0]), INTEGERS),
    "take_along_axis": st.tuples(st.just(np.zeros((1, 1, 1), int)), INTEGERS),
    "repeat": st.tuples(st.just(2), INTEGERS),
    "diagonal": st.tuples(INTEGERS, INTEGERS, INTEGERS),
    "trace": st.tuples(INTEGERS, INTEGERS, INTEGERS),
    "concatenate": INTEGERS,
    "stack": INTEGERS,
}
DIRECT = ("moveaxis", "moveaxis of many", "swapaxes", "split", "take", "take_along_axis", "repeat", "diagonal", "trace")


def result_of(module, case, x, axis):
    op = getattr(module, case.partition(" ")[0])
    x = (x, x) if case in ("concatenate", "stack") else x
    return np.asarray(op(x, *axis) if case in DIRECT else op(x, axis))


@pytest.mark.parametrize("case", OF_AXES)
@given(data=st.data())
def test_axes_are_taken_and_refused_as_by_numpy(case, data):
    scalars = [] if "many" in case else [()]  # which have an axis 0, but no axes (0,)
    shape = data.draw(st.sampled_from([*scalars, (2,), (1, 1), (2, 1, 3)]))
    x, axis = np.arange(np.prod(shape, dtype=int)).reshape(shape) + 1.5, data.draw(OF_AXES[case])
    try:
        expected = result_of(np, case, x, axis)
    except (ValueError, IndexError):
        with pytest.raises((ValueError, IndexError)):
            result_of(ops, case, x, axis)
        with pytest.raises((ValueError, IndexError)):
            tm.vjp(lambda x: ops.sum(result_of(ops, case, x, axis)), x)
    else:
        np.testing.assert_array_equal(result_of(ops, case, x, axis), expected)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        ("transpose", lambda: ops.transpose(X, (0, 3))),
        ("moveaxis", lambda: ops.moveaxis(X, 0, 2)),
        ("swapaxes", lambda: ops.swapaxes(X, 0, 2)),
        ("expand_dims", lambda: ops.expand_dims(X, 7)),
        ("squeeze", lambda: ops.squeeze(X, -3)),
        ("take", lambda: ops.take(X, [0], axis=2)),
        ("repeat", lambda: ops.repeat(X, 2, axis=2)),
        ("diagonal", lambda: ops.trace(X, axis1=2)),
        ("vecdot", lambda: ops.vecdot(X, X, axis=2)),
        ("prod", lambda: tm.grad(lambda x: np.sum(ops.prod(x, axis=2)))(X)),
        ("tensordot", lambda: ops.tensordot(X, X, ([2], [0]))),
        ("batch_norm", lambda: ops.batch_norm(X, None, None, axis=2)),
    ],
)
def test_an_axis_out_of_range_is_refused_by_the_name_of_the_op(op, call):
    with pytest.raises(np.exceptions.AxisError, match=rf"^{op}.*axis -?\d is out of bounds for array of dimension"):
        call()


def test_axes_that_are_there_twice_or_do_not_match_are_refused():
    for call in (
        lambda: ops.expand_dims(X, (0, 0)),
        lambda: ops.moveaxis(X, (0, 1), 0),
        lambda: ops.tensordot(X, X, ([0, 0], [0, 1])),
        lambda: ops.tensordot(X, X, 3),
    ):
        with pytest.raises(ValueError, match=r"name one twice|2 axes|expected no more"):
            call()


def test_sizes_that_are_no_integers_are_refused():
    for call in (
        lambda: ops.reshape(X, (2.9, 6)),
        lambda: ops.broadcast_to(X, (1.5, 3, 4)),
        lambda: ops.sum(X, (0.5,)),
        lambda: ops.repeat(X, [0.5]),
        lambda: ops.tile(X, [0.5]),
    ):
        with pytest.raises(TypeError, match=r"'(numpy\.)?float(64)?' object cannot be interpreted as an integer"):
            call()


def test_one_hot_takes_numpys_integers():
    label, encode = np.argmax([0, 1, 0]), lambda i: ops.one_hot(i, 4)
    for run in (encode, tm.compile(encode)):
        for _ in range(2):
            np.testing.assert_array_equal(run(label), [0, 1, 0, 0])


def test_one_hot_refuses_labels_that_are_not_integers():
    with pytest.raises(TypeError, match="labels are float64, expected integers"):
        ops.one_hot(np.array([0.0, 1.0]), 2)


def test_a_singular_matrix_keeps_its_error_type():
    refused(
        lambda x: np.sum(ops.solve(x, np.ones(3))),
        "solve(float64[3,3], float64[3,1])",
        error=np.linalg.LinAlgError,
        x=X[:, :3],
    )


@pytest.mark.parametrize("order", [1, 2, -2, "nuc", np.inf])
def test_linalg_norm_of_a_matrix_in_another_order_is_refused_by_name(order):
    for f in (lambda x: np.linalg.norm(x, order), lambda x: np.linalg.norm(x, order, axis=(0, 1))):
        refused(f, f"np.linalg.norm: ord={order!r} of float64[3,4] has no derivative rule", error=ValueError)


@pytest.mark.parametrize("order", [1, np.inf, "fro"])
def test_linalg_norm_of_vectors_in_another_order_is_refused_by_name(order):
    f = lambda x: np.sum(np.linalg.norm(x, order, axis=0))
    refused(f, f"np.linalg.norm: ord={order!r} of float64[3,4]", "'fro' over two", error=ValueError)


MASKS = [
    tm.vmap(lambda x: np.where(x > 0)),
    tm.compile(lambda x: np.where(x > 0)),
    tm.grad(lambda x: np.sum(np.where(x))),
]


@pytest.mark.parametrize("f", MASKS, ids=["vmap", "compile", "grad"])
def test_where_with_one_argument_is_refused_with_the_form_that_serves(f):
    with pytest.raises(TypeError, match=r"np.where\(.*depends on the data, expected np.where\(condition, x, y\)"):
        f(X)


@pytest.mark.parametrize("transform", [tm.vmap, tm.compile])
def test_a_plain_array_at_a_mapped_or_captured_index_is_refused_with_the_op_that_serves(transform):
    table, i = np.arange(12.0).reshape(4, 3), np.array([[2, 0], [1, 1]])
    with pytest.raises(TypeError, match=r"tm\.ops\.getitem\(x, i\) for x\[i\]"):
        transform(lambda i: table[i])(i)
    np.testing.assert_array_equal(transform(lambda i: ops.getitem(table, i))(i), table[i])


@pytest.mark.parametrize(
    ("call", "gradient"),
    [
        (lambda x: x.clip(0.0), 1), (lambda x: x.clip(max=0.0), 0), (lambda x: x.clip(min=0.0, max=9.0), 1),
        (lambda x: x.astype(np.float64, copy=False), 1), (lambda x: np.astype(x, np.float64, copy=False), 1),
        (lambda x: np.einsum("ij,ij->i", x, np.ones((3, 4)), optimize=True), 1),
        (lambda x: x - x.argmax(axis=0, keepdims=True) * x.argmin(axis=1, keepdims=True), 1),
    ],
)  # fmt: skip
def test_methods_take_numpys_arguments(call, gradient):
    x = X**2 + 1
    np.testing.assert_allclose(tm.grad(lambda x: np.sum(call(x)))(x), np.full(x.shape, gradient))
    np.testing.assert_allclose(tm.compile(call)(x), call(x))


def test_an_error_of_numpys_own_keeps_its_kind():
    with pytest.raises(
        TypeError, match=r"add\(float64\[2\], <U1\[2\]\), called at .*: ufunc 'add' did not contain a loop"
    ):
        ops.add(np.ones(2), np.array(["a", "b"]))
