"""Optimizers in optax's protocol, written in differentiable ops, so that one can differentiate through an update.

`.init(params) -> state`, `.update(grads, state, params=None) -> (updates, state)`; `apply_updates(params, updates)` adds them.
Defaults are those of the Torch7 `optim` package, which the baselines of 1606.04474 used, but for the decay of `momentum`, 0
there. A learning rate is a float or a function of the step number (0, 1, ...). The step is an int, or an int array: with
`state._replace(step=np.asarray(0))` one program of tm.compile serves all steps. ValueError, from update, for a rate that is
negative or not finite (arrays are not looked at), and for gradients of other shapes than the moments; from apply_updates, for
updates of other shapes than the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import ops
from .engine import trees
from .engine.tensor import describe, is_float

Rate = float | Callable[[Any], Any]
GRADIENTS = "optim: gradients"
FRACTION = (lambda x: 0 <= x < 1), "0 or more and less than 1"
NOT_NEGATIVE = (lambda x: 0 <= x < np.inf), "a finite number, 0 or more"


class Optimizer(NamedTuple):
    """A pair of pure functions: init(params) -> state and update(grads, state, params=None) -> (updates, state)."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


class State(NamedTuple):
    """Steps taken, and the moments that the rule keeps: each a tree like the parameters, or None."""

    step: Any
    m: Any = None
    v: Any = None


def sgd(lr: Rate) -> Optimizer:
    """Δθ = -lr g."""
    return Optimizer(
        lambda params: State(0), lambda g, s, params=None: (_scaled(-rate_at(lr, s), g), State(s.step + 1))
    )


def momentum(lr: Rate, decay: float = 0.9) -> Optimizer:
    """m ← decay m + g, Δθ = -lr m (Polyak's heavy ball)."""
    decay = _constant("momentum: decay", decay, *FRACTION)

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        m = _combined(GRADIENTS, lambda m, g: decay * m + g, state.m, grads)
        return _scaled(-rate_at(lr, state), m), State(state.step + 1, m)

    return Optimizer(lambda params: State(0, _zeros(params)), update)


def nag(lr: Rate, decay: float = 0.9) -> Optimizer:
    """Nesterov's accelerated gradient in the form m ← decay m + g, Δθ = -lr (g + decay m)."""
    decay = _constant("nag: decay", decay, *FRACTION)

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        rate, m = rate_at(lr, state), _combined(GRADIENTS, lambda m, g: decay * m + g, state.m, grads)
        updates = trees.map(lambda m, g: -in_dtype(rate, g) * (g + decay * m), m, grads)
        return updates, State(state.step + 1, m)

    return Optimizer(lambda params: State(0, _zeros(params)), update)


def rmsprop(lr: Rate, decay: float = 0.99, eps: float = 1e-8) -> Optimizer:
    """v ← decay v + (1 - decay) g², Δθ = -lr g / (√v + eps)."""
    decay, eps = _constant("rmsprop: decay", decay, *FRACTION), _constant("rmsprop: eps", eps, *NOT_NEGATIVE)

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        rate, v = (
            rate_at(lr, state),
            _combined(GRADIENTS, lambda v, g: decay * v + (1 - decay) * (g * g), state.v, grads),
        )
        updates = trees.map(lambda v, g: -in_dtype(rate, g) * g / (ops.sqrt(v) + eps), v, grads)
        return updates, State(state.step + 1, v=v)

    return Optimizer(lambda params: State(0, v=squares("rmsprop", eps, params)), update)


