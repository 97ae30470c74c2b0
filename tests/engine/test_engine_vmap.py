"""tm.vmap: JAX's semantics of trees and axes, and any nesting with the derivatives."""

import gc
import threading
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
from duck import Duck
from engine.vmapping import RNG, X, assert_same, loop, refused
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import nets, ops, trees
from tinymeta.engine.tensor import OPEN, THREAD, Tensor
from tinymeta.ops.kernel import KERNELS, kernel

# ---- trees and axes ----


class Pair(NamedTuple):
    left: Any
    right: Any


def test_trees_come_in_and_go_out():
    tree = {"a": X, "b": [Pair(X[:, 0], X * 2)]}
    f = lambda tree, y: Pair({"sum": np.sum(tree["a"]) * tree["b"][0].left}, (tree["b"][0].right @ y, y))
    assert_same(tm.vmap(f)(tree, X), loop(f)(tree, X))


def test_in_axes_are_a_prefix_of_the_arguments():
    w, x = RNG.normal(size=(3, 2)), {"x": RNG.normal(size=(3, 5)), "scale": RNG.normal(size=(5, 3, 1))}
    f = lambda w, x, shift: (x["x"] * np.sum(x["scale"])) @ w + shift
    expected = np.stack([f(w, {"x": x["x"][:, i], "scale": x["scale"][i]}, 0.5) for i in range(5)])
    assert_same(tm.vmap(f, (None, {"x": 1, "scale": 0}, None))(w, x, 0.5), expected)
    assert_same(tm.vmap(f, [None, {"scale": -3, "x": -1}, None])(w, x, 0.5), expected)
    f_of_one = lambda x: x[0] @ x[1]
    assert_same(tm.vmap(f_of_one, 1)([X, X]), np.sum(X * X, axis=0))
    assert_same(tm.vmap(f_of_one, ((1, None),))([X, X[:, 0]]), X.T @ X[:, 0])
    assert_same(tm.vmap(f_of_one, ([None, -1],))([X[:, 0], X]), X.T @ X[:, 0])


def test_what_is_not_mapped_may_be_anything():
    f = lambda x, options: x * options["scale"] if options["name"] == "scaled" else None
    assert_same(tm.vmap(f, (0, None))(X, {"name": "scaled", "scale": 2}), 2 * X)
    assert tm.vmap(f, (0, None))(X, {"name": "other"}) is None
    assert_same(tm.vmap(lambda x, n: x * n if n is not None else x, (0, None))(X, None), X)


def test_keyword_arguments_are_mapped_along_their_first_axis():
    f = lambda x, *, y: x @ y["y"]
    assert_same(tm.vmap(f, 1)(X, y={"y": X.T.copy()}), np.sum(X * X, axis=0))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_out_axes_place_the_examples(axis):
    f = lambda x: np.outer(x, x)[:, :2]
    assert_same(tm.vmap(f, 0, axis)(X), np.stack([np.outer(x, x)[:, :2] for x in X], axis))
    assert_same(tm.vmap(lambda x: np.ones((3, 2)), 0, axis)(X), np.stack([np.ones((3, 2))] * 4, axis))


def test_out_axes_are_a_prefix_of_the_result():
    f = lambda x: {"x": (x, 2 * x), "same": np.arange(3), "number": 4}
    got = tm.vmap(f, 0, {"x": (1, -2), "same": None, "number": 0})(X)
    assert_same(got, {"x": (X.T, 2 * X), "same": np.arange(3), "number": np.full(4, 4)})
    assert_same(tm.vmap(lambda x: (x, x), 0, (0, 1))(X), (X, X.T))


def test_results_are_the_callers_own_arrays():
    for f in (lambda x: x, lambda x: x.T, lambda x: np.zeros(3), lambda x: x[0]):
        x = X.copy()
        y = tm.vmap(f)(x)
        assert type(y) is np.ndarray
        y += 1
        np.testing.assert_array_equal(x, X)


