"""What a function sees beside its arguments: the variables that it and the functions in them close over, and global numbers.

A program holds what stood there when it was captured. Rebinding a variable makes another program, as another static argument does.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable
from typing import Any

import numpy as np

VALUES = (bool, int, float, complex, str, bytes, tuple, np.ndarray, np.generic)  # of globals; modules and classes stay


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
        library = (g.__module__ or "").partition(".")[0] in ("tinymeta", "numpy")  # which binds no variable anew
        for cell in g.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                stack.append(cell.cell_contents)
                if not library:
                    cells.append((cell, cell.cell_contents))
        for name in g.__code__.co_names if not library else ():
            x = g.__globals__.get(name)
            stack.append(x)
            if isinstance(x, VALUES):
                names.append((g.__globals__, name, x))

    def same() -> bool:
        for cell, x in cells:  # no comprehension: this is run at every call
            if cell.cell_contents is not x:
                return False
        return all(d.get(name) is x for d, name, x in names) if names else True

    return same


def _function(x: Any, stack: list) -> Any:
    """The Python function in x, if there is one; what a partial application holds goes on the stack."""
    if isinstance(x, functools.partial):
        stack.extend((*x.args, *x.keywords.values()))
        return _function(x.func, stack)
    if isinstance(x, types.MethodType):
        return x.__func__
    return x if isinstance(x, types.FunctionType) else None