def adam(lr: Rate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Optimizer:
    """Adam (1412.6980, algorithm 1): Δθ = -lr m̂ / (√v̂ + eps) with bias-corrected moments."""
    b1, b2, eps = adam_constants("adam", b1, b2, eps)

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        t = state.step + 1
        m = _combined(GRADIENTS, lambda m, g: b1 * m + (1 - b1) * g, state.m, grads)
        v = trees.map(lambda v, g: b2 * v + (1 - b2) * (g * g), state.v, grads)
        rate, correction = rate_at(lr, state) / (1 - b1**t), (1 - b2**t) ** -0.5

        def change(m: Any, v: Any) -> Any:
            return -in_dtype(rate, m) * m / (ops.sqrt(v) * in_dtype(correction, v) + eps)

        return trees.map(change, m, v), State(t, m, v)

    return Optimizer(lambda params: State(0, _zeros(params), squares("adam", eps, params)), update)


def adam_constants(name: str, b1: Any, b2: Any, eps: Any) -> tuple[Any, Any, Any]:
    """The three, if they make an Adam; ValueError says which does not, for the optimizer of this name."""
    return (
        _constant(f"{name}: b1", b1, *FRACTION),
        _constant(f"{name}: b2", b2, *FRACTION),
        _constant(f"{name}: eps", eps, *NOT_NEGATIVE),
    )


def apply_updates(params: Any, updates: Any) -> Any:
    """params + updates, leaf by leaf, in the dtypes of the parameters; ValueError if shapes differ."""
    return _combined("apply_updates: updates", lambda p, u: p + in_dtype(u, p), params, updates)


def clip_by_global_norm(grads: Any, limit: float) -> Any:
    """The gradients scaled down so that their joint Euclidean norm is at most `limit` > 0, each in its own dtype.

    Where a square overflows (in float32 above 1.8e19) the norm is inf and the gradients become 0, as in PyTorch and optax.
    """
    _check_number("clip_by_global_norm: limit", limit, lambda x: 0 < x < np.inf, "a finite number above 0")
    squares = [ops.sum(ops.square(g)) for g in trees.leaves(grads)]
    if not squares:
        return grads
    limit = _weak(limit)
    factor = limit / ops.maximum(ops.sqrt(sum(squares[1:], squares[0])), limit)
    return _scaled(factor, grads)


def cosine(lr: float, steps: int, final: float = 0.03) -> Callable[[Any], Any]:
    """A learning rate that falls from lr to final * lr along half a cosine over `steps` steps, and stays there."""
    _check_number("cosine: steps", steps, lambda x: 1 <= x < np.inf, "1 or more")
    return lambda t: lr * (final + (1 - final) * 0.5 * (1 + ops.cos(np.pi * ops.minimum(t, steps) / steps)))


def rate_at(lr: Rate, state: State) -> Any:
    """The learning rate of the step that comes after `state`, a Python float unless it is an array or a Tensor."""
    rate = _weak(lr(state.step) if callable(lr) else lr)
    _check_number("the learning rate", rate, *NOT_NEGATIVE)
    return rate


def in_dtype(x: Any, like: Any) -> Any:
    """A factor of `like` that does not change its dtype: arrays are converted, Python's numbers need not be."""
    return ops.astype(x, like.dtype) if hasattr(x, "dtype") and hasattr(like, "dtype") else x


def _weak(x: Any) -> Any:
    """A NumPy scalar as a Python float, so that it does not turn float32 into float64; Tensors stay."""
    return float(x) if isinstance(x, np.number) else x


def _constant(what: str, x: Any, holds: Callable[[Any], bool], expected: str) -> Any:
    _check_number(what, x, holds, expected)
    return _weak(x)


def _scaled(factor: Any, tree: Any) -> Any:
    return trees.map(lambda g: in_dtype(factor, g) * g, tree)


def _zeros(params: Any) -> Any:
    return trees.map(np.zeros_like, params)


def squares(name: str, eps: Any, params: Any) -> Any:
    """The first moments of squares; ValueError where eps would be 0, and 0 / 0 the update of a gradient whose square is."""
    for path, p in trees.items(params):
        if isinstance(eps, float) and eps and is_float(p) and np.dtype(p.dtype).type(eps) == 0:
            raise ValueError(
                f"{name}: eps = {eps} is 0 in {p.dtype}, of which parameters{path} are: use eps=1e-4, or float32 parameters"
            )
    return _zeros(params)


def _combined(what: str, f: Callable, params: Any, tree: Any) -> Any:
    """f(w, x) leaf by leaf; ValueError, for NumPy would broadcast, where a leaf has another shape than its parameter."""

    def leaf(w: Any, x: Any) -> Any:
        if getattr(w, "shape", ()) != getattr(x, "shape", ()):
            raise _mismatch(what, params, tree)
        return f(w, x)

    return trees.map(leaf, params, tree)


def _mismatch(what: str, params: Any, tree: Any) -> ValueError:
    pairs: list[tuple[Any, Any]] = []
    trees.map(lambda w, x: pairs.append((w, x)), params, tree)
    named = zip((path for path, _ in trees.items(params)), pairs, strict=True)
    path, (w, x) = next(found for found in named if np.shape(found[1][0]) != np.shape(found[1][1]))
    return ValueError(f"{what}{path} is {describe(x)}, expected the shape of its parameter, {list(np.shape(w))}")


def _check_number(what: str, x: Any, holds: Callable[[Any], bool], expected: str) -> None:
    """ValueError unless that `holds` of a number; arrays and Tensors, whose values may not be known yet, are not looked at."""
    known = isinstance(x, np.generic) or not hasattr(x, "dtype")
    if known and not (isinstance(x, (int, float, np.number)) and holds(x)):
        raise ValueError(f"{what} is {x!r}, expected {expected}")
