"""LLVM code for vectors of any dtype, by llvmlite: types, loops with values that go round, loads, stores and elementwise functions.

Explicit vectors and no optimiser: LLVM needs half a second for a program whose loops it takes half a minute to vectorise by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

Code = Any
"""A value of LLVM code (llvmlite has no types for mypy)."""
BYTE, INDEX, BIT = ir.IntType(8), ir.IntType(64), ir.IntType(1)
BYTES = BYTE.as_pointer()
NUMBERS = {"f4": ir.FloatType(), "f8": ir.DoubleType(), "i8": ir.IntType(64), "i4": ir.IntType(32), "b1": BIT}
SUFFIX = {"f4": "f32", "f8": "f64"}
STRETCH = 32  # of an axis, summed by itself: few bits are lost, and few additions are made beside


def supported(dtype: np.dtype) -> bool:
    return dtype.str[1:] in NUMBERS and dtype.isnative


def kind(dtype: np.dtype, width: int) -> Any:
    """The type of so many numbers in a register."""
    number = NUMBERS[dtype.str[1:]]
    return number if width == 1 else ir.VectorType(number, width)


def index(k: int) -> Code:
    return ir.Constant(INDEX, int(k))


def number(x: Any, dtype: np.dtype, width: int) -> Code:
    """The same number, rounded to the dtype, in every lane."""
    one = dtype.type(x)
    plain: Any = bool(one) if dtype.kind == "b" else int(one) if dtype.kind in "iu" else float(one)
    return ir.Constant(kind(dtype, width), plain if width == 1 else [plain] * width)


def loop(
    b: ir.IRBuilder, count: int | Code, carried: Sequence[Code], body: Callable[[Code, list[Code]], Sequence[Code]]
) -> list[Code]:
    """body(k, carried) for k = 0, ..., count - 1 >= 0: it returns the values that go into the next round, and out at the end."""
    if isinstance(count, int) and count == 1:
        return list(body(index(0), list(carried)))
    before, inside = b.block, b.append_basic_block()
    b.branch(inside)
    b.position_at_end(inside)
    k = b.phi(INDEX)
    rounds = [b.phi(x.type) for x in carried]
    results = list(body(k, rounds))
    following = b.add(k, index(1))
    last, after = b.block, b.append_basic_block()
    end = index(count) if isinstance(count, int) else count
    b.cbranch(b.icmp_signed("<", following, end), inside, after)
    for phi, first, later in zip([k, *rounds], [index(0), *carried], [following, *results], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, last)
    b.position_at_end(after)
    return results


def summed(
    b: ir.IRBuilder,
    count: int,
    zeros: list[Code],
    step: Callable[[Code, list[Code]], Sequence[Code]],
    add: Callable,
    stretch: int = STRETCH,
) -> list[Code]:
    """The sums to which step(k, sums) adds for k = 0, ..., count - 1: long ones in stretches, and these in stretches.

    They lose the bits of a stretch for each of these floors, where one long sum loses those of its length.
    """

    def part(first: Code, length: Code, most: int) -> list[Code]:
        if most <= stretch:
            return loop(b, length, zeros, lambda k, sums: step(b.add(first, k), sums))
        size = stretch
        while size * stretch < most:
            size *= stretch

        def one(k: Code, totals: list[Code]) -> list[Code]:
            start = b.mul(k, index(size))
            rest = b.sub(length, start)
            here = b.select(b.icmp_signed("<", rest, index(size)), rest, index(size))
            return add(totals, part(b.add(first, start), here, size))

        return loop(b, b.sdiv(b.add(length, index(size - 1)), index(size)), zeros, one)

    return loop(b, count, zeros, step) if count <= stretch else part(index(0), index(count), count)


def pieces(size: int, lanes: int) -> list[tuple[int, int, int]]:
    """(first index, number of vectors, width): whole vectors, then halves, quarters... of one."""
    parts, first, width = [], 0, lanes
    while first < size:
        count = (size - first) // width
        if count:
            parts.append((first, count, width))
            first += count * width
        width //= 2
    return parts


def intrinsic(b: ir.IRBuilder, name: str, dtype: np.dtype, width: int, *xs: Code) -> Code:
    """One of LLVM's functions of floats, such as sqrt."""
    number_of = kind(dtype, width)
    suffix = SUFFIX[dtype.str[1:]] if width == 1 else f"v{width}{SUFFIX[dtype.str[1:]]}"
    return b.call(function(b.module, f"llvm.{name}.{suffix}", number_of, [number_of] * len(xs)), xs)


def function(module: ir.Module, name: str, result: Any, arguments: list) -> ir.Function:
    known = module.globals.get(name)
    return known if known is not None else ir.Function(module, ir.FunctionType(result, arguments), name)


def by_lanes(b: ir.IRBuilder, name: str, dtype: np.dtype, width: int, *xs: Code) -> Code:
    """A function of the C library, one lane after another."""
    one = kind(dtype, 1)
    f = function(b.module, name + ("f" if dtype.itemsize == 4 else ""), one, [one] * len(xs))
    if width == 1:
        return b.call(f, xs)
    result = ir.Constant(kind(dtype, width), ir.Undefined)
    for lane in range(width):
        at = ir.Constant(ir.IntType(32), lane)
        result = b.insert_element(result, b.call(f, [b.extract_element(x, at) for x in xs]), at)
    return result


