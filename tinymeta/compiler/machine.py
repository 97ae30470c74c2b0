"""Running a program's machine code: compiled once, kept on disk as an object file, called on addresses with several threads."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from typing import Any

import llvmlite
import numpy as np
from llvmlite import binding as llvm

from ..engine.tensor import describe
from .cache import cached
from .graph import Program, line
from .llvm_code import Machine

THREADS_FROM = 2_000_000  # computations, below which a second thread is not worth waking
KIND = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def target() -> Any:
    """The machine that runs this process."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=2
    )


def vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def build(program: Program) -> tuple[Machine, Callable]:
    """(the code, replay(*inputs) -> fresh arrays of the program's results)."""
    cpu = target()
    machine = Machine(program, vector_bytes(), data_at())
    text = str(machine.module)
    processor = f"{cpu.triple}, {llvm.get_host_cpu_name()}, {llvm.get_host_cpu_features().flatten()}"
    code = cached(f"llvmlite {llvmlite.__version__}, {processor}\n{text}", lambda: _compiled(cpu, text))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), cpu)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    functions = {part.name: KIND(engine.get_function_address(part.name)) for part in machine.parts if part.statements}
    return machine, _caller(program, machine, functions, engine)


def _compiled(cpu: Any, text: str) -> bytes:
    module = llvm.parse_assembly(text)
    module.verify()
    return cpu.emit_object(module)


def _caller(program: Program, machine: Machine, functions: dict[str, Any], engine: Any) -> Callable:
    from tinymeta.kernels.simd import available, together

    constants = [v.constant for v in program.constants]
    table = np.zeros(len(machine.table), np.int64)
    threads = min(available(), machine.runs) if machine.work >= THREADS_FROM else 1
    addresses = _addresses if machine.data_at is None else lambda arrays: list(map(id, arrays))
    shared, own = _block(machine.shared_bytes), [_block(machine.own_bytes) for _ in range(max(threads, 1))]
    made = [(v.shape, v.dtype) for v in machine.outputs]
    inputs = {v: k for k, v in enumerate(program.inputs)} | {
        v: len(program.inputs) + k for k, v in enumerate(program.constants)
    }
    outputs = {v: k for k, v in enumerate(machine.outputs)}
    places = [(True, outputs[v]) if v in outputs else (False, inputs[v]) for v in program.results]
    before, tasks, after = (functions.get(name) for name in ("before", "tasks", "after"))
    at_table, at_shared = table.ctypes.data, shared.ctypes.data
    found = shared[:8].view(np.int64)
    own_at = [block.ctypes.data for block in own]

    def replay(*arrays: Any) -> list[np.ndarray]:
        given = list(map(np.ascontiguousarray, (*arrays, *constants)))
        fresh = [np.empty(shape, dtype) for shape, dtype in made]
        table[:] = addresses((*given, *fresh))
        if before:
            before(at_table, at_shared, 0, 0)
        if tasks:
            numbers = itertools.count()

            def work(thread: int) -> None:
                while (run := next(numbers)) < machine.runs:
                    tasks(at_table, at_shared, own_at[thread], run)

            together(work, threads)
        if after:
            after(at_table, at_shared, 0, 0)
        if machine.indexing and found[0]:
            op, found[0] = machine.indexing[found[0] - 1], 0
            raise IndexError(
                f"{op.prim.name} at {line(op.site)}: an index is out of range for {describe(op.inputs[0])}"
            )
        results = [fresh[k] if is_output else given[k].copy() for is_output, k in places]
        return [x[()] if x.ndim == 0 else x for x in results]

    replay.owned = engine, shared, own  # type: ignore[attr-defined]  # the code and the memory behind the addresses
    return replay


def data_at() -> int | None:
    """Where the object of an array holds the address of its data: behind what every object begins with, if that is so here."""
    at, found = object.__basicsize__, np.zeros(1)
    return at if ctypes.c_void_p.from_address(id(found) + at).value == found.ctypes.data else None


def _addresses(arrays: tuple) -> list[int]:
    return [x.__array_interface__["data"][0] for x in arrays]


def _block(size: int) -> np.ndarray:
    """Zeros that begin at a multiple of 64 bytes."""
    memory = np.zeros(size + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :]
