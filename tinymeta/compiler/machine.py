"""Running a program's machine code: compiled once, kept on disk, called on addresses with several threads.

What is kept is an object file behind the small table that running it needs, so that a second process writes no code.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite
import numpy as np
from llvmlite import binding as llvm

from ..engine.tensor import describe
from .arena import ALIGNMENT
from .cache import cached
from .graph import Program, line
from .identity import generator, text_of
from .llvm_code import Machine, computed

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


class Layout(NamedTuple):
    """What running the code asks of the Machine that wrote it: its functions, the tasks, the blocks' bytes, and for each op that
    reads or adds at indices its name, its array and where in the program it stands."""

    functions: list[str]
    runs: int
    work: int
    shared_bytes: int
    own_bytes: int
    indexing: list[tuple[str, str, int]]


class Code:
    """A program's machine code for its reader: what came from disk is written down again when somebody asks."""

    def __init__(self, program: Program) -> None:
        self.program = program

    @functools.cached_property
    def machine(self) -> Machine:
        return Machine(self.program, vector_bytes(), data_at())

    @property
    def source(self) -> str:
        """The three functions as Python."""
        return self.machine.source


def build(program: Program) -> tuple[Code, Callable]:
    """(the code, replay(*inputs) -> fresh arrays of the program's results)."""
    cpu, code = target(), Code(program)

    def make() -> bytes:
        return _packed(_layout(code.machine, program), _compiled(cpu, str(code.machine.module)))

    text = text_of(program)
    layout, binary = _unpacked(make() if text is None else cached(f"{_maker(cpu)}\n{text}", make))
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), cpu)
    engine.add_object_file(llvm.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    functions = {name: KIND(engine.get_function_address(name)) for name in layout.functions}
    return code, _caller(program, layout, functions, engine)


def _maker(cpu: Any) -> str:
    """Who writes the code, and for which processor."""
    processor = f"{cpu.triple}, {llvm.get_host_cpu_name()}, {llvm.get_host_cpu_features().flatten()}"
    versions = f"llvmlite {llvmlite.__version__}, LLVM {llvm.llvm_version_info}"
    return f"{generator()}, {versions}, {processor}, {vector_bytes()}, {data_at()}"


def _layout(machine: Machine, program: Program) -> Layout:
    numbers = {id(op.site): k for k, op in enumerate(program.ops)}
    indexing = [(op.prim.name, describe(op.inputs[0]), numbers[id(op.site)]) for op in machine.indexing]
    functions = [part.name for part in machine.parts if part.statements]
    return Layout(functions, machine.runs, machine.work, machine.shared_bytes, machine.own_bytes, indexing)


def _packed(layout: Layout, binary: bytes) -> bytes:
    return json.dumps(layout).encode() + b"\n" + binary


def _unpacked(packed: bytes) -> tuple[Layout, bytes]:
    head, _, binary = packed.partition(b"\n")
    return Layout(*json.loads(head)), binary


def _compiled(cpu: Any, text: str) -> bytes:
    module = llvm.parse_assembly(text)
    module.verify()
    return cpu.emit_object(module)


def _caller(program: Program, layout: Layout, functions: dict[str, Any], engine: Any) -> Callable:
    constants = [v.constant for v in program.constants]
    threads, together = _threads(layout)
    in_c_order = functools.partial(np.asarray, order="C")  # np.ascontiguousarray gives a number an axis
    addresses = _addresses if data_at() is None else lambda arrays: list(map(id, arrays))
    shared, own = _block(layout.shared_bytes), [_block(layout.own_bytes) for _ in range(threads)]
    inputs = {v: k for k, v in enumerate((*program.inputs, *program.constants))}
    outputs = {v: k for k, v in enumerate(computed(program))}
    made = [(v.shape, v.dtype) for v in outputs]
    table = np.zeros(len(inputs) + len(made), np.int64)
    places = [(True, outputs[v]) if v in outputs else (False, inputs[v]) for v in program.results]
    before, tasks, after = (functions.get(name) for name in ("before", "tasks", "after"))
    at_table, at_shared = table.ctypes.data, shared.ctypes.data
    found = shared[:8].view(np.int64)
    own_at = [block.ctypes.data for block in own]

    def replay(*arrays: Any) -> list[np.ndarray]:
        given = list(map(in_c_order, (*arrays, *constants)))
        fresh = [np.empty(shape, dtype) for shape, dtype in made]
        table[:] = addresses((*given, *fresh))
        if before:
            before(at_table, at_shared, 0, 0)
        if tasks:
            numbers = itertools.count()

            def work(thread: int) -> None:
                while (run := next(numbers)) < layout.runs:
                    tasks(at_table, at_shared, own_at[thread], run)

            together(work, threads)
        if after:
            after(at_table, at_shared, 0, 0)
        if found[0]:
            (name, array, op), found[0] = layout.indexing[found[0] - 1], 0
            raise IndexError(f"{name} at {line(program.ops[op].site)}: an index is out of range for {array}")
        results = [fresh[k] if is_output else given[k].copy() for is_output, k in places]
        return [x[()] if x.ndim == 0 else x for x in results]

    replay.owned = engine, shared, own  # type: ignore[attr-defined]  # the code and the memory behind the addresses
    return replay


def _threads(layout: Layout) -> tuple[int, Callable]:
    """How many threads share the tasks, and what runs a function in so many; without one more, Numba need not be loaded."""
    if layout.work < THREADS_FROM:
        return 1, lambda work, _: work(0)
    from tinymeta.kernels.simd import available, together

    return min(available(), layout.runs), together


def data_at() -> int | None:
    """Where the object of an array holds the address of its data: behind what every object begins with, if that is so here."""
    at, found = object.__basicsize__, np.zeros(1)
    return at if ctypes.c_void_p.from_address(id(found) + at).value == found.ctypes.data else None


def _addresses(arrays: tuple) -> list[int]:
    return [x.__array_interface__["data"][0] for x in arrays]


def _block(size: int) -> np.ndarray:
    """Zeros that begin at a multiple of ALIGNMENT bytes."""
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    return memory[-memory.ctypes.data % ALIGNMENT :]
