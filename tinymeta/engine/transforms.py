"""The derivatives a user calls: grad, value_and_grad, vjp, jvp, linearize, hvp, jacobian, hessian, stop_gradient.

Each runs its function once on fresh leaves and sweeps the graph. They nest to any order and mix, because a sweep whose result an
enclosing derivative depends on is itself recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import trees
from .batched import raw
from .scope import Traced, as_tangent, constant
from .structural import as_tuple
from .tensor import Tensor, as_array, describe, is_float, value

HVP_MODES = ("forward-over-reverse", "reverse-over-reverse")


def value_and_grad(f: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """(value, gradient) of a scalar function of trees of arrays.

    The gradient has the tree, shapes and dtypes of argument `argnums` (a tuple of gradients for a tuple of argnums). With
    `has_aux`, f returns (value, aux) and so does the first result. TypeError for integer inputs, ValueError for a non-scalar f.
    """
    single, indices = isinstance(argnums, (int, np.integer)), _indices(argnums)

    @functools.wraps(f)
    def value_and_grad_of(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        at = _places("grad", indices, args, f)
        traced = Traced(f, args, at, kwargs, "grad")
        y = _value_of(traced.output, has_aux)
        graph = traced.graph()
        gradients = traced.pull(graph, [_one(y), *[None] * (len(graph.outputs) - 1)])
        result = _regroup(traced.trees, gradients)
        return traced.escape(graph), result[0] if single else tuple(result)

    return value_and_grad_of


def grad(f: Callable, argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable:
    """The gradient of a scalar function; with `has_aux`, (gradient, aux). See value_and_grad."""
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def grad_of(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return grad_of


def vjp(f: Callable, *xs: Any) -> tuple[Any, Callable]:
    """(f(*xs), pull), where pull(cotangent of the output) is the tuple of cotangents of xs. Any number of pulls."""
    return _vjp(f, xs, "vjp", seal=True)


def _vjp(f: Callable, xs: tuple, name: str, seal: bool = False) -> tuple[Any, Callable]:
    traced = Traced(f, xs, range(len(xs)), {}, name, seal)
    graph = traced.graph()
    names = [f"vjp: cotangent{path}" for path, _ in trees.items(traced.output)]

    def pull(cotangent: Any) -> tuple:
        given = _match(traced.output, cotangent)
        cotangents = [
            as_tangent(g, y, name) if g is not None and type(y) is Tensor else None
            for g, y, name in zip(given, graph.outputs, names, strict=True)
        ]
        return tuple(_regroup(traced.trees, traced.pull(graph, cotangents)))

    return traced.escape(graph, kept=True), pull


def linearize(f: Callable, *xs: Any) -> tuple[Any, Callable]:
    """(f(*xs), push), where push(*tangents) is the tangent of the output; f runs once for any number of tangents."""
    return _linearize(f, xs, "linearize")


def _linearize(f: Callable, xs: tuple, name: str, once: bool = False) -> tuple[Any, Callable]:
    """`once`: what is captured is read at once, and the graph is left with the one push."""
    traced = Traced(f, xs, range(len(xs)), {}, name, seal=not once)
    graph = traced.graph()

    def push(*tangents: Any) -> Any:
        if len(tangents) != len(xs):
            raise ValueError(f"jvp: {len(tangents)} tangent(s) of {len(xs)} argument(s), expected one of each")
        given = [v for tree, t in zip(traced.trees, tangents, strict=True) for v in _match(tree, t)]
        vs = [
            as_tangent(v, w, f"{name}: tangent {i}") for i, (v, w) in enumerate(zip(given, traced.leaves, strict=True))
        ]
        return trees.unflatten(traced.output, traced.push(graph, vs))

    return traced.escape(graph, kept=not once), push


def jvp(f: Callable, xs: Sequence, dxs: Sequence) -> tuple[Any, Any]:
    """(f(*xs), its directional derivative along dxs): the arguments and their tangents, each as a tuple or list."""
    return _jvp(f, xs, dxs, "jvp")


def _jvp(f: Callable, xs: Sequence, dxs: Sequence, name: str) -> tuple[Any, Any]:
    for key, given in (("xs", xs), ("dxs", dxs)):
        if not isinstance(given, (tuple, list)):
            raise TypeError(f"jvp: {key} is {describe(given)}, expected a tuple: write (x,) if there is one argument")
    y, push = _linearize(f, tuple(xs), name, once=True)
    return y, push(*dxs)


def hvp(f: Callable, x: Any, v: Any, mode: str = "forward-over-reverse") -> Any:
    """Hessian of a scalar function at x times v, both trees of one structure. `mode` is "forward-over-reverse" or
    "reverse-over-reverse": the same numbers by two roads."""
    if not isinstance(mode, str) or mode not in HVP_MODES:
        raise ValueError(
            f"hvp: mode {repr(mode) if isinstance(mode, str) else describe(mode)}, expected {' or '.join(map(repr, HVP_MODES))}; "
            "hold further arguments of f fixed by a lambda around it"
        )
    if mode == "forward-over-reverse":
        return _jvp(grad(f), (x,), (v,), "hvp")[1]
    return grad(lambda z: _inner(grad(f)(z), v))(x)


def jacobian(f: Callable, argnums: int = 0) -> Callable:
    """∂f_i/∂x_j of shape f's output + x's, one pullback per output element; a tree of trees when f or x is a tree."""
    return _jacobian(f, argnums, "jacobian")


def hessian(f: Callable, argnums: int = 0) -> Callable:
    """The matrix of second derivatives of a scalar function, of shape x.shape + x.shape (a tree of trees for a tree)."""
    return _jacobian(grad(f, argnums), argnums, "hessian")


def _jacobian(f: Callable, argnums: int, caller: str) -> Callable:
    if not isinstance(argnums, (int, np.integer)):
        raise TypeError(f"{caller}: argnums is {argnums!r}, expected one int")

    @functools.wraps(f)
    def jacobian_of(*args: Any, **kwargs: Any) -> Any:
        (at,) = _places(caller, (argnums,), args, f)
        y, pull = _vjp(lambda x: f(*args[:at], x, *args[at + 1 :], **kwargs), (args[at],), caller)
        outputs = list(map(as_array, trees.leaves(y)))
        blocks = [_rows(pull, y, outputs, k, args[at]) for k in range(len(outputs))]
        return trees.unflatten(y, blocks)

    return jacobian_of


def stop_gradient(x: Any) -> Any:
    """x as a constant: the same values (a tree of arrays, those of Tensors read-only), through which no gradient flows."""
    return trees.map(constant, x)


def _rows(pull: Callable, y: Any, outputs: list, k: int, x: Any) -> Any:
    shape = outputs[k].shape
    rows = []
    for i in range(outputs[k].size):
        seed = np.zeros_like(raw(outputs[k]), shape=(outputs[k].size,))
        seed[i] = 1
        rows.append(pull(trees.unflatten(y, [seed.reshape(shape) if j == k else None for j in range(len(outputs))]))[0])
    columns = zip(*(trees.leaves(row) for row in rows), strict=True) if rows else [[] for _ in trees.leaves(x)]
    entries = [
        np.reshape(np.stack(column), shape + np.shape(w))
        if rows
        else np.zeros_like(value(w), shape=shape + np.shape(w))
        for column, w in zip(columns, trees.leaves(x), strict=True)
    ]
    return trees.unflatten(x, entries)


def _indices(argnums: Any) -> tuple[int, ...]:
    try:
        return as_tuple(argnums)
    except TypeError:
        raise TypeError(f"grad: argnums is {argnums!r}, expected an int or a tuple of ints") from None


def _places(caller: str, argnums: Sequence[int], args: tuple, f: Callable) -> list[int]:
    """The arguments that are meant, counted from the first; ValueError unless they are there, and each once."""
    n, name = len(args), getattr(f, "__name__", f)
    for i in argnums:
        if not -n <= i < n:
            raise ValueError(f"{caller}: argnums {i}, but {name!r} was called with {n} positional argument(s)")
    places = [i % n for i in argnums]
    if len(set(places)) < len(places):
        raise ValueError(f"{caller}: argnums {tuple(argnums)} name one of the {n} argument(s) of {name!r} twice")
    return places


def _value_of(output: Any, has_aux: bool) -> Any:
    if has_aux and not (isinstance(output, tuple) and len(output) == 2):
        raise TypeError("grad: with has_aux the function must return a pair (value, aux)")
    y = output[0] if has_aux else output
    if isinstance(y, float):
        return y
    if getattr(y, "shape", None) == () or isinstance(y, int):
        if not is_float(y):
            raise TypeError(
                f"grad: the function returned {describe(y)}, expected a float: a count, a comparison or an argmax has no gradient"
            )
        return y
    if getattr(y, "shape", None) != ():
        hint = "sum it, or use tm.jacobian" if hasattr(y, "shape") else "return (value, aux) with has_aux=True"
        raise ValueError(f"grad: the function returned {describe(y)}, expected a scalar: {hint}")
    return y


def _one(y: Any) -> Any:
    return np.ones_like(y.data) if type(y) is Tensor else None


def _regroup(like: list, flat: list) -> list:
    supply = iter(flat)
    return [trees.unflatten(tree, [next(supply) for _ in trees.leaves(tree)]) for tree in like]


def _match(like: Any, tree: Any) -> list:
    found: list = []
    trees.map(lambda _, x: found.append(x), like, tree)
    return found


def _inner(a: Any, b: Any) -> Any:
    total: Any = 0.0
    for u, v in zip(trees.leaves(a), _match(a, b), strict=True):
        total = total + (u * as_tangent(v, u, "hvp: v")).sum()
    return total
