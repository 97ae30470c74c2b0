"""tm.compile: capture once, then run the generated program."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..engine import trees
from ..engine.backend import chosen
from ..engine.batched import Batched
from ..engine.tensor import THREAD, Tensor
from . import cupy_code, numpy_code
from .capture import Symbol, capture, is_array
from .cleanup import clean
from .closure import unchanged
from .graph import Program, line, text_of_line
from .signature import check_static, reader, writer
from .verify import check_repeatable, verify, verify_elsewhere

MANY = 8  # programs that differ in static values or variables alone, before a warning; so many stale ones are kept


class Constant(NamedTuple):
    """An array that the program holds as it was at the first call, and the line at which it came in."""

    array: Any
    line: str
    source: str


class Specialisation:
    """The program for one kind of arguments: `read` gives their arrays or None, `run` the results' arrays."""

    def __init__(self, f: Callable, args: tuple, kwargs: dict) -> None:
        check_static(args, kwargs)
        self.read, self.wanted, self.fresh = reader(args, kwargs), chosen(), unchanged(f, args, kwargs)
        self.statics = [(path, x) for path, x in trees.items((args, kwargs)) if not is_array(x)]
        program, result = capture(f, args, kwargs)
        if not program.inputs:
            raise TypeError(
                f"tm.compile: no argument of {_name(f)} is an array, so there is nothing to replay: call it as it is"
            )
        check_repeatable(program, capture(f, args, kwargs)[0])
        self.program = clean(program)
        self.result = trees.unflatten(result, self.program.outputs)
        results = self.program.results
        self.before, self.after = _places(self.program)
        self.write = writer(self.result, results)
        self.backend, self.code, self.replay, self.why = _generated(self.program, self.wanted, args, kwargs)
        self.in_place = program.in_place
        self.lock = threading.Lock()
        self.worst = 0.0

    def call(self, args: tuple, kwargs: dict) -> Any:
        return self.run(self.read(args, kwargs) or [])

    def run(self, arrays: list) -> Any:
        """One replay: fresh arrays, or what a check raises."""
        for check, places in self.before:
            check(*[arrays[p] for p in places])
        with self.lock:
            results = self.replay(*arrays)
        for check, places in self.after:
            check(*[results[p] for p in places])
        return self.write(results)

    @property
    def constants(self) -> list[Constant]:
        return [Constant(v.constant, line(v.site), text_of_line(v.site)) for v in self.program.constants]


class Compiled:
    """What tm.compile returns; the attributes speak of the program that ran last."""

    def __init__(self, f: Callable) -> None:
        functools.update_wrapper(self, f)
        self._f = f
        self._programs: list[Specialisation] = []
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if THREAD.depth or THREAD.maps or THREAD.captures:  # a derivative, a vmap or another capture is to see the ops
            return self._f(*args, **kwargs)
        for k, program in enumerate(self._programs):
            arrays = program.read(args, kwargs)
            if arrays is not None and program.wanted == chosen() and program.fresh():
                if k:
                    self._first(program)
                return program.run(arrays)
        if any(isinstance(x, (Tensor, Batched, Symbol)) for x in trees.leaves((args, kwargs))):
            return self._f(*args, **kwargs)  # kept from one that has ended: as f does
        return self._compile(args, kwargs)

    def __reduce__(self) -> tuple:
        """Copied and pickled as the function alone, where it can be: programs are not."""
        return compile, (self._f,)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: the instance is the first argument, a static one if it is no tree of arrays."""
        return self if instance is None else types.MethodType(self, instance)

    @property
    def source(self) -> str:
        """The generated code, each line with its op, shape and the line of yours that asked for it."""
        return self._last().code.source

    @property
    def constants(self) -> list[Constant]:
        """Arrays that came in by closure, with their lines; they are read at each call, so writing to them takes effect."""
        return self._last().constants

    @property
    def backend(self) -> str:
        """What runs the program: "llvm" where the package numba is installed, else "numpy"; "cuda" for CuPy's arrays."""
        return self._last().backend

    @property
    def why_not_compiled(self) -> str:
        """Why the backend is not "llvm"; empty if it is."""
        return self._last().why

    @property
    def worst_difference(self) -> float:
        """Of the first replay from eager execution, relative to the largest number of the array."""
        return self._last().worst

    def _last(self) -> Specialisation:
        if not self._programs:
            raise ValueError(f"tm.compile: {_name(self._f)} has not been called yet, so it has no program")
        return self._programs[0]

    def _first(self, program: Specialisation) -> None:
        with self._lock:
            self._programs = [program, *(p for p in self._programs if p is not program)]

    def _compile(self, args: tuple, kwargs: dict) -> Any:
        program = Specialisation(self._f, args, kwargs)  # first: what it refuses has changed nothing then
        expected = self._f(*args, **kwargs)
        result, program.worst = verify(self._f, program.call, program.result, expected, args, kwargs)
        if program.in_place:
            verify_elsewhere(self._f, program.call, program.result, args, kwargs)
        _trim()
        with self._lock:
            stale = [p for p in self._programs if not p.fresh()][MANY:]
            self._programs = [program, *(p for p in self._programs if p not in stale)]
        if len(self._programs) == MANY:
            self._warn()
        return result

    def _warn(self) -> None:
        """Many programs are no error, but often a number that should be an array."""
        last, before = self._programs[:2]
        changed = _changed(last.statics, before.statics)
        if changed:
            why = f"another value of {', '.join(changed)} (a place in (args, kwargs))"
        elif not before.fresh():
            why = "a variable outside of it that was bound anew"
        else:
            return
        warnings.warn(
            f"tm.compile: {_name(self._f)} has been compiled {MANY} times, last for {why}: pass a number that changes as an array, "
            "np.asarray(x)", RuntimeWarning, stacklevel=4)  # fmt: skip


