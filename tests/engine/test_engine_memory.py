"""Arrays: captured ones cannot be changed while it matters, results are the caller's own, and nothing stays locked."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import ops
from tinymeta.engine import trees


def changes(array):
    """Assigns to the array, as a user's slip inside a differentiated function would."""
    array[0] = 5


READ_ONLY = "read-only"


class Held(np.ndarray):
    """An array that can be watched by a weak reference."""


def test_a_leaf_cannot_be_changed_inside_the_function():
    x = np.ones(3)

    def f(w):
        y = np.sum(w * w)
        changes(x)
        return y

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(x)
    changes(x)
    assert x[0] == 5


def test_a_captured_constant_cannot_be_changed_inside_the_function():
    c = np.ones(3)

    def f(w):
        y = np.sum(w * c)
        c[:] *= 2
        return y

    for transform in (tm.grad(f), lambda x: tm.jvp(f, (x,), (x,)), lambda x: tm.hvp(f, x, x), lambda x: tm.vjp(f, x)):
        with pytest.raises(ValueError, match=READ_ONLY):
            transform(np.ones(3))
        changes(c)


def test_an_index_array_cannot_be_changed_inside_the_function():
    index = np.array([0, 1])

    def f(w):
        y = np.sum(w[index] ** 2)
        changes(index)
        return y

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(np.ones(6))
    changes(index)


def changed_index(x):
    i = [0, 1]
    y = x[i]
    i[0] = 2
    return np.sum(y)


def changed_index_of_two(x):
    i = [0, 1]
    y = ops.stack([x, x])[[1, 0], i]
    i[0] = 2
    return np.sum(y)


def changed_factor(x):
    c = [1.0, 1.0, 0.0]
    y = x * c
    c[:] = [5, 5, 5]
    return np.sum(y)


@pytest.mark.parametrize("f", [changed_index, changed_index_of_two, changed_factor])
def test_a_list_is_captured_as_it_was(f):
    x = np.arange(3.0)
    mapped = lambda x: np.sum(tm.vmap(lambda s: f(s * np.ones(3)))(x))
    for derivative in (tm.grad(f), tm.compile(tm.grad(f)), tm.grad(tm.checkpoint(f))):
        np.testing.assert_array_equal(derivative(x), [1, 1, 0])
    np.testing.assert_array_equal(tm.vmap(tm.grad(f))(np.stack([x, x])), [[1, 1, 0]] * 2)
    np.testing.assert_array_equal(tm.grad(mapped)(x), [2, 2, 2])


def test_a_view_taken_before_stays_writeable():
    """The limit of locking that the documentation states."""
    c = np.ones(3)
    view = c[:]

    def f(x):
        y = np.sum(x * c)
        view[0] = 5
        return y

    np.testing.assert_array_equal(tm.grad(f)(np.ones(3)), [5, 1, 1])


def test_the_base_of_a_captured_view_cannot_be_changed_either():
    base = np.ones((2, 3))

    def f(w):
        y = np.sum(w * base[0])
        base[0, 0] = 7
        return y

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(np.ones(3))
    base[0, 0] = 7


def test_several_views_of_one_array_are_writeable_again():
    base = np.arange(6.0)
    views = [base[:2], base[2:4], base[::3], base.reshape(3, 2)[1]]

    def f(w):
        return np.sum(sum(w * view for view in views))

    for _ in range(2):
        np.testing.assert_array_equal(tm.grad(f)(np.ones(2)), sum(views))
        for array in (base, *views):
            array += 1


def strided():
    return np.lib.stride_tricks.as_strided(np.ones(3))


def view_whose_base_became_read_only():
    base = Held(3)
    base[:] = 1
    view = np.asarray(base)
    base.flags.writeable = False
    return view


NOT_TO_BE_UNLOCKED = {
    "as_strided": strided,
    "view of as_strided": lambda: strided()[:],
    "windows": lambda: np.lib.stride_tricks.sliding_window_view(np.ones(5), 3, writeable=True)[0],
    "base became read-only": view_whose_base_became_read_only,
}


