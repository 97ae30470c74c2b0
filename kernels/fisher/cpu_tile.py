"""The inner products of the CPU's Fisher kernels: a tile of 9 rows by up to 48 columns, summed in registers.

Arrays come as addresses in bytes. Matrices to multiply by lie in strips: (count, width) with 48 columns each and the rest
in the last one, padded to a multiple of 16 by zeros, one strip after another. So what is read is read in order, and no
tile is ragged. On processors with narrower vectors a tile is summed in several parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from ..simd import Simd, Value, tanh_ratio, types, vector_code

ROWS, STRIP, PAD = 9, 48, 16
PART = {16: (9, 3), 8: (5, 2), 4: (5, 2)}
"""Rows and vectors summed at once, by the lanes of a vector: as many sums as the registers hold."""
IDENTITY, RELU, TANH = 0, 1, 2
"""Activations; their slope is taken from their value."""
Address, Count = types.int64, types.int64


def padded(columns: int) -> int:
    """Columns with those that fill the last vector."""
    return -(-columns // PAD) * PAD


def row_stride(inputs: int) -> int:
    """Floats of a row of so many inputs and a one, that `square_runs` may read to the end of its last panel."""
    return padded((inputs // ROWS + 1) * ROWS + PAD - ROWS)


@vector_code(types.void, Address, Count, Address, Count, Count, Address)
def dense_tile(simd: Simd, rows: Value, stride: Value, strip: Value, count: Value, width: Value, out: Value) -> None:
    """out (9, width) = rows (9, count) @ strip (count, width); a row begins `stride` floats after the one before."""
    _tile(simd, "dense", ROWS, width, rows, stride, strip, count, out)


@vector_code(types.void, Address, Count, Count, Address, Address, Count, Count, Address)
def sparse_tile(
    simd: Simd, rows: Value, stride: Value, R: Value, live: Value, strip: Value, count: Value, width: Value, out: Value
) -> None:
    """The same for R <= 9 rows, that are 0 but in the columns live[0], ..., live[count - 1] (int64)."""
    for some in range(1, ROWS + 1):
        with simd.builder.if_then(simd.builder.icmp_signed("==", R, simd.i64(some))):
            _tile(simd, "sparse", some, width, rows, stride, strip, count, out, live)


@vector_code(types.void, Address, Address, Count, Count, Address)
def panel_tile(simd: Simd, panel: Value, strip: Value, count: Value, width: Value, out: Value) -> None:
    """out (9, width) = panel (count, 9)^T @ strip (count, width)"""
    _tile(simd, "panel", ROWS, width, panel, simd.i64(1), strip, count, out)


def _tile(simd: Simd, kind: str, R: int, width: Value, *arguments: Value) -> None:
    """Call the function of this width, made when it is first asked for.

    A function of its own, never inlined, has all registers for its sums.
    """
    for columns in range(PAD, STRIP + 1, PAD):
        with simd.builder.if_then(simd.builder.icmp_signed("==", width, simd.i64(columns))):
            name = f"{kind}_tile_{R}_{columns}"
            function = simd.builder.module.globals.get(name) or _function(simd, name, kind, R, columns, len(arguments))
            simd.builder.call(function, arguments)


def _function(simd: Simd, name: str, kind: str, R: int, width: int, arguments: int) -> Value:
    signature = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * arguments)
    function = ir.Function(simd.builder.module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    inside = Simd(ir.IRBuilder(function.append_basic_block()), simd.lanes)
    most, side = PART[simd.lanes]
    vectors = width // simd.lanes
    for first in range(0, R, most):
        for v in range(0, vectors, side):
            part = range(first, min(first + most, R)), range(v, min(v + side, vectors))
            _part(inside, kind, *part, width, *function.args)
    inside.builder.ret_void()
    return function


def _part(
    simd: Simd, kind: str, rows: range, vectors: range, width: int, matrix: Value, stride: Value, strip: Value,
    count: Value, out: Value, *live: Value,
) -> None:  # fmt: skip
    """The sums of some rows and vectors of a tile, over k: of the entries (r, k) of a matrix times row k of a strip."""
    matrix, strip, out = map(simd.at, (matrix, strip, out))
    starts = {r: simd.builder.gep(matrix, [simd.times(stride, r)]) for r in rows}
    sums = {(r, v): simd.variable(simd.const(0)) for r in rows for v in vectors}
    with simd.loop(count) as q:
        k = q if kind != "sparse" else simd.builder.load(simd.builder.gep(_integers(simd, *live), [q]))
        row = {v: simd.load(strip, simd.plus(simd.times(k, width), v * simd.lanes)) for v in vectors}
        for r in rows:
            x = simd.broadcast(starts[r], simd.times(k, ROWS) if kind == "panel" else k)
            for v in vectors:
                sums[r, v].set(simd.fma(x, row[v], sums[r, v].get()))
        _keep_rolled(simd)
    for (r, v), total in sums.items():
        simd.store(total.get(), out, r * width + v * simd.lanes)


def _keep_rolled(simd: Simd) -> None:
    """Nothing, which may not be copied: were the loop unrolled, there would be more numbers in flight than registers."""
    nothing = simd.builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)
    nothing.attributes.add("convergent")


def _integers(simd: Simd, address: Value) -> Value:
    return simd.builder.inttoptr(address, ir.IntType(64).as_pointer())


# ---- what becomes of a tile ----


@vector_code(types.void, Address, Count, Address, Count, Address)
def activate(simd: Simd, sums: Value, width: Value, bias: Value, act: Value, out: Value) -> None:
    """out = act(sums + bias), `width` floats each; act is IDENTITY, RELU or TANH."""
    sums, bias, out = simd.at(sums), simd.at(bias), simd.at(out)
    is_relu, is_tanh = (simd.builder.icmp_signed("==", act, simd.i64(code)) for code in (RELU, TANH))
    with _vectors(simd, width) as at:
        z = simd.add(simd.load(sums, at), simd.load(bias, at))
        simd.store(z, out, at)
        with simd.builder.if_then(is_relu):
            simd.store(simd.where(simd.builder.fcmp_ordered("<=", z, simd.const(0)), simd.const(0), z), out, at)
        with simd.builder.if_then(is_tanh):
            simd.store(simd.div(*tanh_ratio(simd, z)), out, at)


@vector_code(types.void, Address, Count, Count, Address, Count, Address, types.boolean, Address, Count, Address)
def cotangents(
    simd: Simd, sums: Value, R: Value, width: Value, h: Value, act: Value, squares: Value, add: Value, out: Value,
    stride: Value, sizes: Value,
) -> None:  # fmt: skip
    """d = sums (R, width) times the slope at h = act(z), into out, whose rows are `stride` floats apart; squares become
    sum_r d^2, or are added to, and so sizes sum_r |d|. An `out` of 0 is not wanted, and then sizes are not either."""
    sums, h, squares, wanted = (*map(simd.at, (sums, h, squares)), simd.builder.icmp_signed("!=", out, simd.i64(0)))
    out, sizes = simd.at(out), simd.at(sizes)
    is_relu = simd.builder.icmp_signed("==", act, simd.i64(RELU))
    zero, one = simd.const(0), simd.const(1)
    with _vectors(simd, width) as at:
        value = simd.load(h, at)
        step = simd.where(simd.less(zero, value), one, zero)
        slope = simd.builder.select(is_relu, step, simd.sub(one, simd.mul(value, value)))
        total, size = simd.variable(simd.builder.select(add, simd.load(squares, at), zero)), simd.variable(zero)
        with simd.loop(R) as r:
            d = simd.mul(simd.load(sums, simd.plus(simd.times(r, width), at)), slope)
            total.set(simd.fma(d, d, total.get()))
            size.set(simd.add(simd.absolute(d), size.get()))
            with simd.builder.if_then(wanted):
                simd.store(d, out, simd.plus(simd.times(r, stride), at))
        simd.store(total.get(), squares, at)
        with simd.builder.if_then(wanted):
            simd.store(size.get(), sizes, at)


@vector_code(types.void, Address, Count, Count, Address)
def square_runs(simd: Simd, rows: Value, stride: Value, count: Value, out: Value) -> None:
    """out (count, 9) = squares of the first 9 of each row, and 7 floats more after them."""
    rows, out = simd.at(rows), simd.at(out)
    with simd.loop(count) as n:
        for v in range(0, PAD, simd.lanes):
            x = simd.load(rows, simd.plus(simd.times(stride, n), v))
            simd.store(simd.mul(x, x), out, simd.plus(simd.times(n, ROWS), v))


@vector_code(types.void, Address, Address, Address, Count, types.boolean, types.float32)
def collect(simd: Simd, sums: Value, row: Value, lost: Value, count: Value, add: Value, scale: Value) -> None:
    """row = sums * scale, or if `add` (row + sums) * scale, `count` floats each.

    `lost` has what rounding has taken from the row so far, and is written (Kahan 1965); an address of 0 is not wanted. Of a
    total that is inf it is 0: inf - inf would make the next one NaN.
    """
    kept = simd.builder.icmp_signed("!=", lost, simd.i64(0))
    sums, row, lost = map(simd.at, (sums, row, lost))
    whole = simd.builder.sdiv(count, simd.i64(simd.lanes))
    with simd.loop(whole) as v:
        _collect(simd, sums, row, lost, simd.times(v, simd.lanes), kept, add, scale)
    single = Simd(simd.builder, 1)
    done = simd.times(whole, simd.lanes)
    with simd.loop(simd.builder.sub(count, done)) as j:
        _collect(single, sums, row, lost, simd.plus(done, j), kept, add, scale)


def _collect(
    simd: Simd, sums: Value, row: Value, lost: Value, at: Value, kept: Value, add: Value, scale: Value
) -> None:
    term, zero = simd.load(sums, at), simd.const(0)
    before, missing = simd.variable(zero), simd.variable(zero)
    with simd.builder.if_then(add):
        before.set(simd.load(row, at))
        missing.set(simd.load(lost, at))
    term = simd.sub(term, missing.get())
    total = simd.add(before.get(), term)
    with simd.builder.if_then(kept):
        rounding = simd.sub(simd.sub(total, before.get()), term)
        simd.store(simd.where(simd.less(total, simd.const(float("inf"))), rounding, zero), lost, at)
    simd.store(simd.mul(total, simd.splat(scale)), row, at)


@contextmanager
def _vectors(simd: Simd, width: Value) -> Iterator[Value]:
    with simd.loop(simd.builder.sdiv(width, simd.i64(simd.lanes))) as v:
        yield simd.times(v, simd.lanes)
