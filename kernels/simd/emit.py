"""Vectors of floats as LLVM code: each method adds instructions to a builder and returns the value they give."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .without_jit import called_by_python, disabled

Value = Any
"""A value of LLVM code (llvmlite has no types for mypy)."""
FLOAT, FLOAT64, INT, INDEX = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
LLVM = {types.void: ir.VoidType(), types.int64: INDEX, types.float32: FLOAT, types.boolean: ir.IntType(1)}
FASTMATH: tuple[str, ...] = ()
"""LLVM's fast-math flags on every division, such as ("arcp", "afn"); none: division rounds correctly."""
_serial = itertools.count()


def native_lanes(context: Any) -> int:
    """float32 lanes in a vector register of the processor that Numba's context compiles for: 16, 8 or 4."""
    features = context.codegen().magic_tuple()[2]
    return 16 if "+avx512f" in features else 8 if "+avx," in features else 4


def vector_code(result: Any, *kinds: Any, like: bool = False, inline: bool = False) -> Callable[[Callable], Any]:
    """Decorate emit(simd, *values) into a function that compiled code calls with arguments of these types, which are among
    Numba's int64, float32 and boolean; the result's may be void.

    ``emit`` adds the instructions to simd and returns the result's value, or None for void. They become one function of a
    compiled module, however often it is called there, which LLVM may inline; or, if ``inline``, part of each caller. The
    vectors are of float32, or if ``like`` of the dtype of one more argument, float32 or float64, that emit does not see.
    """

    def decorate(emit: Callable) -> Any:
        name = f"{emit.__module__}.{emit.__qualname__}.{next(_serial)}"
        kind = ir.FunctionType(LLVM[result], [LLVM[k] for k in kinds])

        def function(module: ir.Module, context: Any, dtype: Any) -> ir.Function:
            lanes, number = _vectors(context, dtype)
            return _function(module, f"{name}.{number}", kind, emit, Simd(ir.IRBuilder(), lanes, number, heap=inline))

        if disabled():
            return called_by_python(function, result, kinds, like)

        def definition(typing: Any, *arguments: Any) -> tuple[Any, Callable]:
            def code(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Value]) -> Value:
                dtype, given = arguments[-1] if like else types.float32, values[: len(kinds)]
                if inline:
                    value = emit(Simd(builder, *_vectors(context, dtype)), *given)
                else:
                    value = builder.call(function(builder.module, context, dtype), given)
                return context.get_dummy_value() if result == types.void else value

            return result(*kinds, *arguments[len(kinds) :]), code

        names = ["typing", *(f"x{k}" for k in range(len(kinds) + like))]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        definition.__name__, definition.__doc__ = emit.__name__, emit.__doc__
        definition.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Numba reads it
        return intrinsic(definition)

    return decorate


def _vectors(context: Any, dtype: Any) -> tuple[int, ir.Type]:
    """The lanes of a vector, and the type of one."""
    double = dtype == types.float64
    return native_lanes(context) // (1 + double), FLOAT64 if double else FLOAT


def _function(module: ir.Module, name: str, kind: ir.FunctionType, emit: Callable, simd: Simd) -> ir.Function:
    """The module's function of this name, which is what emit emits."""
    if name not in module.globals:
        function = ir.Function(module, kind, name)
        function.linkage = "internal"
        simd.builder.position_at_end(function.append_basic_block())
        value = emit(simd, *function.args)
        simd.builder.ret_void() if value is None else simd.builder.ret(value)
    return module.globals[name]


class Variable:
    """A vector that a loop's body changes: ``get`` and ``set``. LLVM keeps it in a register, not in memory."""

    def __init__(self, builder: ir.IRBuilder, value: Value) -> None:
        self._builder, self._slot = builder, cgutils.alloca_once_value(builder, value)

    def get(self) -> Value:
        return self._builder.load(self._slot)

    def set(self, value: Value) -> None:
        self._builder.store(value, self._slot)


