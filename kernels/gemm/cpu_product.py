"""The compiled product of two small matrices, c = a b, by explicit vectors: what compiled code calls for one pair.

A block of c, up to 6 rows by 4 vectors, is summed in registers over the whole inner axis: a row of b is loaded as
vectors, an entry of a is read into all lanes. So a may have any strides; where the columns of b do not lie side by side,
b is first packed, 64 rows of 4 vectors at a time, on the stack. Lanes beyond the last column are masked: never read,
never written. The blocks of one matrix are of nearly equal size, since few rows do not fill the multipliers.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir

from ..simd import Simd, Value, cfunc, sources, types, vector_code
from ..simd.emit import INDEX

SOURCES = sources(__file__)
ROWS, DEPTH = 6, 64
VECTORS = {64: 4, 32: 2, 16: 2}
"""Vectors of a block, by the bytes of one: ROWS times so many sums, b's vectors and one entry of a fill the registers."""
Address, Count, Flag = types.int64, types.int64, types.boolean


def _width(simd: Simd) -> int:
    return simd.lanes * VECTORS[simd.lanes * simd.size]


# ---- vectors ----


@vector_code(types.void, *[Count] * 3, Address, Count, Count, Address, Count, Address, Count, Flag, like=True)
def panel(
    simd: Simd, m: Value, k: Value, n: Value, a: Value, a_row: Value, a_col: Value, b: Value, b_row: Value, c: Value,
    c_row: Value, add: Value,
) -> None:  # fmt: skip
    """c = a b, or c += a b, for up to `_width` columns; those of b lie side by side."""
    a, b, c = (simd.at(address) for address in (a, b, c))
    blocks = simd.ceil_div(m, ROWS)
    for vectors in simd.case(simd.ceil_div(n, simd.lanes), VECTORS[simd.lanes * simd.size]):
        rest = simd.plus(n, (1 - vectors) * simd.lanes)  # columns of the last vector
        with simd.loop(blocks) as block:
            first, end = (simd.builder.udiv(simd.times(m, simd.plus(block, e)), blocks) for e in (0, 1))
            here = simd.elements(a, simd.times(first, a_row)), simd.elements(c, simd.times(first, c_row))
            for rows in simd.case(simd.builder.sub(end, first), ROWS):
                _block(simd, rows, vectors, rest, k, here[0], a_row, a_col, b, b_row, here[1], c_row, add)


def _block(
    simd: Simd, rows: int, vectors: int, rest: Value, k: Value, a: Value, a_row: Value, a_col: Value, b: Value,
    b_row: Value, c: Value, c_row: Value, add: Value,
) -> None:  # fmt: skip
    last = [None] * (vectors - 1) + [simd.first(rest)]
    old = [simd.first(simd.i64(simd.lanes), add)] * (vectors - 1) + [simd.first(rest, add)]
    at = [[simd.plus(simd.times(c_row, r), v * simd.lanes) for v in range(vectors)] for r in range(rows)]
    sums = [[simd.variable(simd.load_where(old[v], c, at[r][v])) for v in range(vectors)] for r in range(rows)]
    a_rows = [simd.elements(a, simd.times(a_row, r)) for r in range(rows)]
    with simd.loop(k) as q:
        row, column = simd.elements(b, simd.times(q, b_row)), simd.times(q, a_col)
        entries = [_load(simd, last[v], row, v * simd.lanes) for v in range(vectors)]
        for r in range(rows):
            x = simd.broadcast(a_rows[r], column)
            for total, entry in zip(sums[r], entries, strict=True):
                total.set(simd.fma(x, entry, total.get()))
    for r in range(rows):
        for v in range(vectors):
            _store(simd, last[v], sums[r][v].get(), c, at[r][v])


def _load(simd: Simd, mask: Value | None, data: Value, index: Value | int) -> Value:
    return simd.load(data, index) if mask is None else simd.load_where(mask, data, index)


