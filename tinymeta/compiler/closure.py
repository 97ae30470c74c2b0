"""What a function sees beside its arguments: the variables that it and the functions in them close over, and globals.

A program holds what stood there when it was captured. Rebinding a variable makes another program, as another static argument does.
What hangs below a variable, an attribute or an entry of a container, is not looked at.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import types
from collections.abc import Callable
from typing import Any

STAY = (types.ModuleType, type)  # globals that nobody binds anew


def unchanged(f: Callable) -> Callable[[], bool]:
    """Whether everything is still what it is now, by identity."""
    cells: list[tuple[Any, Any]] = []
    names: list[tuple[dict, str, Any]] = []
    seen: set[int] = set()
    stack: list[Any] = [f]
    while stack:
        g = _function(stack.pop(), stack)
        if g is None or id(g) in seen:
            continue
        seen.add(id(g))
        stack += [x for _, x in _cells(g)]
        if not _of_library(g):
            stack += [x for *_, x in _globals(g)]
            cells += _cells(g)
            names += _globals(g)

    def same() -> bool:
        for cell, x in cells:  # no comprehension: this is run at every call
            if cell.cell_contents is not x:
                return False
        return all(d.get(name) is x for d, name, x in names) if names else True

    return same


def _of_library(g: types.FunctionType) -> bool:
    """Whether nobody binds its variables anew."""
    return (g.__module__ or "").partition(".")[0] in ("tinymeta", "numpy")


def _cells(g: types.FunctionType) -> list[tuple[Any, Any]]:
    found = []
    for cell in g.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable that has no value yet
            found.append((cell, cell.cell_contents))
    return found


def _globals(g: types.FunctionType) -> list[tuple[dict, str, Any]]:
    known = g.__globals__
    return [(known, n, known[n]) for n in _read(g.__code__) if n in known and not isinstance(known[n], STAY)]


@functools.cache
def _read(code: types.CodeType) -> frozenset[str]:
    """The globals that the code and the code in it read; its co_names have attributes too."""
    inner = [_read(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(own).union(*inner)


def _function(x: Any, stack: list) -> Any:
    """The Python function in x, if there is one; what a partial application or a default holds goes on the stack."""
    if isinstance(x, functools.partial):
        stack.extend((*x.args, *x.keywords.values()))
        return _function(x.func, stack)
    if isinstance(x, types.MethodType):
        return x.__func__
    if isinstance(x, types.FunctionType):
        stack.extend((*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()))
        return x
    wrapped = getattr(x, "__dict__", {}).get("__wrapped__")  # of a compiled function, or of functools.cache
    return wrapped if wrapped is None else _function(wrapped, stack)
