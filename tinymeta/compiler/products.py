"""Matrix products of known sizes as LLVM code: a block of c is summed in registers over the whole inner axis.

One function per sizes and strides, however often it is called: c (m, n) = a (m, k) b (k, n), the columns of c side by side. A row
of b is loaded by vectors, an entry of a is read into all lanes; a b whose columns do not lie side by side is copied first.
kernels/gemm has another one, for code that Numba compiles: its sizes are known when it runs, so it has masks, and Numba to load.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from .vectors import (
    BYTES,
    STRETCH,
    Code,
    across,
    address,
    function,
    index,
    intrinsic,
    load,
    loop,
    number,
    pieces,
    shuffle,
    store,
    summed,
)

LONG = 512  # of an inner axis, summed by itself: where a block of sums fills the registers, their totals go to memory


class Sizes(NamedTuple):
    """m, k, n, and the steps of a and b from row to row and column to column, in numbers; `c_row` from row to row of c."""

    m: int
    k: int
    n: int
    a_row: int
    a_col: int
    b_row: int
    b_col: int
    c_row: int


def room(s: Sizes, dtype: np.dtype) -> int:
    """Bytes that `product` needs for a copy of b."""
    return s.k * s.n * dtype.itemsize if _copies(_turned(s)[0]) else 0


def _turned(s: Sizes) -> tuple[Sizes, bool]:
    """Whether c^T = b^T a^T is better: for one column of c, whose rows then lie side by side."""
    if s.n == 1 and s.c_row == 1 and s.a_row == 1 and s.a_col != 1:
        return Sizes(1, s.k, s.m, s.b_col, s.b_row, s.a_col, s.a_row, s.m), True
    return s, False


def _copies(s: Sizes) -> bool:
    return s.n > 1 and s.b_col != 1


def product(b: ir.IRBuilder, s: Sizes, dtype: np.dtype, vector_bytes: int, matrices: list[Code], space: Code) -> None:
    """Call the function of these sizes on a, b, c and the room for a copy."""
    x, y, c = matrices
    s, turned = _turned(s)
    x, y = (y, x) if turned else (x, y)
    name = f"product_{dtype.str[1:]}_" + "_".join(map(str, s)).replace("-", "m")
    known = name in b.module.globals
    f = function(b.module, name, ir.VoidType(), [BYTES] * 4)
    if not known:
        f.linkage = "internal"
        _define(f, s, dtype, vector_bytes)
    b.call(f, [x, y, c, space])


def _define(f: ir.Function, s: Sizes, dtype: np.dtype, vector_bytes: int) -> None:
    b = ir.IRBuilder(f.append_basic_block())
    lanes = vector_bytes // dtype.itemsize
    x, y, c, space = f.args
    if s.n == 1 and s.a_col == 1 and s.b_row == 1:
        _dots(b, s, dtype, lanes, x, y, c)
    else:
        if _copies(s):
            _side_by_side(b, s, dtype, lanes, y, space)
            y, s = space, s._replace(b_row=s.n, b_col=1)
        _blocks(b, s, dtype, lanes, vector_bytes, x, y, c)
    b.ret_void()


class Panels(NamedTuple):
    """So many panels of c, side by side from column `first` on: each is of vectors of these widths, which fill the registers."""

    first: int
    widths: tuple[int, ...]
    times: int

    @property
    def columns(self) -> int:
        return sum(self.widths)


def _panels(n: int, lanes: int, most: int) -> list[Panels]:
    """n columns in as few panels of at most so many vectors as can be, the fuller ones first; equal ones are one loop."""
    widths = [width for _, count, width in pieces(n, lanes) for _ in range(count)]
    number = -(-len(widths) // most)
    fewer, fuller = divmod(len(widths), number)
    ends = [p * fewer + min(p, fuller) for p in range(number + 1)]
    found, first = [], 0
    for part, group in itertools.groupby(tuple(widths[a:z]) for a, z in itertools.pairwise(ends)):
        found.append(Panels(first, part, len(list(group))))
        first += found[-1].times * found[-1].columns
    return found


def _blocks(
    b: ir.IRBuilder, s: Sizes, dtype: np.dtype, lanes: int, vector_bytes: int, x: Code, y: Code, c: Code
) -> None:
    most, registers = (4, 28) if vector_bytes == 64 else (2, 12)
    for panels in _panels(s.n, lanes, most):
        vectors = len(panels.widths)
        rows = min(s.m, max(1, (registers - vectors) // vectors), 8)
        rows = -(-s.m // -(-s.m // rows))
        whole, rest = divmod(s.m, rows)

        def panel(
            j: Code, _: list, panels: Panels = panels, rows: int = rows, whole: int = whole, rest: int = rest
        ) -> list:
            def block(k: Code, _: list) -> list:
                _block(b, s, dtype, rows, panels, j, b.mul(k, index(rows)), x, y, c)
                return []

            loop(b, whole, [], block)
            if rest:
                _block(b, s, dtype, rest, panels, j, index(whole * rows), x, y, c)
            return []

        loop(b, panels.times, [], panel)


def _block(
    b: ir.IRBuilder, s: Sizes, dtype: np.dtype, rows: int, panels: Panels, panel: Code, row: Code, x: Code, y: Code, c: Code
) -> None:  # fmt: skip
    widths = panels.widths
    starts = [panels.first + sum(widths[:v]) for v in range(len(widths))]
    right = (panel, panels.columns)

    def step(q: Code, sums: list[Code]) -> list[Code]:
        line = [
            load(b, address(b, y, at, [(q, s.b_row), right], dtype.itemsize), dtype, w, 1)
            for at, w in zip(starts, widths, strict=True)
        ]
        result = []
        for r in range(rows):
            entry = address(b, x, r * s.a_row, [(row, s.a_row), (q, s.a_col)], dtype.itemsize)
            for v, w in enumerate(widths):
                spread = load(b, entry, dtype, w, 0)
                result.append(intrinsic(b, "fmuladd", dtype, w, spread, line[v], sums[r * len(widths) + v]))
        return result

    sums = _summed(b, s.k, [number(0, dtype, w) for _ in range(rows) for w in widths], step, LONG)
    for r in range(rows):
        for v, w in enumerate(widths):
            to = address(b, c, r * s.c_row + starts[v], [(row, s.c_row), right], dtype.itemsize)
            store(b, sums[r * len(widths) + v], to, dtype, w, 1)


def _summed(
    b: ir.IRBuilder, k: int, zeros: list[Code], step: Callable[[Code, list[Code]], list[Code]], stretch: int
) -> list[Code]:
    """The sums over an inner axis of length k."""
    return summed(b, k, zeros, step, lambda xs, ys: [b.fadd(x, y) for x, y in zip(xs, ys, strict=True)], stretch)


def _dots(b: ir.IRBuilder, s: Sizes, dtype: np.dtype, lanes: int, x: Code, y: Code, c: Code) -> None:
    """One column of c: rows of a times b, each along its length."""
    width = min(lanes, 1 << (s.k.bit_length() - 1))
    whole = s.k // width

    def row(r: Code, _: list) -> list:
        def step(q: Code, sums: list[Code]) -> list[Code]:
            at = [
                address(b, p, 0, steps, dtype.itemsize)
                for p, steps in ((x, [(r, s.a_row), (q, width)]), (y, [(q, width)]))
            ]
            return [intrinsic(b, "fmuladd", dtype, width, *(load(b, p, dtype, width, 1) for p in at), sums[0])]

        total = across(b, "sum", _summed(b, whole, [number(0, dtype, width)], step, STRETCH)[0], dtype, width)

        def rest(q: Code, sums: list[Code]) -> list[Code]:
            at = [
                address(b, p, whole * width, steps, dtype.itemsize)
                for p, steps in ((x, [(r, s.a_row), (q, 1)]), (y, [(q, 1)]))
            ]
            return [intrinsic(b, "fmuladd", dtype, 1, *(load(b, p, dtype, 1, 1) for p in at), sums[0])]

        if s.k % width:
            total = loop(b, s.k % width, [total], rest)[0]
        store(b, total, address(b, c, 0, [(r, s.c_row)], dtype.itemsize), dtype, 1, 1)
        return []

    loop(b, s.m, [], row)


def _side_by_side(b: ir.IRBuilder, s: Sizes, dtype: np.dtype, lanes: int, y: Code, space: Code) -> None:
    """space (k, n) = b; tiles are transposed in registers where the rows of b lie side by side."""
    if s.b_row == 1:
        for q, rows, h in pieces(s.k, lanes):
            for j, columns, w in pieces(s.n, lanes):
                side = min(h, w)
                _tiles(b, s, dtype, y, space, (q, rows * h // side), (j, columns * w // side), side)
        return

    def row(q: Code, _: list) -> list:
        def column(j: Code, _: list) -> list:
            entry = load(b, address(b, y, 0, [(q, s.b_row), (j, s.b_col)], dtype.itemsize), dtype, 1, 1)
            store(b, entry, address(b, space, 0, [(q, s.n), (j, 1)], dtype.itemsize), dtype, 1, 1)
            return []

        return loop(b, s.n, [], column)

    loop(b, s.k, [], row)


def _tiles(
    b: ir.IRBuilder, s: Sizes, dtype: np.dtype, y: Code, space: Code, down: tuple[int, int], right: tuple[int, int], side: int
) -> None:  # fmt: skip
    """Square tiles, so many down and right from a first row and column of b: transposed on the way."""
    (q, rows), (j, columns) = down, right

    def tile(at_q: Code, at_j: Code, _: list) -> list:
        lines = [
            load(
                b,
                address(b, y, (j + i) * s.b_col + q, [(at_j, side * s.b_col), (at_q, side)], dtype.itemsize),
                dtype,
                side,
                1,
            )
            for i in range(side)
        ]
        for i, line in enumerate(_transposed(b, lines)):
            to = address(b, space, (q + i) * s.n + j, [(at_q, side * s.n), (at_j, side)], dtype.itemsize)
            store(b, line, to, dtype, side, 1)
        return []

    loop(b, rows, [], lambda at_q, _: loop(b, columns, [], partial(tile, at_q)))


def _transposed(b: ir.IRBuilder, rows: list[Code]) -> list[Code]:
    """A square of numbers, one vector per row, with rows and columns exchanged: bit by bit of their numbers."""
    rows, side = list(rows), len(rows)
    bit = side // 2
    while bit:
        upper = [j if not j & bit else side + j - bit for j in range(side)]
        lower = [j + bit if not j & bit else side + j for j in range(side)]
        for i in range(side):
            if not i & bit:
                pair = rows[i], rows[i + bit]
                rows[i], rows[i + bit] = shuffle(b, *pair, upper), shuffle(b, *pair, lower)
        bit //= 2
    return rows
