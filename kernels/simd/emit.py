"""Vectors of float32 as LLVM code: each method adds instructions to a builder and returns the value they give."""

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

Value = Any
"""A value of LLVM code (llvmlite has no types for mypy)."""
FLOAT, FLOAT64, INT, INDEX = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
LLVM = {types.void: ir.VoidType(), types.int64: INDEX, types.float32: FLOAT}
FASTMATH: tuple[str, ...] = ()
"""LLVM's fast-math flags on every division, such as ("arcp", "afn"); none: division rounds correctly."""
_serial = itertools.count()


def native_lanes(context: Any) -> int:
    """float32 lanes in a vector register of the processor that Numba's context compiles for: 16, 8 or 4."""
    features = context.codegen().magic_tuple()[2]
    return 16 if "+avx512f" in features else 8 if "+avx," in features else 4


def vector_code(result: Any, *kinds: Any) -> Callable[[Callable], Any]:
    """Decorate emit(simd, *values) into a function that compiled code calls with arguments of these types, which are among
    Numba's int64 and float32; the result's may be void.

    ``emit`` adds the instructions to simd and returns the result's value, or None for void. They become one function of a
    compiled module, however often it is called there; LLVM may inline it.
    """

    def decorate(emit: Callable) -> Any:
        name = f"{emit.__module__}.{emit.__qualname__}.{next(_serial)}"

        def definition(typing: Any, *arguments: Any) -> tuple[Any, Callable]:
            def code(context: Any, builder: ir.IRBuilder, signature: Any, values: list[Value]) -> Value:
                kind = ir.FunctionType(LLVM[result], [LLVM[k] for k in kinds])
                value = builder.call(_function(builder.module, name, kind, emit, native_lanes(context)), values)
                return context.get_dummy_value() if result == types.void else value

            return result(*kinds), code

        names = ["typing", *(f"x{k}" for k in range(len(kinds)))]
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
        definition.__name__, definition.__doc__ = emit.__name__, emit.__doc__
        definition.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Numba reads it
        return intrinsic(definition)

    return decorate


def _function(module: ir.Module, name: str, kind: ir.FunctionType, emit: Callable, lanes: int) -> ir.Function:
    """The module's function of this name, which is what emit emits."""
    if name not in module.globals:
        function = ir.Function(module, kind, name)
        function.linkage = "internal"
        builder = ir.IRBuilder(function.append_basic_block())
        value = emit(Simd(builder, lanes), *function.args)
        builder.ret_void() if value is None else builder.ret(value)
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
    """Instructions on vectors of so many float32 lanes. Indices count floats, are int64, and need no alignment."""

    def __init__(self, builder: ir.IRBuilder, lanes: int = 16) -> None:
        self.builder, self.lanes = builder, lanes
        self.vector, self.integers = ir.VectorType(FLOAT, lanes), ir.VectorType(INT, lanes)

    # ---- constants, indices and loops ----

    def const(self, x: float) -> Value:
        """The same number, rounded to float32, in every lane."""
        return ir.Constant(self.vector, [float(np.float32(x))] * self.lanes)

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

    def broadcast(self, data: Value, index: Value | int) -> Value:
        """data[index] in every lane."""
        return self.splat(self.builder.load(self.builder.gep(data, [self._index(index)])))

    def splat(self, scalar: Value) -> Value:
        """One float in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(INT, 0))
        return self.builder.shuffle_vector(first, undefined, self.bits(0))

    def _vector_at(self, data: Value, index: Value | int) -> Value:
        return self.builder.bitcast(self.builder.gep(data, [self._index(index)]), self.vector.as_pointer())

    def at(self, address: Value) -> Value:
        """The floats that begin at an address (int64)."""
        return self.builder.inttoptr(address, FLOAT.as_pointer())

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

    def total(self, a: Value) -> Value:
        """The sum of the lanes, one float; the order is that of a tree."""
        kind = ir.FunctionType(FLOAT, [FLOAT, self.vector])
        reduce = self._declare(f"llvm.vector.reduce.fadd.v{self.lanes}f32", kind)
        return self.builder.call(reduce, [ir.Constant(FLOAT, -0.0), a], fastmath=("reassoc",))

    def where(self, mask: Value, a: Value, b: Value) -> Value:
        """a where the mask is true, else b."""
        return self.builder.select(mask, a, b)

    def _intrinsic(self, name: str, *arguments: Value) -> Value:
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        return self.builder.call(self._declare(f"llvm.{name}.v{self.lanes}f32", kind), arguments)

    def _declare(self, name: str, kind: ir.FunctionType) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, kind, name)