class Simd:
    """Instructions on vectors of so many lanes. Indices count floats, are int64, and need no alignment."""

    def __init__(self, builder: ir.IRBuilder, lanes: int = 16, number: Any = FLOAT, heap: bool = False) -> None:
        self.heap = heap
        self.builder, self.lanes, self.number, self.size = builder, lanes, number, 8 if number is FLOAT64 else 4
        self.vector, self.integers = ir.VectorType(number, lanes), ir.VectorType(INT, lanes)

    # ---- constants, indices and loops ----

    def const(self, x: float) -> Value:
        """The same number, rounded to the vector's dtype, in every lane."""
        return ir.Constant(self.vector, [float(np.float32(x)) if self.size == 4 else float(x)] * self.lanes)

    def bits(self, k: int) -> Value:
        """The same 32 bits in every lane, as integers."""
        return ir.Constant(self.integers, [k] * self.lanes)

    def i64(self, k: int) -> Value:
        return ir.Constant(INDEX, k)

    def plus(self, index: Value, other: Value | int) -> Value:
        """index + other, of indices."""
        return self.builder.add(index, self._index(other))

    def times(self, index: Value, other: Value | int) -> Value:
        """index * other, of indices."""
        return self.builder.mul(index, self._index(other))

    def _index(self, k: Value | int) -> Value:
        return self.i64(k) if isinstance(k, int) else k

    @contextmanager
    def loop(self, count: Value | int) -> Iterator[Value]:
        """``with simd.loop(count) as k:`` the body's instructions run for k = 0, ..., count - 1."""
        with cgutils.for_range(self.builder, self._index(count)) as body:
            yield body.index

    def ceil_div(self, index: Value, divisor: int) -> Value:
        """index / divisor, rounded up, of indices that are not negative."""
        return self.builder.udiv(self.plus(index, divisor - 1), self.i64(divisor))

    def minimum_index(self, index: Value, other: Value | int) -> Value:
        other = self._index(other)
        return self.builder.select(self.builder.icmp_signed("<", index, other), index, other)

    def case(self, index: Value, most: int) -> Iterator[int]:
        """``for k in simd.case(index, most):`` each k = 1, ..., most has its own body, which runs if the index is k."""
        end = self.builder.append_basic_block("end")
        switch = self.builder.switch(index, end)
        for k in range(1, most + 1):
            block = self.builder.append_basic_block(f"case{k}")
            switch.add_case(self.i64(k), block)
            self.builder.position_at_end(block)
            yield k
            self.builder.branch(end)
        self.builder.position_at_end(end)

    def variable(self, value: Value) -> Variable:
        return Variable(self.builder, value)

    # ---- memory ----

    def load(self, data: Value, index: Value | int) -> Value:
        """The vector at data[index : index + lanes]."""
        loaded = self.builder.load(self._vector_at(data, index))
        loaded.align = 4
        return loaded

    def store(self, value: Value, data: Value, index: Value | int) -> None:
        self.builder.store(value, self._vector_at(data, index)).align = 4

    def first(self, count: Value, where: Value | None = None) -> Value:
        """The mask of the first `count` < 2^31 lanes; of none if the bit `where` is given and not set."""
        if where is not None:
            count = self.builder.select(where, count, self.i64(0))
        lane = ir.Constant(self.integers, list(range(self.lanes)))
        limit = self._splat(self.builder.trunc(count, INT), self.integers)
        return self.builder.icmp_signed("<", lane, limit)

    def load_where(self, mask: Value, data: Value, index: Value | int) -> Value:
        """The vector at data[index : index + lanes] where the mask is true, else 0: there nothing is read."""
        place, masks = self._vector_at(data, index), mask.type
        kind = ir.FunctionType(self.vector, [place.type, INT, masks, self.vector])
        load = self._declare(f"llvm.masked.load.{self._kind()}.p0", kind)
        return self.builder.call(load, [place, ir.Constant(INT, self.size), mask, self.const(0)])

    def store_where(self, mask: Value, value: Value, data: Value, index: Value | int) -> None:
        """Write the lanes where the mask is true, and leave the others alone."""
        place, masks = self._vector_at(data, index), mask.type
        kind = ir.FunctionType(ir.VoidType(), [self.vector, place.type, INT, masks])
        store = self._declare(f"llvm.masked.store.{self._kind()}.p0", kind)
        self.builder.call(store, [value, place, ir.Constant(INT, self.size), mask])

    def prefetch(self, data: Value, index: Value | int) -> None:
        """Ask for the cache line of data[index], which need not exist, to be in the second cache."""
        line = self.builder.bitcast(self.elements(data, index), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [line.type, INT, INT, INT])
        self.builder.call(self._declare("llvm.prefetch.p0", kind), [line, *(ir.Constant(INT, k) for k in (0, 2, 1))])

    def room(self, floats: int) -> Value:
        """The address (int64) of so many floats on the stack, on a boundary of 64 bytes.

        Of code that is part of its caller, which without Numba's compiler has no frame: there they are malloc's, for good.
        """
        if self.heap:
            malloc = self._declare("malloc", ir.FunctionType(INT.as_pointer(), [INDEX]))
            start = self.builder.ptrtoint(self.builder.call(malloc, [self.i64(self.size * floats + 64)]), INDEX)
            return self.builder.and_(self.plus(start, 63), self.i64(-64))
        with self.builder.goto_entry_block():  # not cgutils.alloca_once, which would fill it with zeros
            slot = self.builder.alloca(self.number, self.i64(floats))
        slot.align = 64
        return self.builder.ptrtoint(slot, INDEX)

    def broadcast(self, data: Value, index: Value | int) -> Value:
        """data[index] in every lane."""
        return self.splat(self.builder.load(self.builder.gep(data, [self._index(index)])))

    def splat(self, scalar: Value) -> Value:
        """One float in every lane."""
        return self._splat(scalar, self.vector)

    def _splat(self, scalar: Value, vector: Any) -> Value:
        undefined = ir.Constant(vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(INT, 0))
        return self.builder.shuffle_vector(first, undefined, self.bits(0))

    def _vector_at(self, data: Value, index: Value | int) -> Value:
        return self.builder.bitcast(self.builder.gep(data, [self._index(index)]), self.vector.as_pointer())

    def at(self, address: Value) -> Value:
        """The floats that begin at an address (int64)."""
        return self.builder.inttoptr(address, self.number.as_pointer())

    def elements(self, data: Value, index: Value | int) -> Value:
        """The floats from data[index] on."""
        return self.builder.gep(data, [self._index(index)])

    # ---- arithmetic, lane by lane ----

    def add(self, a: Value, b: Value) -> Value:
        return self.builder.fadd(a, b)

    def sub(self, a: Value, b: Value) -> Value:
        return self.builder.fsub(a, b)

    def mul(self, a: Value, b: Value) -> Value:
        return self.builder.fmul(a, b)

    def div(self, a: Value, b: Value) -> Value:
        return self.builder.fdiv(a, b, flags=FASTMATH)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a b + c, rounded once where the processor has the instruction."""
        return self._intrinsic("fmuladd", a, b, c)

    def polynomial(self, z: Value, coefficients: tuple[float, ...]) -> Value:
        """Horner's rule, the constant term first in ``coefficients``."""
        value = self.const(coefficients[-1])
        for a in coefficients[-2::-1]:
            value = self.fma(value, z, self.const(a))
        return value

    def absolute(self, a: Value) -> Value:
        return self._intrinsic("fabs", a)

    def copysign(self, size: Value, sign: Value) -> Value:
        """|size| with the sign of the other, that of a zero too."""
        return self._intrinsic("copysign", size, sign)

    def minimum(self, a: Value, b: Value) -> Value:
        """The smaller; b where either is NaN."""
        return self.where(self.less(a, b), a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """The larger; b where either is NaN."""
        return self.where(self.less(b, a), a, b)

    def less(self, a: Value, b: Value) -> Value:
        """The mask of a < b, false where either is NaN."""
        return self.builder.fcmp_ordered("<", a, b)

    def greater_equal(self, a: Value, b: Value) -> Value:
        """The mask of a >= b, false where either is NaN."""
        return self.builder.fcmp_ordered(">=", a, b)

    def where(self, mask: Value, a: Value, b: Value) -> Value:
        """a where the mask is true, else b."""
        return self.builder.select(mask, a, b)

    def total(self, a: Value) -> Value:
        """The sum of all lanes, in whatever order is fastest: one float."""
        kind = ir.FunctionType(self.number, [self.number, self.vector])
        reduce = self._declare(f"llvm.vector.reduce.fadd.{self._kind()}", kind)
        return self.builder.call(reduce, [ir.Constant(self.number, -0.0), a], fastmath=("reassoc",))

    def transpose(self, rows: list[Value]) -> list[Value]:
        """The columns of as many vectors as there are lanes: each pass interleaves the two halves of the list."""
        half = self.lanes // 2
        pairs = [(lane, lane + self.lanes) for lane in range(self.lanes)]
        low, high = ([k for pair in part for k in pair] for part in (pairs[:half], pairs[half:]))
        for _ in range(self.lanes.bit_length() - 1):
            halves = zip(rows[:half], rows[half:], strict=True)
            rows = [self._shuffle(a, b, order) for a, b in halves for order in (low, high)]
        return rows

    def _shuffle(self, a: Value, b: Value, order: list[int]) -> Value:
        return self.builder.shuffle_vector(a, b, ir.Constant(self.integers, order))

    def _intrinsic(self, name: str, *arguments: Value) -> Value:
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        return self.builder.call(self._declare(f"llvm.{name}.{self._kind()}", kind), arguments)

    def _kind(self) -> str:
        return f"v{self.lanes}f{8 * self.size}"

    def _declare(self, name: str, kind: ir.FunctionType) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)
