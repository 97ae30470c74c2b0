"""The transforms a user calls: arguments, auxiliary results, trees of Jacobians, checkpoints, and what they refuse."""

import copy
import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies

X, Y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
product = lambda x, y, scale=1.0: scale * np.sum(x * x * y)


def test_argnums_choose_the_arguments():
    np.testing.assert_array_equal(tm.grad(product)(X, Y), 2 * X * Y)
    np.testing.assert_array_equal(tm.grad(product, argnums=1)(X, Y), X * X)
    np.testing.assert_array_equal(tm.grad(product, argnums=-1)(X, Y), X * X)
    both = tm.grad(product, argnums=(1, 0))(X, Y)
    assert isinstance(both, tuple)
    np.testing.assert_array_equal(both, [X * X, 2 * X * Y])
    single = tm.grad(product, argnums=(0,))(X, Y)
    assert isinstance(single, tuple)
    assert len(single) == 1


def test_argnums_may_be_integers_of_numpy():
    np.testing.assert_array_equal(tm.grad(product, np.int64(1))(X, Y), X * X)
    np.testing.assert_array_equal(tm.grad(product, (np.int64(1),))(X, Y), [X * X])
    np.testing.assert_array_equal(tm.jacobian(np.multiply, np.int64(1))(X, Y), np.diag(X))


def test_the_jacobian_of_a_python_number_is_zero():
    jacobian = tm.jacobian(lambda x: {"y": 2 * x, "count": 3, "scale": 0.5})(X)
    np.testing.assert_array_equal(jacobian["y"], 2 * np.eye(2))
    np.testing.assert_array_equal(jacobian["count"], [0, 0])
    np.testing.assert_array_equal(jacobian["scale"], [0, 0])


def test_a_checkpoint_takes_keyword_arguments():
    uses = (lambda f, x: f(x, y=Y, scale=3.0), lambda f, x: f(x=Y, y=x), lambda f, x: f(Y, y=Y, scale=np.sum(x)))
    for use in uses:
        remade, plain = (lambda x, f=f, use=use: use(f, x) ** 2 for f in (tm.checkpoint(product), product))
        np.testing.assert_allclose(tm.grad(remade)(X), tm.grad(plain)(X), rtol=1e-14)
        np.testing.assert_allclose(tm.hessian(remade)(X), tm.hessian(plain)(X), rtol=1e-13)
        rows = tm.vmap(tm.grad(remade))(np.stack([X, Y]))
        np.testing.assert_allclose(rows[1], tm.grad(plain)(Y), rtol=1e-14)


def test_keyword_arguments_are_passed_on():
    np.testing.assert_array_equal(tm.grad(product)(X, Y, scale=3.0), 6 * X * Y)
    assert tm.value_and_grad(product)(X, Y, scale=3.0)[0] == 3 * np.sum(X * X * Y)


def test_auxiliary_results_come_back_as_plain_arrays():
    def f(x):
        return np.sum(x**2), {"double": 2 * x, "name": "aux", "count": 3}

    (value, aux), gradient = tm.value_and_grad(f, has_aux=True)(X)
    assert value == 5
    np.testing.assert_array_equal(gradient, 2 * X)
    assert type(aux["double"]) is np.ndarray
    np.testing.assert_array_equal(aux["double"], 2 * X)
    assert (aux["name"], aux["count"]) == ("aux", 3)
    gradient, again = tm.grad(f, has_aux=True)(X)
    np.testing.assert_array_equal(again["double"], 2 * X)


def test_an_auxiliary_result_stays_connected_to_an_enclosing_derivative():
    def outer(x):
        gradient, aux = tm.grad(lambda y: (np.sum(y * x), x * x), has_aux=True)(X)
        return np.sum(gradient) + np.sum(aux)

    np.testing.assert_array_equal(tm.grad(outer)(Y), 1 + 2 * Y)


def test_the_name_and_doc_of_the_function_are_kept():
    def loss(x):
        """A loss."""
        return np.sum(x)

    assert tm.grad(loss).__name__ == "loss"
    assert tm.grad(loss).__doc__ == "A loss."


def test_python_floats_and_numpy_scalars_are_variables():
    assert tm.grad(lambda x: x**2)(3.0) == 6
    assert tm.grad(lambda x: x**2)(np.float32(3)).dtype == np.float32
    assert tm.grad(lambda p: p["a"] * p["b"])({"a": 2.0, "b": 5.0}) == {"a": 5, "b": 2}


