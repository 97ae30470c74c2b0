"""What a function sees beside its arguments: the variables that it and the functions in them close over, and global numbers.

A program holds what stood there when it was captured. Rebinding a variable makes another program, as another static argument does.
"""

from __future__ import annotations

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
        for cell in g.__closure__ or ():
            content = _content(cell)
            cells.append((cell, content))
            stack.append(content)
        for name in g.__code__.co_names if not _is_library(g) else ():
            x = g.__globals__.get(name)
            stack.append(x)
            if isinstance(x, VALUES):
                names.append((g.__globals__, name, x))
    return lambda: all(_content(c) is x for c, x in cells) and all(d.get(n) is x for d, n, x in names)


def _function(x: Any, stack: list) -> Any:
    """The Python function in x, if there is one; what a partial application holds goes on the stack."""
    if isinstance(x, functools.partial):
        stack.extend((*x.args, *x.keywords.values()))
        return _function(x.func, stack)
    if isinstance(x, types.MethodType):
        return x.__func__
    return x if isinstance(x, types.FunctionType) else None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _is_library(g: Any) -> bool:
    return (g.__module__ or "").partition(".")[0] in ("tinymeta", "numpy")
