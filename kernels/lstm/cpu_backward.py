"""Explicit vectors for truncated backpropagation through time, on a group of coordinates at a time.

A group is half a tile, so that the activations of twenty steps of the paper's optimizer lie in a core's second cache. A row
is GROUP floats. Steps are numbered as in ``tinymeta.kernels.lstm``; arrays come as addresses in bytes. The activations of a
step are one record of rows, laid out by ``cpu_unroll``: gates are unit by unit, i, f, g, o, and their cotangents d_z are
written over them. So what is left in the records are the two factors of every d_W = sum over steps and coordinates of u d_z,
which ``outer`` sums, each lane apart, in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..simd import FLOAT64, Simd, Value, Variable, sigmoid_denominator, tanh_ratio, types, vector_code
from .cpu_step import WIDTH, Address, Count, Float, accumulate, four, two_features

GROUP = 32
ROW = 4 * GROUP
"""Bytes of a row."""
BLOCK = 4
"""Rows that ``transposed`` makes at a time: its weights are packed, and its results padded, by so many."""


def _width(simd: Simd) -> int:
    return min(WIDTH[simd.lanes], GROUP // simd.lanes)


# ---- the forward pass, as in cpu_step, but that it keeps the gates ----


@vector_code(types.void, Address, Address, Float, Float, Float)
def features(simd: Simd, gradient: Value, x: Value, *numbers: Value) -> None:
    """(1): two rows from the gradient's; numbers p, e^p, e^-p."""
    two_features(simd, gradient, x, numbers, GROUP)