def test_a_function_that_ignores_its_argument_has_a_zero_gradient():
    np.testing.assert_array_equal(tm.grad(lambda x: 3.0)(X), [0, 0])
    np.testing.assert_array_equal(tm.grad(lambda x: np.sum(tm.stop_gradient(x)))(X), [0, 0])
    np.testing.assert_array_equal(tm.jvp(lambda x: Y, (X,), (X,))[1], [0, 0])
    np.testing.assert_array_equal(tm.hvp(lambda x: np.sum(x), X, X), [0, 0])
    np.testing.assert_array_equal(tm.hessian(lambda x: np.sum(x))(X), np.zeros((2, 2)))


def test_one_vjp_serves_many_cotangents_and_one_linearize_many_tangents():
    runs = []

    def f(x):
        runs.append(x)
        return np.sin(x) * Y

    slope = np.cos(X) * Y
    y, pull = tm.vjp(f, X)
    z, push = tm.linearize(f, X)
    for v in np.eye(2):
        np.testing.assert_allclose(pull(v)[0], v * slope, rtol=1e-15)
        np.testing.assert_allclose(push(v), v * slope, rtol=1e-15)
    np.testing.assert_array_equal(y, z)
    assert len(runs) == 2


def test_vjp_of_several_trees_and_missing_cotangents():
    f = lambda p, x: {"a": p["w"] * x, "b": [np.sum(x), 7.0]}
    y, pull = tm.vjp(f, {"w": X}, Y)
    assert y["b"][1] == 7.0
    p_bar, x_bar = pull({"a": np.ones(2), "b": [None, None]})
    np.testing.assert_array_equal(p_bar["w"], Y)
    np.testing.assert_array_equal(x_bar, X)
    _, x_bar = pull({"a": None, "b": [2.0, None]})
    np.testing.assert_array_equal(x_bar, [2, 2])


def test_jacobian_of_a_tree_is_a_tree_of_trees():
    f = lambda p: {"y": p["w"] @ X, "s": np.sum(p["b"])}
    params = {"w": np.ones((3, 2)), "b": np.ones(4)}
    jacobian = tm.jacobian(f)(params)
    assert jacobian["y"]["w"].shape == (3, 3, 2)
    np.testing.assert_array_equal(jacobian["y"]["w"], np.eye(3)[:, :, None] * X)
    np.testing.assert_array_equal(jacobian["y"]["b"], np.zeros((3, 4)))
    np.testing.assert_array_equal(jacobian["s"]["b"], np.ones(4))
    np.testing.assert_array_equal(tm.jacobian(lambda x, y: x * y, argnums=1)(X, Y), np.diag(X))


def test_hessian_of_a_tree_has_every_pair_of_blocks():
    f = lambda p: p["a"] * np.sum(p["x"] ** 2)
    hessian = tm.hessian(f)({"a": np.array(2.0), "x": X})
    np.testing.assert_array_equal(hessian["a"]["a"], 0)
    np.testing.assert_array_equal(hessian["a"]["x"], 2 * X)
    np.testing.assert_array_equal(hessian["x"]["a"], 2 * X)
    np.testing.assert_array_equal(hessian["x"]["x"], 4 * np.eye(2))


@settings(max_examples=15)
@given(program=strategies.compositions(max_steps=4), x=strategies.float_arrays((3, 3)))
def test_a_checkpoint_changes_memory_and_not_one_number(program, x):
    remade = lambda x: tm.checkpoint(program)(x * 1.5) + tm.checkpoint(lambda y: np.sum(y * x))(x)
    plain = lambda x: program(x * 1.5) + np.sum(x * x)
    np.testing.assert_allclose(tm.grad(remade)(x), tm.grad(plain)(x), rtol=1e-13, atol=1e-13)
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        products = [tm.hvp(f, x, np.cos(x), mode) for f in (remade, plain)]
        np.testing.assert_allclose(*products, rtol=1e-12, atol=1e-12)