def _store(simd: Simd, mask: Value | None, value: Value, data: Value, index: Value) -> None:
    if mask is None:
        simd.store(value, data, index)
    else:
        simd.store_where(mask, value, data, index)


@vector_code(types.void, Count, Count, Address, Count, Address, Address, Count, Flag, like=True)
def dots(simd: Simd, m: Value, k: Value, a: Value, a_row: Value, b: Value, c: Value, c_row: Value, add: Value) -> None:
    """c = a b, or c += a b, for one column; the entries of b, and those of a row of a, lie side by side."""
    a, b, c = (simd.at(address) for address in (a, b, c))
    whole = simd.builder.udiv(k, simd.i64(simd.lanes))
    end = simd.times(whole, simd.lanes)
    mask = simd.first(simd.builder.sub(k, end))
    with simd.loop(m) as r:
        row = simd.elements(a, simd.times(r, a_row))
        start = simd.mul(simd.load_where(mask, row, end), simd.load_where(mask, b, end))
        total = simd.variable(start)
        with simd.loop(whole) as v:
            q = simd.times(v, simd.lanes)
            total.set(simd.fma(simd.load(row, q), simd.load(b, q), total.get()))
        slot = simd.elements(c, simd.times(r, c_row))
        old = simd.load_where(simd.first(simd.i64(1), add), slot, 0)
        value = simd.add(old, simd.splat(simd.total(total.get())))
        simd.store_where(simd.first(simd.i64(1)), value, slot, 0)


@vector_code(types.void, Address, Count, Count, Count, Address, like=True)
def pack_transposed(simd: Simd, b: Value, stride: Value, k: Value, n: Value, packed: Value) -> None:
    """packed[q, s] = b[s stride + q] for q < k <= DEPTH, s < n: tiles of one vector by one are transposed in registers."""
    b, packed = simd.at(b), simd.at(packed)
    last = simd.plus(n, -1)
    with simd.loop(simd.ceil_div(n, simd.lanes)) as i, simd.loop(simd.ceil_div(k, simd.lanes)) as j:
        s, q = simd.times(i, simd.lanes), simd.times(j, simd.lanes)
        mask = simd.first(simd.builder.sub(k, q))
        rows = [simd.minimum_index(simd.plus(s, lane), last) for lane in range(simd.lanes)]
        tile = [simd.load_where(mask, b, simd.plus(simd.times(row, stride), q)) for row in rows]
        for lane, column in enumerate(simd.transpose(tile)):
            simd.store(column, packed, simd.plus(simd.times(simd.plus(q, lane), _width(simd)), s))


@vector_code(types.void, Address, *[Count] * 4, Address, like=True)
def pack(simd: Simd, b: Value, b_row: Value, b_col: Value, k: Value, n: Value, packed: Value) -> None:
    """packed[q, s] = b[q b_row + s b_col] for q < k <= DEPTH, s < n."""
    b, packed = simd.at(b), simd.at(packed)
    with simd.loop(k) as q, simd.loop(n) as s:
        entry = simd.builder.load(simd.elements(b, simd.plus(simd.times(q, b_row), simd.times(s, b_col))))
        simd.builder.store(entry, simd.elements(packed, simd.plus(simd.times(q, _width(simd)), s)))


@vector_code(Address, like=True, inline=True)  # its memory is the caller's
def room(simd: Simd) -> Value:
    return simd.room(DEPTH * _width(simd))


@vector_code(Count, Count, like=True)
def columns(simd: Simd, n: Value) -> Value:
    """Of each panel of n columns: whole vectors, up to `_width` columns, nearly equally many."""
    vectors = simd.ceil_div(n, simd.lanes)
    panels = simd.ceil_div(n, _width(simd))
    panels = simd.builder.select(simd.builder.icmp_signed("<", panels, simd.i64(1)), simd.i64(1), panels)
    return simd.times(simd.builder.udiv(simd.builder.sub(simd.plus(vectors, panels), simd.i64(1)), panels), simd.lanes)


