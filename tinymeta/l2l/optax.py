"""The learned optimizer for JAX, in optax's protocol: [g_t, h_{t+1}] = m(∇_t, h_t, φ) (1606.04474, section 2.1).

    optimizer = lstm_optimizer("my_optimizer.npz")          # or in optax.chain(optax.clip(1.0), lstm_optimizer(...))
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(grads, state)
    params = jax.tree.map(jax.numpy.add, params, updates)   # or optax.apply_updates(params, updates)

optax itself is not needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..kernels.lstm import Weights
from .adapter import check_nonfinite, open_optimizer
from .optimizer import LSTMOptimizer

try:
    import jax
    import jax.numpy as jnp
except ImportError as error:
    raise ImportError("tinymeta.l2l.optax needs JAX: pip install jax", name="jax") from error

Layers = tuple[tuple[Any, Any], ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["layers"], meta_fields=["leaves"])
@dataclass(frozen=True)
class State:
    """Per layer (h, c), each (n, H): all leaves are one vector of n coordinates, so that there is one small program to compile.

    `leaves` are the path and shape of each leaf of the parameters: no arrays but structure, so that they are known when traced.
    """

    layers: Layers
    leaves: tuple[str, ...]


class GradientTransformation(NamedTuple):
    """What optax calls so: init(params) -> state and update(grads, state, params=None) -> (updates, state)."""

    init: Callable[[Any], State]
    update: Callable[..., tuple[Any, State]]


def lstm_optimizer(optimizer: LSTMOptimizer | str | Path, nonfinite: str = "propagate") -> GradientTransformation:
    """The updates of `tinymeta.l2l.LSTMOptimizer`, to rounding, as a pair of pure functions for jit, vmap, scan and grad.

    - optimizer: a tinymeta LSTMOptimizer, the path of a file that it saved, or the name of a shipped one;
    - nonfinite: "propagate" lets a NaN or infinite entry of a gradient spoil the state of this entry, and of no other: NaN for
      good, inf for some hundred steps or more (optax.apply_if_finite leaves the whole step out); "zero" takes such entries for 0.

    Dtypes: all is computed in float32, leaves in half precision too, or in float64 if a leaf of the parameters is float64,
    which JAX has only where x64 is enabled. The state is in the dtype of the computation, an update in that of its gradient.
    When traced: TypeError for a leaf that is not of floats, ValueError for gradients of other paths or shapes than those of the
    parameters that the state is for.
    """
    learned, zero = open_optimizer(optimizer), check_nonfinite(nonfinite, ("propagate", "zero")) == "zero"

    def init(params: Any) -> State:
        n, dtype = sum(map(jnp.size, jax.tree.leaves(params))), _working_dtype(params)
        zeros = lambda b: jnp.zeros((n, b.size // 4), dtype)
        return State(tuple((zeros(b), zeros(b)) for _, b in learned.weights.layers), _outline(params))

    def update(grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        found = _working_dtype(grads)
        _check_state(grads, state, learned.weights)
        flat = _flatten(grads, state.layers[0][0].dtype if state.layers else found)
        proposal, layers = _step(learned, jnp.where(jnp.isfinite(flat), flat, 0) if zero else flat, state.layers)
        return _unflatten(grads, proposal), State(layers, state.leaves)

    return GradientTransformation(init, update)


# ---- the network, numbered as in tinymeta.kernels.lstm ----


def _step(learned: LSTMOptimizer, gradient: Any, state: Layers) -> tuple[Any, Layers]:
    """(update (n,), next state) for a gradient (n,)."""
    layers, w_out, b_out = jax.tree.map(lambda w: jnp.asarray(w, gradient.dtype), learned.weights)
    x = gradient[:, None] if learned.p is None else _log_and_sign(gradient, learned.p)
    new_state = []
    for (w, b), (h, c) in zip(layers, state, strict=True):
        x, new_c = _cell(x, h, c, w, b)
        new_state.append((x, new_c))
    return float(learned.scale) * (_matmul(x, w_out) + b_out), tuple(new_state)


def _log_and_sign(g: Any, p: float) -> Any:
    """(log|∇| / p, sgn ∇) where |∇| ≥ e^-p, else (-1, e^p ∇) (appendix A): (n,) -> (n, 2)."""
    large = jnp.abs(g) >= math.exp(-p)
    first = jnp.where(large, jnp.log(jnp.where(large, jnp.abs(g), 1)) / p, -1)
    second = jnp.where(large, jnp.sign(g), math.exp(p) * g)
    return jnp.stack([first, second], axis=1)


def _cell(x: Any, h: Any, c: Any, w: Any, b: Any) -> tuple[Any, Any]:
    z = _matmul(jnp.concatenate([x, h], axis=1), w) + b  # 1 and 2
    i, f, g, o = jnp.split(z, 4, axis=1)
    new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)  # 3 and 4
    return jax.nn.sigmoid(o) * jnp.tanh(new_c), new_c  # 5 and 6


def _matmul(x: Any, w: Any) -> Any:
    return jnp.matmul(x, w, precision="highest")  # by default accelerators would round the factors to 8 or 11 bits


# ---- trees ----


def _working_dtype(tree: Any) -> Any:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, x in leaves:
        if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            name = f"leaf {jax.tree_util.keystr(path)}" if path else "the leaf"
            raise TypeError(f"lstm_optimizer: {name} is {jnp.result_type(x)}{list(jnp.shape(x))}, expected floats")
    return jnp.result_type(jnp.float32, *(x for _, x in leaves))


def _flatten(tree: Any, dtype: Any) -> Any:
    return jnp.concatenate([jnp.zeros(0, dtype), *(jnp.ravel(x).astype(dtype) for x in jax.tree.leaves(tree))])


def _unflatten(like: Any, flat: Any) -> Any:
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([jnp.size(x) for x in leaves]).tolist()
    pieces = jnp.split(flat, ends[:-1])
    updates = [x.reshape(jnp.shape(g)).astype(jnp.result_type(g)) for x, g in zip(pieces, leaves, strict=False)]
    return jax.tree.unflatten(structure, updates)


def _outline(tree: Any) -> tuple[str, ...]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return tuple(f"{jax.tree_util.keystr(path)}{list(jnp.shape(x))}" for path, x in leaves)


def _check_state(grads: Any, state: State, weights: Weights) -> None:
    if not isinstance(state, State):
        raise TypeError(f"lstm_optimizer: the state is of type {type(state).__name__}, expected that of init(params)")
    outline = _outline(grads)
    if state.leaves != outline:
        pairs = zip_longest(state.leaves, outline, fillvalue="no leaf")
        mine, given = next((a, b) for a, b in pairs if a != b)
        raise ValueError(
            f"lstm_optimizer: the state is for parameters of other paths or shapes than these gradients, first {mine} where they "
            f"have {given}; call init(params) with the parameters that these are gradients of"
        )
    n = sum(map(jnp.size, jax.tree.leaves(grads)))
    expected = [(n, b.size // 4) for _, b in weights.layers for _ in "hc"]
    found = [jnp.shape(x) for x in jax.tree.leaves(state)]
    if found != expected:
        raise ValueError(
            f"lstm_optimizer: the state has arrays of shapes {found}, an optimizer of these layers has {expected} for {n} "
            "coordinates: it is that of another optimizer, so call init(params) of this one"
        )
