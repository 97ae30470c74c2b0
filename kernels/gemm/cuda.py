"""Batched products in CUDA C (gemm.cu) through CuPy: float32 or float64 CuPy arrays of any strides, on the current stream.

A module is compiled for the tile that fits the matrices on its first use; CuPy keeps it on disk.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .batch import backward, loops, matrix_steps, operands, result_shape

Array = Any  # cupy.ndarray
OPTIONS = ("-std=c++17",)
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
TILE_K = 32
BLOCKS_PER_MULTIPROCESSOR = 32


class Tile(NamedTuple):
    """Rows and columns of c that a block of threads computes at a time, each thread 16 entries."""

    rows: int
    columns: int

    @property
    def threads(self) -> int:
        return self.rows * self.columns // 16

    def shared_bytes(self, itemsize: int) -> int:
        return itemsize * TILE_K * (self.rows + 1 + self.columns + 1)


def matmul(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False, out: Array | None = None) -> Array:
    """c = op(a) op(b) (1). TypeError unless CuPy arrays of float32 or float64."""
    op_a, op_b = operands("matmul", a, b, transpose_a, transpose_b, out=out)
    _check_kind(a=a, b=b, **({} if out is None else {"out": out}))
    direct = out is not None and not any(np.may_share_memory(out, x) for x in (a, b))
    c = out if direct else np.empty_like(op_a, shape=result_shape(op_a, op_b), order="C")
    _multiply(op_a, op_b, c)
    if out is None or direct:
        return c
    out[...] = c
    return out


def matmul_vjp(
    d_c: Array, a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False
) -> tuple[Array, Array]:
    """(d_a, d_b) of (2), shaped like a and b, from d_c (..., m, n)."""
    return backward(matmul, d_c, a, b, transpose_a, transpose_b)


def _check_kind(**arrays: Any) -> None:
    import cupy

    for name, array in arrays.items():
        if not isinstance(array, cupy.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"matmul: {name} is a {kind}, expected a cupy.ndarray; use cupy.asarray")
        if array.dtype not in REAL:
            raise TypeError(f"matmul: {name} is {array.dtype}, expected float32 or float64; use .astype")


def _multiply(a: Array, b: Array, c: Array) -> None:
    if c.size == 0:
        return
    (m, k), n = a.shape[-2:], b.shape[-1]
    tile, itemsize = tile_for(m, n), a.dtype.itemsize
    function, most = _prepared(tile, a.dtype)
    for part in loops(a, b, c):
        blocks = part.outer * part.inner * -(-m // tile.rows) * -(-n // tile.columns)
        layouts = zip(part.first, part.outer_steps, part.inner_steps, map(matrix_steps, (a, b, c)), strict=True)
        numbers = [m, k, n, part.outer, part.inner]
        numbers += [step for first, outer, inner, steps in layouts for step in (first, outer, inner, *steps)]
        arguments = (a, b, c, *map(np.int64, numbers))
        function((min(blocks, most),), (tile.threads,), arguments, shared_mem=tile.shared_bytes(itemsize))


def tile_for(m: int, n: int) -> Tile:
    """The smallest tile that covers the matrix, or the largest there is."""
    return Tile(next((rows for rows in (16, 32) if m <= rows), 64), 32 if n <= 32 else 64)


def tuned() -> dict[str, tuple[int, int]]:
    """(threads, bytes of dynamic shared memory) of a block, as the .cu compiles without options: for 10 by 40."""
    tile = tile_for(10, 40)
    return {"multiply": (tile.threads, tile.shared_bytes(4))}


def _prepared(tile: Tile, dtype: np.dtype) -> tuple[Any, int]:
    """(the kernel, the most blocks of a launch)"""
    import cupy

    return _prepare(tile, dtype, cupy.cuda.runtime.getDevice())


@cache
def _prepare(tile: Tile, dtype: np.dtype, device: int) -> tuple[Any, int]:
    import cupy

    module = cupy.RawModule(code=source(tile, dtype), options=OPTIONS)
    multiprocessors = cupy.cuda.Device(device).attributes["MultiProcessorCount"]
    return module.get_function("multiply"), BLOCKS_PER_MULTIPROCESSOR * multiprocessors


def source(tile: Tile, dtype: np.dtype) -> str:
    """gemm.cu for this tile and dtype."""
    given = f"#define REAL {REAL[dtype]}\n#define TILE_M {tile.rows}\n#define TILE_N {tile.columns}\n"
    return given + Path(__file__).with_name("gemm.cu").read_text()