def test_dtypes_are_those_of_one_example():
    single = X.astype(np.float32)
    f = lambda x: (2 * x, x.astype(np.float64), x > 0, np.argmax(x), np.sum(x) + 1.5, np.float32(1) * x[0])
    for got, expected in zip(tm.vmap(f)(single), f(single[0]), strict=True):
        assert got.dtype == np.asarray(expected).dtype
    assert tm.vmap(tm.grad(lambda x: tm.hvp(lambda x: np.sum(x**4), x, x) @ x))(single).dtype == np.float32


def test_none_and_one_example():
    f = lambda x: (tm.grad(lambda x: np.sum(np.tanh(x) ** 2))(x), np.max(x) * np.ones(2), np.zeros(3))
    assert [y.shape for y in tm.vmap(f)(X[:0])] == [(0, 3), (0, 2), (0, 3)]
    assert_same(tm.vmap(f)(X[:1]), loop(f)(X[:1]))
    assert tm.grad(lambda x: np.sum(tm.vmap(np.sum)(x)))(X[:0]).shape == (0, 3)


def test_a_method_or_partial_or_ufunc_can_be_mapped():
    assert_same(tm.vmap(np.exp)(X), np.exp(X))
    assert tm.vmap(nets.mlp, (None, 0)).__name__ == "mlp"


def test_functions_of_numpy_with_several_results():
    for f in (np.modf, np.frexp, lambda x: np.divmod(x, 2)):
        assert_same(tm.vmap(f)(X), loop(f)(X))


# ---- nesting ----


def swish(x, w):
    """x sigmoid(w x)."""
    return x * ops.sigmoid(w * x)


def swish_value(x, w):
    return x / (1 + np.exp(-w * x))


def swish_vjp(g, x, w):
    s = 1 / (1 + np.exp(-w * x))
    return g * (s + w * x * s * (1 - s)), g * x * x * s * (1 - s)


swish_op = kernel("swish", swish, {"numpy": swish_value}, vjp={"numpy": swish_vjp})
KERNELS.pop("swish")  # the table from which other tests are generated


def test_nested_vmaps_make_an_outer_table():
    f = lambda x, y: np.tanh(x @ y) * x[0]
    table = tm.vmap(tm.vmap(f, (None, 0)), (0, None))(X, 2 * X[:2])
    assert_same(table, np.array([[f(x, y) for y in 2 * X[:2]] for x in X]))
    both = tm.vmap(tm.vmap(lambda x: x * np.sum(x), 1, 1), 2, -1)
    y = RNG.normal(size=(2, 3, 4))
    assert_same(both(y), y * np.sum(y, axis=0))


def test_an_inner_vmap_of_nothing_but_closures():
    f = lambda x: tm.vmap(lambda i: x * np.sum(x[None] * i))(np.arange(2.0))
    assert_same(tm.vmap(f)(X), loop(f)(X))


def each(f, how):
    return tm.vmap(f) if how == "vmap" else loop(f)


WEIGHTS = np.array([0.5, 1.5])


def pulls(f, how):
    """A derivative taken once, outside, and pulled back in many directions."""

    def pulled(x):
        pull = tm.vjp(f, x)[1]
        return np.sum(each(lambda u: np.tanh(np.sum(pull(u)[0] * np.sin(x))), how)(WEIGHTS))

    return pulled


def pushes(f, how):
    def pushed(x):
        push = tm.linearize(f, x)[1]
        return np.sum(each(lambda u: np.tanh(push(u * np.sin(x))), how)(WEIGHTS))

    return pushed


