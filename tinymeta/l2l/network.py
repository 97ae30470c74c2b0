"""The network m of 1606.04474: preprocessing, stacked LSTM cells and a linear output, for every coordinate alike.

Written in public ops, to be read beside section 2.1 and appendix A; `lstm_cell` runs the hand-derived NumPy kernels of
`tinymeta.kernels.lstm` for its value, VJP and double VJP, with `lstm_cell_composed` as its reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from .. import ops
from ..kernels import lstm as kernels
from ..kernels.lstm import State, Weights
from ..ops.kernel import kernel


def init_weights(
    rng: np.random.Generator, inputs: int = 2, hidden: Sequence[int] = (20, 20), dtype: Any = np.float32
) -> Weights:
    """Weights φ of a coordinatewise LSTM: N(0, 1/fan_in) matrices, forget bias 1, and a small output layer.

    `inputs` is 2 with the paper's preprocessing and 1 for raw gradients. A small output keeps the first proposals well
    below the scale of θ, where an untrained network of full scale would throw θ far away. ValueError for `hidden` that is no
    sequence of whole numbers, 1 or more.
    """
    if not isinstance(hidden, Sequence) or not all(isinstance(H, Integral) and H > 0 for H in hidden):
        raise ValueError(f"hidden is {hidden!r}, expected the units of each layer, 1 or more, such as (20, 20)")
    layers, fan_in = [], inputs
    for size in hidden:
        w = rng.normal(size=(fan_in + size, 4 * size)) / np.sqrt(fan_in + size)
        b = np.zeros(4 * size)
        b[size : 2 * size] = 1.0
        layers.append((w.astype(dtype), b.astype(dtype)))
        fan_in = size
    w_out = 0.1 * rng.normal(size=fan_in) / np.sqrt(fan_in)
    return Weights(tuple(layers), w_out.astype(dtype), np.zeros((), dtype))


def propose(weights: Weights, state: State, gradient: Any, scale: float, p: float | None) -> tuple[Any, State]:
    """[g_t, h_{t+1}] = m(∇_t, h_t, φ) (section 2): the update (n,) for a gradient (n,), and the next state."""
    x = ops.reshape(gradient, (-1, 1)) if p is None else log_and_sign(gradient, p)
    new_state = []
    for (w, b), (h, c) in zip(weights.layers, state, strict=True):
        x, c = lstm_cell(x, h, c, w, b)
        new_state.append((x, c))
    return float(scale) * (ops.matmul(x, weights.W_out) + weights.b_out), tuple(new_state)


def log_and_sign(gradient: Any, p: float) -> Any:
    """(log|∇| / p, sgn ∇) where |∇| ≥ e^-p, else (-1, e^p ∇) (appendix A): (n,) -> (n, 2)."""
    large = ops.abs(gradient) >= math.exp(-p)
    magnitude = ops.where(large, ops.abs(gradient), 1.0)  # 1 keeps the log, which is not used there, finite
    first = ops.where(large, ops.log(magnitude) / p, -1.0)
    second = ops.where(large, ops.sign(gradient), math.exp(p) * ops.where(large, 0.0, gradient))
    return ops.stack([first, second], axis=1)


def lstm_cell_composed(x: Any, h: Any, c: Any, w: Any, b: Any) -> tuple[Any, Any]:
    """One LSTM layer: x (n, d), state h and c (n, H), w (d + H, 4H), b (4H,), gates i, f, g, o -> (h', c')."""
    z = ops.matmul(ops.concatenate([x, h], axis=1), w) + b
    z_i, z_f, z_g, z_o = ops.split(z, 4, axis=1)
    new_c = ops.sigmoid(z_f) * c + ops.sigmoid(z_i) * ops.tanh(z_g)
    return ops.sigmoid(z_o) * ops.tanh(new_c), new_c


lstm_cell = kernel(
    "lstm_cell",
    lstm_cell_composed,
    forward={"numpy": kernels.lstm_cell},
    vjp={"numpy": lambda d_out, *args: kernels.lstm_cell_vjp(*d_out, *args)},
    vjp_vjp={"numpy": lambda dd, d_out, *args: kernels.lstm_cell_vjp_vjp(*dd, *d_out, *args)},
)