def splat(b: ir.IRBuilder, x: Code, width: int) -> Code:
    if width == 1:
        return x
    empty = ir.Constant(ir.VectorType(x.type, width), ir.Undefined)
    zero = ir.Constant(ir.IntType(32), 0)
    return b.shuffle_vector(
        b.insert_element(empty, x, zero), empty, ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
    )


def shuffle(b: ir.IRBuilder, x: Code, y: Code, lanes: Sequence[int]) -> Code:
    """Lanes of x, then of y, counted on."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes)))


def address(b: ir.IRBuilder, base: Code, offset: int, steps: Sequence[tuple[Code, int]], size: int) -> Code:
    """base + offset + sum of index times step, of numbers of `size` bytes: a pointer to bytes."""
    at = index(offset * size)
    for k, step in steps:
        if step and not (isinstance(k, ir.Constant) and k.constant == 0):
            at = b.add(at, b.mul(k, index(step * size)))
    return b.gep(base, [at])


def load(b: ir.IRBuilder, at: Code, dtype: np.dtype, width: int, step: int) -> Code:
    """`width` numbers, `step` apart: one broadcast for step 0, one vector for step 1."""
    if width == 1 or step == 0:
        return splat(b, _from_memory(b, b.load(_pointer(b, at, dtype, 1), align=dtype.itemsize), dtype, 1), width)
    if step == 1:
        return _from_memory(b, b.load(_pointer(b, at, dtype, width), align=dtype.itemsize), dtype, width)
    result = ir.Constant(kind(dtype, width), ir.Undefined)
    for lane in range(width):
        one = load(b, b.gep(at, [index(lane * step * dtype.itemsize)]), dtype, 1, 0)
        result = b.insert_element(result, one, ir.Constant(ir.IntType(32), lane))
    return result


def store(b: ir.IRBuilder, x: Code, at: Code, dtype: np.dtype, width: int, step: int) -> None:
    if width == 1 or step == 1:
        memory = b.zext(x, BYTE if width == 1 else ir.VectorType(BYTE, width)) if dtype.kind == "b" else x
        b.store(memory, _pointer(b, at, dtype, width), align=dtype.itemsize)
        return
    for lane in range(width):
        one = b.extract_element(x, ir.Constant(ir.IntType(32), lane))
        store(b, one, b.gep(at, [index(lane * step * dtype.itemsize)]), dtype, 1, 1)


def _pointer(b: ir.IRBuilder, at: Code, dtype: np.dtype, width: int) -> Code:
    number_of = BYTE if dtype.kind == "b" else NUMBERS[dtype.str[1:]]
    return b.bitcast(at, (number_of if width == 1 else ir.VectorType(number_of, width)).as_pointer())


def _from_memory(b: ir.IRBuilder, x: Code, dtype: np.dtype, width: int) -> Code:
    if dtype.kind != "b":
        return x
    return b.icmp_signed("!=", x, ir.Constant(x.type, 0 if width == 1 else [0] * width))


def combine(b: ir.IRBuilder, how: str, x: Code, y: Code, dtype: np.dtype, width: int) -> Code:
    """x + y, or the larger or smaller (NaN if one is)."""
    if how in ("max", "min"):
        if dtype.kind == "f":
            return intrinsic(b, "maximum" if how == "max" else "minimum", dtype, width, x, y)
        return b.select(b.icmp_signed(">" if how == "max" else "<", x, y), x, y)
    return b.fadd(x, y) if dtype.kind == "f" else b.add(x, y)


def across(b: ir.IRBuilder, how: str, x: Code, dtype: np.dtype, width: int) -> Code:
    """The lanes combined to one number, by halves."""
    while width > 1:
        width //= 2
        low, high = (shuffle(b, x, x, range(first, first + width)) for first in (0, width))
        if width == 1:
            zero = ir.Constant(ir.IntType(32), 0)
            low, high = b.extract_element(low, zero), b.extract_element(high, zero)
        x = combine(b, how, low, high, dtype, width)
    return x


def convert(b: ir.IRBuilder, x: Code, source: np.dtype, target: np.dtype, width: int) -> Code:
    """x in another dtype, as NumPy's astype."""
    if source == target:
        return x
    to = kind(target, width)
    if target.kind == "b":
        zero = number(0, source, width)
        return b.fcmp_unordered("!=", x, zero) if source.kind == "f" else b.icmp_signed("!=", x, zero)
    if source.kind == "f" and target.kind == "f":
        return b.fptrunc(x, to) if target.itemsize < source.itemsize else b.fpext(x, to)
    if source.kind == "f":
        return b.fptosi(x, to)
    if target.kind == "f":
        return b.uitofp(x, to) if source.kind == "b" else b.sitofp(x, to)
    if source.kind == "b":
        return b.zext(x, to)
    return b.trunc(x, to) if target.itemsize < source.itemsize else b.sext(x, to)