STEPS = {
    "examples": lambda f, how: lambda x: np.sum(np.sin(each(f, how)(x))),
    "weighted": lambda f, how: lambda x: np.sum(each(lambda a: f(a * np.cos(x[0])), how)(x)) / 3,
    "grad": lambda f, how: lambda x: np.sum(np.cos(x) * tm.grad(f)(x)),
    "value_and_grad": lambda f, how: lambda x: (lambda v, g: v * np.sum(np.tanh(g)))(*tm.value_and_grad(f)(x)),
    "jvp": lambda f, how: lambda x: tm.jvp(f, (x,), (np.cos(x),))[1],
    "closure": lambda f, how: lambda x: tm.grad(lambda w: f(np.tanh(x) * w) * w)(np.mean(x)),
    "constant": lambda f, how: lambda x: tm.grad(lambda w: np.sum(f(np.tanh(x) + w)))(0.5),
    "checkpoint": lambda f, how: lambda x: tm.checkpoint(lambda y, z: f(y * np.cos(z)))(x, x) + f(x),
    "kernel": lambda f, how: lambda x: f(swish_op(x, np.sin(x))) + np.mean(swish_op(np.cos(x), x)),
    "pull": lambda f, how: pulls(f, how),
    "push": lambda f, how: pushes(f, how),
    "stop_gradient": lambda f, how: lambda x: f(x + np.sin(tm.stop_gradient(x))) + tm.stop_gradient(f(x)) * f(x),
}  # fmt: skip


def tower(steps, how):
    """A function of an array to a number, with one axis more for every vmap in it, and derivatives and vmaps in any order."""
    f = lambda x: np.sum(np.sin(x) * x)
    for step in steps:
        f = STEPS[step](f, how)
    return f


@settings(max_examples=60)
@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4),
    outermost=st.sampled_from(["grad", "jvp", "examples"]),
)
def test_derivatives_and_vmaps_nest_in_any_order(steps, outermost):
    steps = [*steps, outermost]
    axes = sum(s in ("examples", "weighted") for s in steps)
    x = np.random.default_rng(5).uniform(0.2, 1, size=(2,) * (axes + 1))
    assert_same(tower(steps, "vmap")(x), tower(steps, "loop")(x), rtol=1e-8)


def test_a_jacobian_and_a_hessian_of_each_example():
    f = lambda x: np.outer(np.sin(x), x)[:, :2]
    for g in (tm.jacobian(f), tm.hessian(lambda x: np.sum(f(x) ** 2)), tm.jacobian(lambda x: (x[0] * x, np.ones(2)))):
        assert_same(tm.vmap(g)(X), loop(g)(X))


def test_a_jacobian_by_a_vmap_of_the_pull_and_of_the_push():
    f = lambda x: np.tanh(x) * np.sum(x)
    expected = tm.jacobian(f)(X[0])
    pull = tm.vjp(f, X[0])[1]
    assert_same(tm.vmap(lambda u: pull(u)[0])(np.eye(3)), expected)
    assert_same(tm.vmap(tm.linearize(f, X[0])[1], 0, 1)(np.eye(3)), expected)
    whole = lambda x: np.sum(tm.vmap(lambda u: tm.vjp(f, x)[1](u)[0])(np.eye(3)) ** 2)
    assert_same(tm.grad(whole)(X[0]), tm.grad(lambda x: np.sum(tm.jacobian(f)(x) ** 2))(X[0]))
    hessian = tm.vmap(lambda v: tm.hvp(lambda x: np.sum(f(x) ** 2), X[0], v))(np.eye(3))
    assert_same(hessian, tm.hessian(lambda x: np.sum(f(x) ** 2))(X[0]))


def test_has_aux_and_argnums_inside():
    f = lambda w, x: (np.sum(np.sin(w * x)), {"mean": np.mean(w * x), "w": w, "none": 1.0})
    g = tm.value_and_grad(f, argnums=(0, 1), has_aux=True)
    assert_same(tm.vmap(lambda x: g(X[0], x))(X), loop(lambda x: g(X[0], x))(X))
    around = lambda how: tm.grad(
        lambda w: np.sum(each(lambda x: np.sum(g(w, x)[1][0] ** 2) + g(w, x)[0][1]["mean"] ** 2, how)(X))
    )
    assert_same(around("vmap")(X[0]), around("loop")(X[0]))