@vector_code(Count, like=True)
def width(simd: Simd) -> Value:
    return simd.i64(_width(simd))


@vector_code(Count, like=True)
def bytes_of_float(simd: Simd) -> Value:
    return simd.i64(simd.size)


# ---- one product ----


@vector_code(types.void, Address, *[Count] * 3, *[Address, Count, Count] * 2, Address, Count, Flag)
def product(simd: Simd, gemm: Value, *arguments: Value) -> None:
    """product(gemm, m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, add): c = a b, or c += a b if `add`.

    For compiled code, in parallel loops too: a is m by k, b k by n, c m by n. gemm is ``address(dtype)``, which must
    come from outside as an argument, since it is another one in each process. a, b, c are the addresses in bytes of
    their first entries; a_row, a_col, ... the steps in entries, of any sign, from a row or column to the next; columns
    of c lie side by side. c must not overlap a or b. A transposed operand is one with its two steps exchanged: free for a;
    of b, whose columns are best side by side, or of both in a product of k = 1, likewise.

        @njit(parallel=True, cache=True)
        def all_products(gemm, a, b, c):                  # contiguous (T, 10, 40), (T, 40, 40), (T, 10, 40)
            for t in prange(len(a)):
                product(gemm, 10, 40, 40, a[t].ctypes.data, 40, 1, b[t].ctypes.data, 40, 1, c[t].ctypes.data, 40, False)

        all_products(address(np.float32), a, b, c)
    """
    b = simd.builder
    kind = ir.FunctionType(INDEX, [INDEX] * 12)
    b.call(b.inttoptr(gemm, kind.as_pointer()), [*arguments[:-1], b.zext(arguments[-1], INDEX)])


def address(dtype: Any) -> int:
    """Of the function behind `product`, for float32 or float64: compiled on first use for this processor, then kept on disk.

    TypeError for another dtype.
    """
    return _entry(np.dtype(dtype), SOURCES).address


@functools.cache
def _entry(dtype: np.dtype, version: int) -> Any:
    """Numba keeps it on disk until this file or ``version``, which it stores with it, changes."""
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"gemm: the compiled product takes float32 or float64, not {dtype}; use .astype")
    zero = dtype.type(0)

    @cfunc(types.int64(*[types.int64] * 12), cache=True, error_model="numpy")
    def entry(m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, add):
        if m == 0 or n == 0:
            return version
        if a_col == 1 and b_row == 1 and n == 1:
            dots(m, k, a, a_row, b, c, c_row, add != 0, zero)
            return version
        if a_col == 1 and b_row == 1 and m == 1:  # c^T = b^T a^T
            dots(n, k, b, b_col, a, c, 1, add != 0, zero)
            return version
        if n == 1 and c_row == 1:  # a column of c is a row of c^T
            m, n, a, a_row, a_col, b, b_row, b_col = 1, m, b, b_col, b_row, a, a_col, a_row
        if n == 1:
            b_col = 1  # whatever it was, it is not taken
        size, step, packed = bytes_of_float(zero), columns(n, zero), room(zero)
        most = max(k, 1) if b_col == 1 else DEPTH
        for s in range(0, n, step):
            count = min(step, n - s)
            for q in range(0, max(k, 1), most):
                depth, a_q, b_q, b_q_row = (
                    min(most, k - q),
                    a + size * q * a_col,
                    b + size * (q * b_row + s * b_col),
                    b_row,
                )
                if b_col != 1:
                    if b_row == 1:
                        pack_transposed(b_q, b_col, depth, count, packed, zero)
                    else:
                        pack(b_q, b_row, b_col, depth, count, packed, zero)
                    b_q, b_q_row = packed, width(zero)
                panel(m, depth, count, a_q, a_row, a_col, b_q, b_q_row, c + size * s, c_row, add != 0 or q > 0, zero)
        return version

    return entry