@vector_code(types.void, Address, Address, Count, Address, Count, Address, Address)
def cell(simd: Simd, weights: Value, x: Value, d: Value, before: Value, H: Value, after: Value, gates: Value) -> None:
    """(2): after, which is h' and then c' (H rows each), and the gates (4 H rows), from x (d rows) and h, c before."""
    weights, x, h, h_new, gates = (simd.at(address) for address in (weights, x, before, after, gates))
    width, state = _width(simd), simd.times(H, GROUP)
    per_unit = simd.times(simd.plus(simd.plus(d, H), 1), 4)
    with simd.loop(H) as j, simd.loop(GROUP // (width * simd.lanes)) as part:
        lane, w = simd.times(part, width * simd.lanes), simd.times(j, per_unit)
        z = [[simd.variable(b) for _ in range(width)] for b in four(simd, weights, w)]
        accumulate(simd, z, weights, simd.plus(w, 4), x, lane, d, GROUP)  # 1, 2
        accumulate(simd, z, weights, simd.plus(simd.plus(w, 4), simd.times(d, 4)), h, lane, H, GROUP)
        for v in range(width):
            at = simd.plus(simd.plus(simd.times(j, GROUP), lane), v * simd.lanes)
            c = simd.load(h, simd.plus(at, state))
            h_next, c_next, four_gates = _gates(simd, [sums[v].get() for sums in z], c)
            simd.store(h_next, h_new, at)
            simd.store(c_next, h_new, simd.plus(at, state))
            first = simd.plus(simd.plus(simd.times(j, 4 * GROUP), lane), v * simd.lanes)
            for k, gate in enumerate(four_gates):
                simd.store(gate, gates, simd.plus(first, k * GROUP))


def _gates(simd: Simd, z: Sequence[Value], c: Value) -> tuple[Value, Value, tuple[Value, ...]]:
    """(h', c', (i, f, g, o)) by three divisions: i = 1 / I, f = 1 / F, o = 1 / O, g = N / D."""
    z_i, z_f, z_g, z_o = z
    one = simd.const(1)
    I, F, O = (sigmoid_denominator(simd, z) for z in (z_i, z_f, z_o))  # 3
    N, D = tanh_ratio(simd, z_g)
    ID, FO = simd.div(one, simd.mul(I, D)), simd.div(one, simd.mul(F, O))
    i, f, g, o = simd.mul(ID, D), simd.mul(FO, O), simd.mul(simd.mul(ID, I), N), simd.mul(FO, F)
    c_new = simd.fma(f, c, simd.mul(i, g))  # 4
    return simd.mul(o, simd.div(*tanh_ratio(simd, c_new))), c_new, (i, f, g, o)  # 5, 6


# ---- the backward pass of one step ----


@vector_code(types.void, Address, Address, Count, Address)
def output_vjp(simd: Simd, weights: Value, d_out: Value, H: Value, d_h: Value) -> None:
    """Of S3: d_h (H rows) = W_out d_out."""
    weights, d_out, d_h = (simd.at(address) for address in (weights, d_out, d_h))
    with simd.loop(H) as k, simd.loop(GROUP // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        row = simd.mul(simd.broadcast(weights, k), simd.load(d_out, lane))
        simd.store(row, d_h, simd.plus(simd.times(k, GROUP), lane))


@vector_code(types.void, Address, Address, Address, Count, Address, Address, Address)
def gates_vjp(simd: Simd, c: Value, h_new: Value, gates: Value, H: Value, *cotangents: Value) -> None:
    """d_z over the gates, and d_c over d_c'; the cotangents are those of h' from above and from the next step, and of c'."""
    c, h_new, gates, d_above, d_h, d_c = (simd.at(address) for address in (c, h_new, gates, *cotangents))
    one = simd.const(1)
    with simd.loop(H) as j, simd.loop(GROUP // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        at, first = (simd.plus(simd.times(j, k * GROUP), lane) for k in (1, 4))
        where = [simd.plus(first, k * GROUP) for k in range(4)]
        i, f, g, o = (simd.load(gates, k) for k in where)
        d_h_new = simd.add(simd.load(d_h, at), simd.load(d_above, at))
        t = simd.div(simd.load(h_new, at), o)  # o >= 2^-40
        d_o, d_t = simd.mul(d_h_new, t), simd.mul(d_h_new, o)  # B6, of 6: h' = o t
        d_c_new = simd.fma(d_t, simd.sub(one, simd.mul(t, t)), simd.load(d_c, at))  # B5, of 5: t = tanh(c')
        d_i, d_f, d_g = (simd.mul(d_c_new, x) for x in (g, simd.load(c, at), i))  # B4, of 4: c' = f c + i g
        simd.store(simd.mul(d_c_new, f), d_c, at)
        s_i, s_f, s_o = (simd.mul(s, simd.sub(one, s)) for s in (i, f, o))
        slopes = s_i, s_f, simd.sub(one, simd.mul(g, g)), s_o
        for k, d_gate, slope in zip(where, (d_i, d_f, d_g, d_o), slopes, strict=True):  # B3, of 3
            simd.store(simd.mul(d_gate, slope), gates, k)


@vector_code(types.void, Address, Address, Count, Address, Count)
def transposed(simd: Simd, weights: Value, d_z: Value, H: Value, d_u: Value, blocks: Value) -> None:
    """Of 2: d_u = W d_z, BLOCK rows at a time, from 4 H rows of d_z; weights [block][4 H][BLOCK]."""
    weights, d_z, d_u = (simd.at(address) for address in (weights, d_z, d_u))
    width, terms = _width(simd), simd.times(H, 4)
    with simd.loop(blocks) as block, simd.loop(GROUP // (width * simd.lanes)) as part:
        lane = simd.times(part, width * simd.lanes)
        sums = [[simd.variable(simd.const(0)) for _ in range(width)] for _ in range(BLOCK)]
        accumulate(simd, sums, weights, simd.times(simd.times(block, terms), BLOCK), d_z, lane, terms, GROUP)
        for k in range(BLOCK):
            row = simd.plus(simd.times(simd.plus(simd.times(block, BLOCK), k), GROUP), lane)
            for v in range(width):
                simd.store(sums[k][v].get(), d_u, simd.plus(row, v * simd.lanes))


@vector_code(types.void, Address, Address, Address, Float, Float, Float)
def features_vjp(simd: Simd, gradient: Value, d_x: Value, d_gradient: Value, *numbers: Value) -> None:
    """Of (1): d_x_0 / (p g) where |g| >= e^-p, else e^p d_x_1."""
    gradient, d_x, d_gradient = (simd.at(address) for address in (gradient, d_x, d_gradient))
    p, e_p, e_minus_p = (simd.splat(number) for number in numbers)
    with simd.loop(GROUP // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        g, d_first, d_second = simd.load(gradient, lane), simd.load(d_x, lane), simd.load(d_x, simd.plus(lane, GROUP))
        large = simd.greater_equal(simd.absolute(g), e_minus_p)
        d_g = simd.div(d_first, simd.mul(p, simd.where(large, g, simd.const(1))))
        simd.store(simd.where(large, d_g, simd.mul(e_p, d_second)), d_gradient, lane)


# ---- the weights' gradient, of many steps at once ----


def _outer(simd: Simd, gates: int, sums: Value, d_z: Value, u: Value, *counts: Value) -> None:
    """sums[k][j][gate] += sum over steps and groups of lanes of u[k] d_z[j][gate]; counts: rows of u, units j, steps, and the
    floats from one step's rows to the next's."""
    rows, units, steps, stride = counts
    sums, d_z, u = (simd.at(address) for address in (sums, d_z, u))
    block = WIDTH[simd.lanes]
    whole = simd.builder.udiv(rows, simd.i64(block))
    done = simd.times(whole, block)
    for side, first, count in (
        (block, simd.i64(0), whole),
        (1, done, simd.builder.sub(rows, done)),
    ):
        with simd.loop(count) as k, simd.loop(units) as j:
            row = simd.plus(first, simd.times(k, side))
            where = [
                simd.times(
                    simd.plus(simd.times(simd.plus(simd.times(simd.plus(row, r), units), j), gates), gate), simd.lanes
                )
                for r in range(side)
                for gate in range(gates)
            ]
            totals = [simd.variable(simd.load(sums, at)) for at in where]
            with simd.loop(steps) as step:
                at = simd.times(step, stride)
                _add_products(simd, totals, d_z, simd.plus(at, simd.times(j, gates * GROUP)), u,
                              simd.plus(at, simd.times(row, GROUP)), gates, side)  # fmt: skip
            for total, at in zip(totals, where, strict=True):
                simd.store(total.get(), sums, at)


def _add_products(
    simd: Simd, totals: list[Variable], d_z: Value, z_at: Value, u: Value, u_at: Value, gates: int, side: int
) -> None:
    for v in range(GROUP // simd.lanes):
        zs = [simd.load(d_z, simd.plus(z_at, gate * GROUP + v * simd.lanes)) for gate in range(gates)]
        for r in range(side):
            u_r = simd.load(u, simd.plus(u_at, r * GROUP + v * simd.lanes))
            for total, z in zip(totals[r * gates : (r + 1) * gates], zs, strict=True):
                total.set(simd.fma(z, u_r, total.get()))


@vector_code(types.void, Address, Address, Address, Count, Count, Count, Count)
def outer4(simd: Simd, *arguments: Value) -> None:
    _outer(simd, 4, *arguments)


@vector_code(types.void, Address, Address, Address, Count, Count, Count, Count)
def outer1(simd: Simd, *arguments: Value) -> None:
    _outer(simd, 1, *arguments)


@vector_code(types.void, Address, Address, Count)
def flush(simd: Simd, sums: Value, target: Value, count: Value) -> None:
    """Add each vector's lanes to a float64 of the target, and clear the vector."""
    sums, target = simd.at(sums), simd.builder.inttoptr(target, FLOAT64.as_pointer())
    with simd.loop(count) as k:
        at = simd.times(k, simd.lanes)
        slot = simd.builder.gep(target, [k])
        total = simd.builder.fpext(simd.total(simd.load(sums, at)), FLOAT64)
        simd.builder.store(simd.builder.fadd(simd.builder.load(slot), total), slot)
        simd.store(simd.const(0), sums, at)


# ---- memory ----


@vector_code(Count)
def lanes(simd: Simd) -> Value:
    """Floats in a vector."""
    return simd.i64(simd.lanes)


@vector_code(types.void, Address, Address, Count, Count, Count)
def copy_rows(simd: Simd, source: Value, target: Value, rows: Value, source_row: Value, target_row: Value) -> None:
    """Copy rows that lie so many floats apart."""
    source, target = simd.at(source), simd.at(target)
    with simd.loop(rows) as k, simd.loop(GROUP // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        x = simd.load(source, simd.plus(simd.times(k, source_row), lane))
        simd.store(x, target, simd.plus(simd.times(k, target_row), lane))


@vector_code(types.void, Float, Address)
def multiply(simd: Simd, factor: Value, row: Value) -> None:
    factor, row = simd.splat(factor), simd.at(row)
    with simd.loop(GROUP // simd.lanes) as v:
        lane = simd.times(v, simd.lanes)
        simd.store(simd.mul(factor, simd.load(row, lane)), row, lane)


@vector_code(types.void, Float, Address)
def fill(simd: Simd, x: Value, row: Value) -> None:
    x, row = simd.splat(x), simd.at(row)
    with simd.loop(GROUP // simd.lanes) as v:
        simd.store(x, row, simd.times(v, simd.lanes))