@pytest.mark.parametrize("kind", NOT_TO_BE_UNLOCKED)
def test_what_numpy_would_not_make_writeable_again_is_not_locked(kind):
    c = NOT_TO_BE_UNLOCKED[kind]()
    for _ in range(2):
        np.testing.assert_array_equal(tm.grad(lambda w: np.sum(w * c))(np.ones(3)), c)
        changes(c)


@pytest.mark.parametrize("base", [bytearray(24), memoryview(bytearray(24))])
def test_views_of_buffers_are_locked_and_writeable_again(base):
    whole = np.frombuffer(base)

    def f(w):
        y = np.sum(w * whole[:2] * whole[1:])
        changes(whole)
        return y

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(np.ones(2))
    changes(whole)


def test_a_base_that_the_function_makes_read_only_stays_so_and_the_rest_is_unlocked():
    base, c = Held(3), np.ones(3)
    view = np.asarray(base)

    def f(w):
        y = np.sum(w * view * c)
        base.flags.writeable = False
        return y

    tm.grad(f)(np.ones(3))
    assert not view.flags.writeable
    changes(c)


def test_what_was_read_only_before_stays_read_only():
    c = np.ones(3)
    c.flags.writeable = False
    x = np.ones(3)
    tm.grad(lambda w: np.sum(w * c))(x)
    assert not c.flags.writeable
    assert x.flags.writeable


def test_arrays_stay_locked_until_the_outermost_derivative_is_done():
    c, seen = np.ones(3), []

    def outer(w):
        tm.grad(lambda z: np.sum(z * c))(w)
        seen.append(c.flags.writeable)
        return np.sum(w)

    tm.grad(outer)(np.ones(3))
    assert seen == [False]
    assert c.flags.writeable


@pytest.mark.parametrize("change", ["x", "c"])
def test_a_change_between_vjp_and_pull_is_detected(change):
    x, c = np.ones(3), np.full(3, 2.0)
    pull = tm.vjp(lambda x: x * x * c, x)[1]
    push = tm.linearize(lambda x: x * x * c, x)[1]
    np.testing.assert_array_equal(pull(np.ones(3))[0], [4, 4, 4])
    {"x": x, "c": c}[change][1] += 1
    for later in (pull, push):
        with pytest.raises(ValueError, match=r"float64\[3\] was changed in place"):
            later(np.ones(3))


def test_writing_to_a_value_leaves_the_derivatives_right():
    x = np.array([0.0, 1.0, 2.0])
    value, pull = tm.vjp(np.exp, x)
    again, push = tm.linearize(np.exp, x)
    value[:] = again[:] = 0
    np.testing.assert_array_equal(pull(np.ones(3))[0], np.exp(x))
    np.testing.assert_array_equal(push(np.ones(3)), np.exp(x))


def test_a_captured_array_on_disk_is_read_only_and_its_changes_are_detected(tmp_path):
    c = np.memmap(tmp_path / "c", np.float64, "w+", shape=(3,))
    c[:] = [1, 2, 3]

    def f(x):
        y = x * c
        changes(c)
        return np.sum(y)

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(np.ones(3))
    pull = tm.vjp(lambda x: x * c, np.ones(3))[1]
    changes(c)
    with pytest.raises(ValueError, match=r"float64\[3\] was changed in place"):
        pull(np.ones(3))


def arrays_of(*results):
    return [x for result in results for x in trees.leaves(result) if isinstance(x, np.ndarray)]


def assert_owned(results, inputs):
    found = arrays_of(results)
    assert found
    for i, x in enumerate(found):
        assert x.flags.writeable
        assert x.flags.owndata
        assert not any(np.shares_memory(x, y) for y in arrays_of(inputs))
        assert not any(np.shares_memory(x, y) for y in found[:i])


def test_gradients_are_owned_writeable_and_share_nothing():
    a, b, c = np.ones((2, 3)), np.ones((2, 3)), np.ones(3)
    functions = {
        "sum": lambda p: np.sum(p["a"] + p["b"]),  # one cotangent for both, and a broadcast view
        "linear": lambda p: np.sum(p["a"] * c) + np.sum(p["b"] * c),
        "transpose": lambda p: np.sum(p["a"].T @ p["b"]),
        "unused": lambda p: np.sum(p["a"]),
        "identity": lambda p: p["a"][0, 0] + p["b"][1, 1],
    }
    for f in functions.values():
        params = {"a": a, "b": b}
        value, gradient = tm.value_and_grad(f)(params)
        assert_owned([gradient, np.asarray(value)], [params, c])
        curvature = [tm.hvp(f, params, params, mode) for mode in ("forward-over-reverse", "reverse-over-reverse")]
        assert_owned(curvature, [params, c, gradient])


