"""What stands in for Numba's compiler where NUMBA_DISABLE_JIT leaves njit functions to Python, to be debugged or traced.

Vector code is compiled all the same, each function by itself, and called through ctypes; what compiled code would call by an
address becomes a callback into Python.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

C: dict[Any, Any] = {
    types.void: None, types.int64: ctypes.c_int64, types.float32: ctypes.c_float, types.boolean: ctypes.c_bool,
}  # fmt: skip
PYTHON: dict[Any, Callable] = {types.int64: int, types.float32: float, types.boolean: bool}


def disabled() -> bool:
    return bool(numba.config.DISABLE_JIT)  # type: ignore[attr-defined]  # set when numba reads its settings


def called_by_python(build: Callable, result: Any, kinds: Sequence[Any], like: bool) -> Callable:
    """The function that build(module, context, dtype) adds to a module, for Python, with arguments of these Numba types; if
    `like`, of one more, whose dtype is that of the vectors."""

    @global_compiler_lock
    @functools.cache
    def compiled(dtype: Any) -> tuple[Callable, Any]:
        library = cpu_target.target_context.codegen().create_library("without_jit")
        module = library.create_ir_module("without_jit")
        function = build(module, cpu_target.target_context, dtype)
        function.linkage = "external"
        library.add_ir_module(module)
        library.finalize()
        prototype = ctypes.CFUNCTYPE(*(C[k] for k in (result, *kinds)))
        return prototype(library.get_pointer_to_function(function.name)), library  # which owns the code

    def call(*values: Any) -> Any:
        dtype = numba.typeof(values[-1]) if like else types.float32
        return compiled(dtype)[0](*(PYTHON[k](x) for k, x in zip(kinds, values, strict=not like)))

    return call


def cfunc(signature: Any, **options: Any) -> Callable[[Callable], Any]:
    """numba.cfunc, a function with an `address` for compiled code; without the compiler a callback."""
    if not disabled():
        return numba.cfunc(signature, **options)

    def decorate(function: Callable) -> Any:
        prototype = ctypes.CFUNCTYPE(*(C[k] for k in (signature.return_type, *signature.args)))
        callback = prototype(function)
        callback.address = ctypes.cast(callback, ctypes.c_void_p).value  # type: ignore[attr-defined]
        return callback

    return decorate
