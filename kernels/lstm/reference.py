"""The LSTM optimizer in plain NumPy: the oracle of every other backend. Mathematics: ``tinymeta.kernels.lstm``.

Naming: ``d_y`` is the cotangent of y; in the double backward ``dd_y`` is the cotangent of the value d_y,
and ``e_y`` that of y itself.
"""

import math
import sys
from typing import NamedTuple

import numpy as np

from .. import agree

Array = np.ndarray
State = tuple[tuple[Array, Array], ...]
"""Per layer (h, c), each (n, H)."""


class Weights(NamedTuple):
    """Per layer (W (d + H, 4H), b (4H,)) with gate order i, f, g, o; then the output's W_out (H,) and b_out ()."""

    layers: tuple[tuple[Array, Array], ...]
    W_out: Array
    b_out: Array


class Cell(NamedTuple):
    """The activations of one cell, each (n, H) but u = [x, h] (n, d + H): all that its backward needs beside W."""

    u: Array
    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    c_new: Array
    t: Array
    h_new: Array


def zero_state(weights: Weights, n: int) -> State:
    """The state before the first step: h = c = 0 for n coordinates."""
    shapes = [(b, (n, b.size // 4)) for _, b in weights.layers]
    return tuple((np.zeros_like(b, shape=shape), np.zeros_like(b, shape=shape)) for b, shape in shapes)


# ---- preprocessing, appendix A ----


def log_and_sign(g: Array, p: float = 10) -> Array:
    """(log|g| / p, sign g) where |g| >= e^-p, else (-1, e^p g) (1): (n,) -> (n, 2)."""
    agree("log_and_sign", g=(g, "n"))
    p = _checked(p, g.dtype)
    large = np.abs(g) >= math.exp(-p)
    logarithm = np.log(np.where(large, np.abs(g), 1)) / p
    linear = math.exp(p) * np.where(large, 0, g)
    return np.stack([np.where(large, logarithm, -1), np.where(large, np.sign(g), linear)], axis=1)


def log_and_sign_vjp(d_x: Array, g: Array, p: float = 10) -> Array:
    """d_g (n,) from d_x (n, 2): d_x_0 / (p g) where |g| >= e^-p, else e^p d_x_1."""
    agree("log_and_sign_vjp", g=(g, "n"), d_x=(d_x, "n 2"))
    p = _checked(p, g.dtype)
    large = np.abs(g) >= math.exp(-p)
    return np.where(large, d_x[:, 0] / np.where(large, g, 1) / p, math.exp(p) * np.where(large, 0, d_x[:, 1]))


def _checked(p: float, dtype: np.dtype) -> float:
    largest = min(float(np.log(np.finfo(dtype).max)), math.log(sys.float_info.max))
    if not 0 < p < largest:
        raise ValueError(f"log_and_sign: p is {p}, expected 0 < p < {largest:.4g}, so that e^p fits in {dtype}")
    return float(p)


# ---- one cell ----


def lstm_cell(x: Array, h: Array, c: Array, W: Array, b: Array) -> tuple[Array, Array]:
    """(h', c') of one layer (2): x (n, d), h and c (n, H), W (d + H, 4H), b (4H,)."""
    cell = _cell(x, h, c, W, b)
    return cell.h_new, cell.c_new


def lstm_cell_vjp(
    dh_new: Array, dc_new: Array, x: Array, h: Array, c: Array, W: Array, b: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """(d_x, d_h, d_c, d_W, d_b) from the cotangents (n, H) of h' and c'; d_W and d_b are sums over rows."""
    return _cell_backward(_cell(x, h, c, W, b), W, dh_new, dc_new)


def lstm_cell_vjp_vjp(
    dd_x: Array,
    dd_h: Array,
    dd_c: Array,
    dd_W: Array,
    dd_b: Array,
    dh_new: Array,
    dc_new: Array,
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    b: Array,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Cotangents of (dh_new, dc_new, x, h, c, W, b) from those of lstm_cell_vjp's outputs: the double backward.

    First the backward's steps are undone, B1 to B6; each puts dd on a cotangent and e on an activation. Then the e
    flow back through the forward's steps 5 to 1.
    """
    cell = _cell(x, h, c, W, b)
    agree("lstm_cell_vjp_vjp", x=(x, "n d"), dd_x=(dd_x, "n d"), W=(W, "k G"), dd_W=(dd_W, "k G"), dd_b=(dd_b, "G"))
    agree("lstm_cell_vjp_vjp", h=(h, "n H"), dd_h=(dd_h, "n H"), dd_c=(dd_c, "n H"))
    d_t, d_c_new, d_gates = _backward_to_gates(cell, dh_new, dc_new)
    slope, curvature = _gate_slope(cell), _gate_curvature(cell)
    d_z = d_gates * slope
    u, i, f, g, o, c, _, t, _ = cell

    dd_u = np.concatenate([dd_x, dd_h], axis=1)  # B1: [d_x, d_h] = d_u
    dd_z = dd_u @ W + u @ dd_W + dd_b  # B2: d_u = d_z W^T, d_W = u^T d_z, d_b = sum_n d_z
    e_u, e_W = d_z @ dd_W.T, dd_u.T @ d_z
    dd_i, dd_f, dd_g, dd_o = np.split(dd_z * slope, 4, axis=1)  # B3: d_z = d_gates slope(gates)
    e_i, e_f, e_g, e_o = np.split(dd_z * d_gates * curvature, 4, axis=1)
    dd_c_new = dd_i * g + dd_f * c + dd_g * i + dd_c * f  # B4: d_i, d_f, d_g, d_c = d_c' (g, c, i, f)
    e_g, e_c, e_i, e_f = e_g + dd_i * d_c_new, dd_f * d_c_new, e_i + dd_g * d_c_new, e_f + dd_c * d_c_new
    dd_t, e_t = dd_c_new * (1 - t * t), dd_c_new * d_t * (-2 * t)  # B5: d_c' = dc_new + d_t (1 - t^2)
    dd_h_new = dd_o * t + dd_t * o  # B6: d_o = dh_new t, d_t = dh_new o
    e_t, e_o = e_t + dd_o * dh_new, e_o + dd_t * dh_new

    e_c_new = e_t * (1 - t * t)  # of 5: t = tanh(c')
    e_c = e_c + e_c_new * f  # of 4: c' = f c + i g
    e_gates = np.concatenate([e_i + e_c_new * g, e_f + e_c_new * c, e_g + e_c_new * i, e_o], axis=1)
    e_z = e_gates * slope  # of 3
    e_u, e_W = e_u + e_z @ W.T, e_W + u.T @ e_z  # of 2: z = u W + b
    e_x, e_h = _split_u(cell, e_u)  # of 1: u = [x, h]
    return dd_h_new, dd_c_new, e_x, e_h, e_c, e_W, e_z.sum(axis=0)


def _sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z) without overflow, and accurate relative to its value for very negative z."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def _cell(x: Array, h: Array, c: Array, W: Array, b: Array) -> Cell:
    agree("lstm_cell", x=(x, "n d"), h=(h, "n H"), c=(c, "n H"), W=(W, "d+H 4H"), b=(b, "4H"))
    u = np.concatenate([x, h], axis=1)  # 1
    z_i, z_f, z_g, z_o = np.split(u @ W + b, 4, axis=1)  # 2
    i, f, g, o = _sigmoid(z_i), _sigmoid(z_f), np.tanh(z_g), _sigmoid(z_o)  # 3
    c_new = f * c + i * g  # 4
    t = np.tanh(c_new)  # 5
    return Cell(u, i, f, g, o, c, c_new, t, o * t)  # 6: h' = o t


def _cell_backward(cell: Cell, W: Array, dh_new: Array, dc_new: Array) -> tuple[Array, Array, Array, Array, Array]:
    _, d_c_new, d_gates = _backward_to_gates(cell, dh_new, dc_new)
    d_z = d_gates * _gate_slope(cell)  # B3, of 3: i, f, g, o = s(z_i), s(z_f), tanh(z_g), s(z_o)
    d_u, d_W, d_b = d_z @ W.T, cell.u.T @ d_z, d_z.sum(axis=0)  # B2, of 2: z = u W + b
    d_x, d_h = _split_u(cell, d_u)  # B1, of 1: u = [x, h]
    return d_x, d_h, d_c_new * cell.f, d_W, d_b  # B4: d_c = d_c' f


def _backward_to_gates(cell: Cell, dh_new: Array, dc_new: Array) -> tuple[Array, Array, Array]:
    """Steps B6 to B4: (d_t, d_c', d_gates (n, 4H))."""
    agree("lstm_cell_vjp", c=(cell.c, "n H"), dh_new=(dh_new, "n H"), dc_new=(dc_new, "n H"))
    d_o, d_t = dh_new * cell.t, dh_new * cell.o  # B6, of 6: h' = o t
    d_c_new = dc_new + d_t * (1 - cell.t * cell.t)  # B5, of 5: t = tanh(c')
    d_i, d_f, d_g = d_c_new * cell.g, d_c_new * cell.c, d_c_new * cell.i  # B4, of 4: c' = f c + i g
    return d_t, d_c_new, np.concatenate([d_i, d_f, d_g, d_o], axis=1)


def _gate_slope(cell: Cell) -> Array:
    """d gate / d z as a function of the gate (n, 4H)."""
    _, i, f, g, o, *_ = cell
    return np.concatenate([i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o)], axis=1)


def _gate_curvature(cell: Cell) -> Array:
    """The derivative of the slope with respect to the gate (n, 4H)."""
    _, i, f, g, o, *_ = cell
    return np.concatenate([1 - 2 * i, 1 - 2 * f, -2 * g, 1 - 2 * o], axis=1)


def _split_u(cell: Cell, d_u: Array) -> tuple[Array, Array]:
    d = cell.u.shape[1] - cell.c.shape[1]
    return d_u[:, :d], d_u[:, d:]


# ---- the optimizer ----


def step(
    weights: Weights, state: State, gradient: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, State]:
    """(update (n,), new state) for gradient (n,): (1) unless p is None, then the layers (2), then (3)."""
    agree("step", gradient=(gradient, "n"))
    _check_state("step", weights, state, gradient[None])
    update, cells = _step(weights, state, gradient, scale, p)
    return update, _state_after(cells)


def unroll_forward(
    weights: Weights, state: State, gradients: Array, scale: float = 1.0, p: float | None = 10
) -> tuple[Array, State]:
    """(updates (T, n), final state) of T steps on the constant gradients (T, n)."""
    updates, _, state = _unroll("unroll_forward", weights, state, gradients, scale, p)
    return updates, state


def unroll_backward(
    weights: Weights,
    state: State,
    gradients: Array,
    d_updates: Array,
    d_state: State,
    scale: float = 1.0,
    p: float | None = 10,
    wrt_gradients: bool = False,
) -> tuple[Weights, State, Array | None]:
    """(d_weights, d_state at the start, d_gradients (T, n) or None) from d_updates (T, n) and d_state at the end."""
    agree("unroll_backward", gradients=(gradients, "T n"), d_updates=(d_updates, "T n"))
    _check_state("unroll_backward", weights, d_state, d_updates)
    _, steps, _ = _unroll("unroll_backward", weights, state, gradients, scale, p)
    d_weights = Weights(
        tuple((np.zeros_like(W), np.zeros_like(b)) for W, b in weights.layers),
        np.zeros_like(weights.W_out),
        np.zeros_like(weights.b_out),
    )
    d_gradients = np.empty_like(gradients) if wrt_gradients else None
    for t in reversed(range(len(gradients))):
        x, d_out = _features(gradients[t], p), float(scale) * d_updates[t]  # of S3: update = scale (h W_out + b_out)
        d_x, d_state, d_weights_t = _step_backward(weights, x, steps[t], d_out, d_state)
        d_weights = _sum(d_weights, d_weights_t)
        if d_gradients is not None:
            d_gradients[t] = _features_vjp(d_x, gradients[t], p)
    return d_weights, d_state, d_gradients


def _unroll(
    operation: str, weights: Weights, state: State, gradients: Array, scale: float, p: float | None
) -> tuple[Array, list[tuple[Cell, ...]], State]:
    """(updates, cells by step and layer, final state)"""
    agree(operation, gradients=(gradients, "T n"))
    _check_state(operation, weights, state, gradients)
    updates, steps = np.empty_like(gradients), []
    for t, gradient in enumerate(gradients):
        updates[t], cells = _step(weights, state, gradient, scale, p)
        state = _state_after(cells)
        steps.append(cells)
    return updates, steps, state


def _step(
    weights: Weights, state: State, gradient: Array, scale: float, p: float | None
) -> tuple[Array, tuple[Cell, ...]]:
    x = _features(gradient, p)  # S1
    cells = []
    for (h, c), (W, b) in zip(state, weights.layers, strict=True):
        cells.append(_cell(x, h, c, W, b))  # S2
        x = cells[-1].h_new
    agree("step", h_last=(x, "n H"), W_out=(weights.W_out, "H"), b_out=(weights.b_out, ""))
    return float(scale) * (x @ weights.W_out + weights.b_out), tuple(cells)  # S3


def _step_backward(
    weights: Weights, x: Array, cells: tuple[Cell, ...], d_out: Array, d_state: State
) -> tuple[Array, State, Weights]:
    last = cells[-1].h_new if cells else x
    d_x = np.outer(d_out, weights.W_out)
    d_layers, d_state_before = [], []
    for cell, (W, _), (dh, dc) in zip(cells[::-1], weights.layers[::-1], d_state[::-1], strict=True):
        d_x, d_h, d_c, d_W, d_b = _cell_backward(cell, W, dh + d_x, dc)  # of S2: h' is used above and at t + 1
        d_layers.append((d_W, d_b))
        d_state_before.append((d_h, d_c))
    d_weights = Weights(tuple(d_layers[::-1]), last.T @ d_out, d_out.sum())
    return d_x, tuple(d_state_before[::-1]), d_weights


def _features(gradient: Array, p: float | None) -> Array:
    return gradient[:, None] if p is None else log_and_sign(gradient, p)


def _features_vjp(d_x: Array, gradient: Array, p: float | None) -> Array:
    return d_x[:, 0] if p is None else log_and_sign_vjp(d_x, gradient, p)


def _state_after(cells: tuple[Cell, ...]) -> State:
    return tuple((cell.h_new, cell.c_new) for cell in cells)


def _sum(a: Weights, b: Weights) -> Weights:
    layers = tuple((Wa + Wb, ba + bb) for (Wa, ba), (Wb, bb) in zip(a.layers, b.layers, strict=True))
    return Weights(layers, a.W_out + b.W_out, np.reshape(a.b_out + b.b_out, ()))


def _check_state(operation: str, weights: Weights, state: State, gradients: Array) -> None:
    """A state, or a cotangent of one, must have the weights' layers and a row for each coordinate."""
    if len(state) != len(weights.layers):
        expected = f"{len(weights.layers)} as weights has; zero_state makes one"
        raise ValueError(f"{operation}: state has {len(state)} layers, expected {expected}")
    for k, ((h, c), (_, b)) in enumerate(zip(state, weights.layers, strict=True)):
        agree(f"{operation}, layer {k}", gradients=(gradients, "T n"), h=(h, "n H"), c=(c, "n H"), b=(b, "4H"))