def test_values_and_products_are_owned_and_share_nothing():
    x, c, g = np.ones((2, 3)), np.full((2, 3), 2.0), np.ones((2, 3))
    f = lambda x: {"same": x, "view": x.T, "constant": c, "twice": (x, x), "row": x[0]}
    value, pull = tm.vjp(f, x)
    cotangent = {"same": g, "view": None, "constant": None, "twice": (None, g), "row": None}
    first, second = pull(cotangent), pull(cotangent)
    assert_owned([{k: v for k, v in value.items() if k != "constant"}, first, second], [x, g])
    value, push = tm.linearize(f, x)
    assert_owned([push(g), push(g)], [x, g, c])


def test_the_cotangent_given_to_pull_is_not_handed_back():
    g = np.ones(3)
    gradient = tm.vjp(lambda x: x, np.ones(3))[1](g)[0]
    gradient += 1
    np.testing.assert_array_equal(g, [1, 1, 1])
    tangent = tm.jvp(lambda x: x, (np.ones(3),), (g,))[1]
    tangent += 1
    np.testing.assert_array_equal(g, [1, 1, 1])


def test_stop_gradient_gives_a_read_only_value():
    def f(x):
        constant = tm.stop_gradient(x)
        with pytest.raises(ValueError, match=READ_ONLY):
            changes(constant)
        return np.sum(constant * x)

    np.testing.assert_array_equal(tm.grad(f)(np.ones(3)), [1, 1, 1])


def test_plain_arrays_pass_through_the_ops_unlocked():
    x = np.ones(3)
    ops.exp(x) + ops.matmul(x, x)
    assert x.flags.writeable


def pull_that_holds_an_array():
    big = np.ones(1000).view(Held)
    return tm.vjp(lambda x: np.sum(x * big), np.ones(1000))[1], weakref.ref(big)


def test_the_graph_is_freed_with_its_last_reference():
    """No cycles: reference counting alone frees what a derivative held."""
    gc.disable()
    try:
        pull, alive = pull_that_holds_an_array()
        assert alive() is not None
        del pull
        assert alive() is None
    finally:
        gc.enable()


FORWARD = {
    "jvp": lambda f, a: tm.jvp(f, (a,), (a,)),
    "hvp": lambda f, a: tm.hvp(lambda a: ops.sum(f(a)), a, a),
    "linearize": lambda f, a: tm.linearize(f, a)[1](a),
}


@pytest.mark.parametrize("mode", FORWARD)
def test_forward_derivatives_leave_arrays_writeable(mode):
    """A general op's JVP is its VJP transposed, whose arrays are not the user's variables."""
    a, b = 2 * np.eye(3), np.ones(3)
    FORWARD[mode](lambda a: ops.solve(a, b), a)
    changes(a)
    changes(b)


def test_constants_of_worker_threads_stay_writeable():
    constants = [np.ones(2), np.ones(2)]

    def loss(w):
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda c: ops.sum(w * c), constants))

    np.testing.assert_array_equal(tm.grad(loss)(np.ones(2)), [2, 2])
    for c in constants:
        changes(c)


def test_a_constant_of_a_subclass_cannot_be_changed_inside_the_function():
    c = np.ones(2).view(np.recarray)

    def f(x):
        y = np.sum(x * c)
        changes(c)
        return y

    with pytest.raises(ValueError, match=READ_ONLY):
        tm.grad(f)(np.ones(2))
    changes(c)


def test_an_index_array_in_a_list_may_be_changed():
    index = np.array([1])

    def f(x):
        y = x[[index]]
        index[0] = 0
        return np.sum(y)

    np.testing.assert_array_equal(tm.grad(f)(np.ones(2)), [0, 1])