def test_a_checkpoint_keeps_trees_and_runs_again_in_the_sweep():
    runs = []

    @tm.checkpoint
    def layer(params, x):
        runs.append(1)
        return {"h": np.tanh(x @ params["w"]), "aux": (params["b"] * 2,)}

    params, x = {"w": np.eye(2), "b": np.array(3.0)}, np.ones((4, 2))
    loss = lambda p: np.sum(layer(p, x)["h"]) * layer(p, x)["aux"][0]
    gradient = tm.grad(loss)(params)
    assert len(runs) > 2
    np.testing.assert_allclose(gradient["b"], 2 * 8 * np.tanh(1), rtol=1e-14)


def test_both_modes_of_hvp_and_no_other():
    f = lambda x: np.sum(x**3)
    for mode in ("forward-over-reverse", "reverse-over-reverse"):
        np.testing.assert_allclose(tm.hvp(f, X, Y, mode), 6 * X * Y, rtol=1e-14)
    with pytest.raises(ValueError, match="mode 'both', expected"):
        tm.hvp(f, X, Y, mode="both")


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (
            ValueError,
            r"returned float64\[2\], expected a scalar: sum it, or use tm.jacobian",
            lambda: tm.grad(np.sin)(X),
        ),
        (ValueError, r"returned tuple, expected a scalar.*has_aux", lambda: tm.grad(lambda x: (np.sum(x), 1))(X)),
        (TypeError, r"vjp: argument 0 is a MaskedArray, .*plain array", lambda: tm.vjp(np.sin, np.ma.array(X))),
        (
            TypeError,
            r"jvp: argument 1 is int, .*or hold it fixed by a lambda",
            lambda: tm.jvp(np.multiply, (X, 2), (X, 0)),
        ),
        (
            TypeError,
            r"grad: argument 0 is int64\[2\], .*or leave it out of argnums",
            lambda: tm.grad(np.sum)(np.arange(2)),
        ),
        (TypeError, r"hvp: argument 0 is int64\[2\], .*by a lambda", lambda: tm.hvp(np.sum, np.arange(2), X)),
        (TypeError, r"jacobian: argument 0 is int64\[2\]", lambda: tm.jacobian(np.sin)(np.arange(2))),
        (ValueError, r"hvp: mode float64\[2\], expected .*by a lambda", lambda: tm.hvp(np.vdot, X, X, X)),
        (ValueError, r"hvp: tangent 0 is float64\[3\]", lambda: tm.hvp(lambda x: np.sum(x * x), X, np.ones(3))),
        (TypeError, r"returned int64\[\], expected a float: a count", lambda: tm.grad(lambda x: np.sum(x > 0))(X)),
        (TypeError, r"returned bool\[\], expected a float", lambda: tm.grad(lambda x: x[0] > 0)(X)),
        (TypeError, r"returned int, expected a float", lambda: tm.value_and_grad(lambda x: 1)(X)),
        (ValueError, r"returned NoneType", lambda: tm.grad(lambda x: None)(X)),
        (TypeError, r"must return a pair", lambda: tm.grad(lambda x: np.sum(x), has_aux=True)(X)),
        (ValueError, r"argnums 2, but .* called with 1 positional", lambda: tm.grad(lambda x: np.sum(x), argnums=2)(X)),
        (ValueError, r"jacobian: argnums 1, but", lambda: tm.jacobian(np.sin, 1)(X)),
        (ValueError, r"hessian: argnums -2, but", lambda: tm.hessian(np.sum, -2)(X)),
        (TypeError, r"jacobian: argnums is \(0,\), expected one int", lambda: tm.jacobian(np.sin, (0,))),
        (TypeError, r"grad: argnums is 0.0, expected an int or a tuple", lambda: tm.grad(np.sum, 0.0)),
        (ValueError, r"grad: argnums \(0, -1\) name one of the 1 .* twice", lambda: tm.grad(np.sum, (0, -1))(X)),
        (TypeError, r"jvp: xs is float64\[2\], expected a tuple: write \(x,\)", lambda: tm.jvp(np.sin, X, X)),
        (TypeError, r"jvp: dxs is float64\[2\], expected a tuple", lambda: tm.jvp(np.sin, (X,), X)),
        (ValueError, r"jvp: 1 tangent\(s\) of 2 argument", lambda: tm.jvp(np.multiply, (X, X), (X,))),
        (ValueError, r"jvp: 2 tangent\(s\) of 1 argument", lambda: tm.linearize(np.sin, X)[1](X, X)),
        (ValueError, r"cotangent is float64\[3\].*float64\[2\]", lambda: tm.vjp(np.sin, X)[1](np.ones(3))),
        (ValueError, r"tangent.* is float64\[3\].*float64\[2\]", lambda: tm.jvp(np.sin, (X,), (np.ones(3),))),
        (TypeError, r"cotangent is complex128\[2\]", lambda: tm.vjp(np.sin, X)[1](np.ones(2) * 1j)),
    ],
)
def test_misuse_is_refused_in_a_sentence(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_a_boolean_of_a_tensor_may_choose_the_branch():
    f = lambda x: np.sum(x**2) if np.sum(x) > 0 else -np.sum(x**3)
    np.testing.assert_array_equal(tm.grad(f)(X), 2 * X)
    np.testing.assert_array_equal(tm.grad(f)(-X), -3 * X**2)


def test_methods_and_iteration_of_tensors():
    def f(x):
        first, second = x
        return (
            (x.T @ x).sum()
            + first.mean() * second.max()
            + len(x) * x.reshape(-1).std()
            + abs(-x).ravel()[0]
            + (+x)[0, 0]
        )

    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    step = 1e-6
    for index in np.ndindex(x.shape):
        e = np.zeros_like(x)
        e[index] = step
        np.testing.assert_allclose(tm.grad(f)(x)[index], (f(x + e) - f(x - e)) / (2 * step), rtol=1e-7)
    assert ops.sum(x) == 11


@pytest.mark.parametrize(
    ("f", "gradient"),
    [
        (lambda x: np.sum(x + np.zeros_like(a=x)), [1, 1]),
        (lambda x: x[np.argmax(a=x)], [0, 1]),
        (lambda x: np.sum(x * np.empty_like(prototype=x).size), [2, 2]),
        (lambda x: np.sum(x) if np.array_equal(a1=X, a2=x) else None, [1, 1]),
        (lambda x: np.sum(a=x, axis=0), [1, 1]),
        (lambda x: np.dot(a=x, b=X), X),
    ],
)
def test_numpys_functions_take_their_array_by_its_name(f, gradient):
    np.testing.assert_array_equal(tm.grad(f)(X), gradient)


def test_numpys_functions_take_a_mapped_array_by_its_name():
    rows = np.array([[1.0, 2.0], [4.0, 3.0]])
    for f in (
        lambda x: np.argmax(a=x),
        lambda x: np.ones_like(a=x),
        lambda x: np.sum(a=x),
        lambda x: np.any(a=x, axis=0),
    ):
        np.testing.assert_array_equal(tm.vmap(f)(rows), [f(row) for row in rows])


@dataclasses.dataclass
class Weights:
    w: Any


COPIES = {
    "copy": lambda p: copy.copy(p.w),
    "deepcopy": lambda p: copy.deepcopy(p).w,
    "asdict": lambda p: dataclasses.asdict(p)["w"],
    "astuple": lambda p: dataclasses.astuple(p)[0],
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_tensor_keeps_its_gradient(copied):
    f = lambda p: np.sum(copied(p) ** 3)
    p = Weights(X)
    for g in (tm.grad(f), tm.compile(tm.grad(f))):
        np.testing.assert_allclose(g(p).w, 3 * X**2)
    np.testing.assert_allclose(tm.hvp(f, p, p).w, 6 * X**2)
    np.testing.assert_allclose(tm.compile(lambda p: copied(p) * 2)(p), 2 * X)
    np.testing.assert_allclose(tm.vmap(lambda p: copied(p) * 2)(p), 2 * X)


def test_a_tensor_is_not_pickled():
    with pytest.raises(TypeError, match=r"pickle of a Tensor float64\[2\] would lose its gradient"):
        tm.grad(lambda x: np.sum(pickle.loads(pickle.dumps(x))))(X)


def test_the_hessian_of_a_python_number():
    assert tm.hessian(lambda x: x**3)(2.0) == 12
    assert tm.jacobian(lambda p: p["a"] * p["b"])({"a": 2.0, "b": 3.0}) == {"a": 3, "b": 2}


def test_writing_to_a_captured_array_says_why_not():
    def f(x):
        scale = np.ones(2)
        y = x * scale
        scale[0] = 5
        return np.sum(y)

    with pytest.raises(ValueError, match="read-only") as caught:
        tm.grad(f)(X)
    assert "write to a copy" in caught.value.__notes__[0]