def test_a_maml_step_for_many_tasks_at_once():
    """Second order: the meta-gradient of a vmap over tasks, whose inner step is a gradient with respect to shared weights."""
    params = nets.init_mlp(np.random.default_rng(0), (2, 5, 1), dtype=np.float64)
    x, y = RNG.normal(size=(3, 6, 2)), RNG.normal(size=(3, 6, 1))
    loss = lambda p, x, y: np.mean((nets.mlp(p, x, np.tanh) - y) ** 2)

    def task(p, x, y):
        adapted = trees.map(lambda w, g: w - 0.1 * g, p, tm.grad(loss)(p, x[:3], y[:3]))
        return loss(adapted, x[3:], y[3:])

    expected = tm.grad(lambda p: sum(task(p, x[i], y[i]) for i in range(3)))(params)
    for one in (task, tm.checkpoint(task)):
        assert_same(tm.grad(lambda p: np.sum(tm.vmap(one, (None, 0, 0))(p, x, y)))(params), expected)  # noqa: B023
    first = lambda each: tm.grad(
        lambda p: np.sum(each(lambda x, y: task(tm.stop_gradient(p), x, y) * loss(p, x, y))(x, y))
    )
    assert_same(first(tm.vmap)(params), first(loop)(params))


# ---- checkpoint ----


def deep(x):
    for _ in range(50):
        x = np.sin(x)
    return np.sum(x)


def test_a_checkpoint_inside_a_vmap_keeps_only_its_inputs():
    lean = tm.checkpoint(deep)
    total = lambda f: lambda x: np.sum(tm.vmap(f)(x))
    assert tm.show(total(lean), X).bytes < tm.show(total(deep), X).bytes / 10
    assert_same(tm.grad(total(lean))(X), tm.grad(total(deep))(X))
    assert_same(tm.hvp(total(lean), X, np.cos(X)), tm.hvp(total(deep), X, np.cos(X)))
    twice = lambda f: lambda x: np.sum(tm.vmap(tm.vmap(f))(x[None]))
    assert tm.show(twice(lean), X).bytes < tm.show(twice(deep), X).bytes / 10


def test_a_checkpoint_inside_a_vmap_lets_go_of_what_it_computed():
    alive = []

    def total(f):
        def g(x):
            y = np.sum(tm.vmap(f)(x))
            gc.collect()
            alive.append(sum(type(x) is Tensor for x in gc.get_objects()))
            return y

        return g

    for f in (deep, tm.checkpoint(deep)):
        tm.grad(total(f))(X)
    assert alive[1] < alive[0] - 40


def test_a_checkpoint_that_closes_over_everything():
    def f(w, x):
        inner = tm.checkpoint(lambda scale: {"y": np.sin(x * w * scale), "const": 2, "x": x})
        return np.sum(inner(np.sum(w))["y"]) + np.sum(tm.checkpoint(lambda: np.tanh(w * x))())

    total = lambda each: lambda w: np.sum(each(lambda x: f(w, x) + np.sum(tm.grad(f)(w, x)))(X))
    for transform in (tm.grad, lambda g: lambda w: tm.hvp(g, w, np.cos(w))):
        assert_same(transform(total(tm.vmap))(X[0]), transform(total(loop))(X[0]))


# ---- kernel ops ----


def test_kernel_ops_run_as_their_reference():
    op = swish_op
    w = np.linspace(0.5, 2, 3)
    f = lambda x, w: np.sum(op(x, w) ** 2)
    for g in (f, tm.grad(f), lambda x, w: tm.hvp(lambda x: f(x, w), x, w), lambda x, w: tm.vjp(op, x, w)[1](x)):
        assert_same(tm.vmap(g, (0, None))(X, w), np_loop(g, w))
    around = lambda each: tm.grad(lambda w: np.sum(np.sin(each(w))))(w)
    assert_same(around(lambda w: tm.vmap(f, (0, None))(X, w)), around(lambda w: np_loop(f, w)))
    pull = tm.vjp(op, X[0], w)[1]
    assert_same(tm.vmap(pull)(X), loop(pull)(X))
    pushed = tm.linearize(op, X[0], w)[1]
    assert_same(tm.vmap(pushed)(X, X), loop(pushed)(X, X))


