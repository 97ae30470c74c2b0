"""The three prims of a convolution as matrix products; X has the patches of x as columns, Y and W a row per output channel:

    correlate  Y = W X        match  Wᵀ = X Yᵀ        spread  X' = Wᵀ Y, then each column is added where its patch lies.

X is (C kh kw, N H' W') and Y (O, N H' W'); y itself is Y with other strides. Prims that share x share X.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..ops import conv
from ..ops import elementwise as ew
from .cleanup import ADD
from .graph import Op, Value
from .loops import STATEMENTS, Lowering, of_result
from .statements import Loop, View, contiguous, steps, unsupported


def _of_one_task(lower: Callable) -> Callable:
    """The prim without leading axes, which may be of length 1."""

    def checked(low: Lowering, op: Op) -> None:
        lead = op.out.ndim - 4
        if any(n != 1 for x in (*op.inputs, op.out) for n in x.shape[:-4]):
            raise unsupported(op, f"{op.out} with leading axes that are not tasks")
        out = Value(op.out.shape[lead:], op.out.dtype)
        operands = tuple(_last_four_axes(low, x) for x in of_result(low, op))
        lower(low, Op(op.prim, operands, op.params, op.site, (out,)))
        view = low.view(out)
        low.views[op.out] = View(view.root, view.offset, op.out.shape, (0,) * lead + view.strides)

    return checked


def _last_four_axes(low: Lowering, x: Value) -> Value:
    made, view = Value(x.shape[-4:], x.dtype), low.stored(x)
    low.views[made] = View(view.root, view.offset, view.shape[-4:], view.strides[-4:])
    return made


def _correlate(low: Lowering, op: Op) -> None:
    x, w = op.inputs
    (n, _, _, _), o, (h, v) = x.shape, w.shape[0], op.params["windows"].output
    made = Value((o, n * h * v), op.out.dtype)
    low.multiply(_kernel(low, w), contiguous(_patches(low, x, op)), made, op)
    low.views[op.out] = View(made, 0, (n, o, h, v), (h * v, n * h * v, v, 1))


def _match(low: Lowering, op: Op) -> None:
    x, y = op.inputs
    (_, c, _, _), (n, o, h, v), (kh, kw) = x.shape, y.shape, op.params["windows"].size
    rows = _rows(low, y, op)
    made = Value((c * kh * kw, o), op.out.dtype)
    low.multiply(
        contiguous(_patches(low, x, op)), View(rows.root, rows.offset, (n * h * v, o), rows.strides[::-1]), made, op
    )
    low.views[op.out] = View(made, 0, (o, c, kh, kw), (1, kh * kw * o, kw * o, o))


def _spread(low: Lowering, op: Op) -> None:
    y, w = op.inputs
    windows, (n, c, _, _) = op.params["windows"], op.out.shape
    kernel, (h, v), (kh, kw) = _kernel(low, w), windows.output, windows.size
    columns = Value((c * kh * kw, n * h * v), op.out.dtype)
    low.multiply(
        View(kernel.root, kernel.offset, kernel.shape[::-1], kernel.strides[::-1]), _rows(low, y, op), columns, op
    )
    low.fill(contiguous(op.out), op.out.dtype.type(0))
    patches = _places(contiguous(op.out), windows)
    inside = steps((c, kh, kw, n, h, v))
    for i in range(kh):
        for j in range(kw):
            one = (c, n, h, v)
            source = View(columns, i * inside[1] + j * inside[2], one, (inside[0], *inside[3:]))
            offset = patches.offset + i * patches.strides[1] + j * patches.strides[2]
            add_to(low, source, View(op.out, offset, one, (patches.strides[0], *patches.strides[3:])), op)
    low.wanted.add(op.out)


def _places(x: View, windows: conv.Windows) -> View:
    """x (N, C, H, W) as (C, kh, kw, N, H', W'): every patch, without a copy."""
    (n, c, _, _), (sn, sc, sh, sv), (down, right) = x.shape, x.strides, windows.stride
    return View(x.root, x.offset, (c, *windows.size, n, *windows.output), (sc, sh, sv, sn, down * sh, right * sv))


def _patches(low: Lowering, x: Value, op: Op) -> Value:
    """X, made once for each x."""
    windows = op.params["windows"]
    key = (low.view(x), windows)
    if key not in low.patches:
        places = _places(low.stored(x), windows)
        c, kh, kw, n, h, v = places.shape
        low.patches[key] = made = Value((c * kh * kw, n * h * v), x.dtype)
        low.copy(places, View(made, 0, places.shape, steps(places.shape)))
    return low.patches[key]


def _rows(low: Lowering, y: Value, op: Op) -> View:
    """Y: a view if y has its strides, else a copy, made once for each y."""
    view = low.stored(y)
    (n, o, h, v), (sn, so, sh, sv) = view.shape, view.strides
    turned = View(view.root, view.offset, (o, n, h, v), (so, sn, sh, sv))
    if turned.strides == steps(turned.shape):
        return View(view.root, view.offset, (o, n * h * v), (n * h * v, 1))
    if (turned, None) not in low.patches:
        low.patches[turned, None] = made = Value((o, n * h * v), y.dtype)
        low.copy(turned, View(made, 0, turned.shape, steps(turned.shape)))
    return contiguous(low.patches[turned, None])


def _kernel(low: Lowering, w: Value) -> View:
    """W (O, C kh kw): a view; of a kernel whose strides do not allow it, a copy."""
    view = low.stored(w)
    o, c, kh, kw = w.shape
    so, sc, sh, sw = view.strides
    if (sc, sh) == (kh * sh, kw * sw):
        return View(view.root, view.offset, (o, c * kh * kw), (so, sw))
    if (view, None) not in low.patches:
        low.patches[view, None] = made = Value((o, c * kh * kw), w.dtype)
        low.copy(view, View(made, 0, w.shape, steps(w.shape)))
    return contiguous(low.patches[view, None])


def add_to(low: Lowering, source: View, to: View, op: Op) -> None:
    """Add what lies in one place to what lies in another."""
    loop: Any = Loop(source.shape, closed=True)
    loop.loads[source], loop.loads[to] = loop.register(), loop.register()
    total = loop.register()
    loop.code.append((total, Op(ADD, (source.root, to.root), {}, op.site, (Value((), to.root.dtype),)), (0, 1)))
    loop.stores.append((total, to))
    low.append(loop, to.root)


def _gathered(low: Lowering, op: Op) -> None:
    """The weighted sum over each window: one slice of x for each place in a window."""
    x, *weights = op.inputs
    terms = [_lowered(low, ew.multiply.prim, (_slice(low, x, place, op), w), op) for w, place in _weighted(op, weights)]  # type: ignore[attr-defined]
    _folded(low, ew.add.prim, terms, op)  # type: ignore[attr-defined]


def _largest(low: Lowering, op: Op) -> None:
    slices = [_slice(low, op.inputs[0], place, op) for place in op.params["windows"].places()]
    _folded(low, ew.maximum.prim, slices, op)  # type: ignore[attr-defined]


def _scattered(low: Lowering, op: Op) -> None:
    """The adjoint of `_gathered`."""
    g, *weights = op.inputs
    low.fill(contiguous(op.out), op.out.dtype.type(0))
    low.wanted.add(op.out)
    for weight, place in _weighted(op, weights):
        term = _lowered(low, ew.multiply.prim, (g, weight), op)  # type: ignore[attr-defined]
        add_to(low, low.stored(term), low.sliced(contiguous(op.out), place), op)


def _weighted(op: Op, weights: list) -> list[tuple[Any, tuple]]:
    return list(zip(weights, op.params["windows"].places(), strict=True))


def _slice(low: Lowering, x: Value, place: tuple, op: Op) -> Value:
    made = Value((*x.shape[:-2], *op.params["windows"].output), x.dtype)
    low.views[made] = low.sliced(low.view(x), place)
    return made


def _lowered(low: Lowering, prim: Any, inputs: tuple, like: Op) -> Value:
    op = Op(prim, inputs, {}, like.site)
    arrays = [x for x in inputs if type(x) is Value]
    op.outputs = (Value(np.broadcast_shapes(*(x.shape for x in arrays)), like.out.dtype, op),)
    low.lower(op)
    return op.out


def _folded(low: Lowering, prim: Any, terms: list[Value], op: Op) -> None:
    """op.out as the first term combined with the next, and so on."""
    total = terms[0]
    for term in terms[1:]:
        total = _lowered(low, prim, (total, term), op)
    low.views[op.out] = low.view(total)


STATEMENTS.update({
    conv._gather: _gathered, conv._scatter: _scattered, conv._max_pool: _largest,
    conv._correlate: _of_one_task(_correlate), conv._match: _of_one_task(_match), conv._spread: _of_one_task(_spread),
})  # fmt: skip