def compile(f: Callable) -> Compiled:
    """f, captured at its first call and from then on one generated program: the same numbers without Python's cost.

    f takes and returns trees of arrays; floats, strings and everything else hashable among its arguments are static. There is one
    program per tree, shapes, dtypes, static values, closed-over variables and backend; attributes and entries of containers, as
    `model.w` and `table["w"]`, are not watched. f must be pure: no randomness, no branch on a number, nothing written. The first
    call captures f twice and runs it, ValueError naming the op where two of these differ; TypeError, naming the line, for bool(),
    float() or np.asarray of an array, which would be decided once. Results are fresh arrays; floating-point warnings are not given.
    Inside a derivative, a vmap or another compiled function it is f itself.
    """
    return Compiled(f)


def _trim() -> None:
    """Give back to the system what the runs op by op, for capture and comparison, have taken and freed: glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _places(program: Program) -> tuple[list, list]:
    """The checks of arguments, and those of what the program computes: each with the places of its values."""
    given, results = {v: k for k, v in enumerate(program.inputs)}, {v: k for k, v in enumerate(program.results)}
    before = [(c.check, [given[v] for v in c.values]) for c in program.checks if given.keys() >= set(c.values)]
    after = [(c.check, [results[v] for v in c.values]) for c in program.checks if not given.keys() >= set(c.values)]
    return before, after


def _generated(program: Program, wanted: str | None, args: tuple, kwargs: dict) -> tuple[str, Any, Callable, str]:
    """(backend, code, replay, why it is not compiled): machine code where it can be had, else NumPy."""
    arrays = [x for x in trees.leaves((args, kwargs)) if is_array(x)]
    on_host = all(isinstance(x, (np.ndarray, np.generic)) for x in arrays)
    why = "" if on_host else "the arrays are not NumPy's"
    if not why and wanted not in (None, "numba"):
        why = f"the backend is {wanted!r}"
    if not why and importlib.util.find_spec("numba") is None:
        why = 'numba is not installed: pip install "tinymeta[fast]"'
    if not why:
        from . import machine
        from .statements import Unsupported

        try:
            return "llvm", *machine.build(program), ""
        except Unsupported as op:
            why = f"there are no loops for {op}"
    given = zip((*program.inputs, *program.constants), (*arrays, *(v.constant for v in program.constants)), strict=True)
    on_device = [v for v, x in given if cupy_code.is_cupy(x) and wanted in (None, "cuda")]
    code = cupy_code.Code(program, on_device) if on_device else numpy_code.Code(program, on_host)
    return "numpy" if on_host else "cuda", code, code.build(), why


def _changed(last: list, before: list) -> list[str]:
    """The places and values of static arguments that are others."""
    pairs = zip(last, before, strict=True) if len(last) == len(before) else ()
    return [f"{p} = {x!r}" for (p, x), (q, y) in pairs if p == q and x is not y and x != y]


def _name(f: Callable) -> str:
    return getattr(f, "__qualname__", repr(f))