def np_loop(g, w):
    results = [g(x, w) for x in X]
    return trees.map(lambda *ys: np.stack(ys), *results)


# ---- afterwards ----


def test_after_an_exception_everything_is_as_before():
    def fails(x):
        raise RuntimeError("of the user's own")

    for call in (tm.vmap(fails), tm.vmap(tm.vmap(fails)), tm.grad(tm.vmap(tm.grad(fails)))):
        refused(partial(call, X), "of the user's own", error=RuntimeError)
    assert THREAD.depth == 0
    assert type(tm.vmap(lambda x: x)(X)) is np.ndarray


def test_no_tensor_and_no_mapped_value_comes_out():
    seen = []
    f = lambda x: seen.append(type(x)) or np.sum(x * x)
    out = [tm.vmap(tm.value_and_grad(f))(X), tm.grad(lambda x: np.sum(tm.vmap(f)(x)))(X)]
    assert all(type(y) is np.ndarray for y in trees.leaves(out))
    assert seen[0] is Tensor


def test_threads_have_their_own_vmaps():
    results = {}

    def work(k):
        for _ in range(20):
            results[k] = tm.vmap(tm.grad(lambda x: np.sum(x**3)))(k * X)

    threads = [threading.Thread(target=work, args=(k,)) for k in (1, 2, 3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in (1, 2, 3):
        assert_same(results[k], 3 * (k * X) ** 2)
    assert OPEN == []


def test_captured_arrays_are_read_only_and_free_afterwards():
    x, c = X.copy(), np.ones(3)

    def f(z):
        y = np.sum(z * c)
        c[0] = 5
        return y

    with pytest.raises(ValueError, match="read-only"):
        tm.vmap(tm.grad(f))(x)
    c[0] = x[0, 0] = 5


def test_arrays_of_another_library_stay_their_own():
    ducks = lambda tree: trees.map(lambda x: Duck(x.copy()), tree)
    f = lambda w, x, i: (
        np.sum(np.tanh(w @ x) ** 2) * x[i]
        + np.mean(ops.softmax_cross_entropy(w * x, np.ones_like(x[:2], dtype=int) * i))
    )
    w, i = RNG.normal(size=(2, 3)), np.array([0, 1, 1, 0])
    for g in (
        tm.grad(f),
        tm.jacobian(lambda w, x, i: w @ x * x[i]),
        lambda w, x, i: tm.hvp(lambda w: f(w, x, i), w, w),
    ):
        mapped = tm.vmap(g, (None, 0, 0))
        got = mapped(*ducks((w, X, i)))
        assert type(got) is Duck
        np.testing.assert_allclose(got.inner, mapped(w, X, i), rtol=1e-12)
    around = tm.grad(lambda w, x: np.sum(tm.vmap(lambda x: np.sum(w @ x) ** 2)(x)))
    np.testing.assert_allclose(around(*ducks((w, X))).inner, around(w, X), rtol=1e-12)


def test_second_derivatives_through_a_checkpoint_that_only_closes_over_its_variable():
    f = lambda wrap: lambda w: np.sum(wrap(lambda x: np.sin(w * x))(X[1]))
    for transform in (
        tm.hessian,
        lambda f: lambda w: tm.hvp(f, w, w),
        lambda f: lambda w: tm.hvp(f, w, w, "reverse-over-reverse"),
    ):
        assert_same(transform(f(tm.checkpoint))(X[0]), transform(f(lambda f: f))(X[0]))


def test_a_list_as_a_mask_beside_an_ellipsis():
    x, mask = np.arange(12.0).reshape(3, 2, 2), [[True, False], [False, True]]
    np.testing.assert_array_equal(tm.vmap(lambda a: a[..., mask])(x), np.stack([a[..., mask] for a in x]))
