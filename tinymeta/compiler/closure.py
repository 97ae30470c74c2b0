"""What a function sees beside its arguments' arrays: the variables that it and the functions it reaches close over, and globals.

A program holds what stood there when it was captured. Rebinding a variable makes another program, as another static argument does.
What hangs below a variable, an attribute or an entry of a container, is not looked at; methods are, by the names in the code.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..engine import trees

STAY = types.ModuleType  # globals that nobody binds anew
STANDARD = os.path.dirname(os.__file__)  # the standard library's folder
INSIDE: dict[type, str] = {
    property: "fget",
    staticmethod: "__func__",
    classmethod: "__func__",
    functools.cached_property: "func",
}


def unchanged(f: Callable, args: tuple = (), kwargs: Any = None) -> Callable[[], bool]:
    """Whether everything is still what it is now, by identity: for f, and for functions and methods that its arguments bring."""
    cells: list[tuple[Any, Any]] = []
    names: list[tuple[dict, str, Any]] = []
    seen: set[tuple[int, ...]] = set()
    given = _callers((args, kwargs))
    stack = list(_functions(f, ()))
    while stack:
        g, owner = stack.pop()
        key = (id(g), *map(id, owner))
        if key in seen:
            continue
        seen.add(key)
        own, known = _cells(g), _globals(g)
        reached = [*given, *owner, *_defaults(g), *(x for _, x in own)]
        if not _of_library(g):
            reached += [x for *_, x in known]
            cells += own
            names += [(d, name, x) for d, name, x in known if not isinstance(x, STAY)]
        stack += [found for x in reached for found in _functions(x, _names(g.__code__))]

    def same() -> bool:
        for cell, x in cells:  # no comprehension: this is run at every call
            if cell.cell_contents is not x:
                return False
        return all(d.get(name) is x for d, name, x in names) if names else True

    return same


def _callers(tree: Any) -> list[Any]:
    """What may call functions of the user's among arguments: leaves that are no arrays, and the classes of what holds them."""
    node = trees.children(tree)
    if node is None:
        return [] if hasattr(tree, "dtype") else [tree]
    return [type(tree), *(x for child in node[1] for x in _callers(child))]


def _of_library(g: types.FunctionType) -> bool:
    """Whether nobody binds its variables anew."""
    name = (g.__globals__.get("__name__") or "").partition(".")[0]  # functools.wraps changes g.__module__
    file = g.__globals__.get("__file__") or STANDARD  # some of it is frozen; a user's module may have such a name
    return name in ("tinymeta", "numpy") or (name in sys.stdlib_module_names and file.startswith(STANDARD))


def _defaults(g: types.FunctionType) -> Iterable[Any]:
    return (*(g.__defaults__ or ()), *(g.__kwdefaults__ or {}).values())


def _cells(g: types.FunctionType) -> list[tuple[Any, Any]]:
    found = []
    for cell in g.__closure__ or ():
        with contextlib.suppress(ValueError):  # a variable that has no value yet
            found.append((cell, cell.cell_contents))
    return found


def _globals(g: types.FunctionType) -> list[tuple[dict, str, Any]]:
    known = g.__globals__
    return [(known, n, known[n]) for n in _read(g.__code__) if n in known]


@functools.cache
def _read(code: types.CodeType) -> frozenset[str]:
    """The globals that the code and the code in it read; its co_names have attributes too."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(own).union(*map(_read, _inner(code)))


@functools.cache
def _names(code: types.CodeType) -> frozenset[str]:
    """The names in the code and the code in it, those of methods among them."""
    return frozenset(code.co_names).union(*map(_names, _inner(code)))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [c for c in code.co_consts if isinstance(c, types.CodeType)]


def _functions(x: Any, names: Iterable[str]) -> Iterator[tuple[types.FunctionType, tuple]]:
    """The Python functions in x, and of an object or a class its methods with these names; each with its class, if any."""
    if isinstance(x, functools.partial):
        for part in (x.func, *x.args, *x.keywords.values()):
            yield from _functions(part, names)
    elif isinstance(x, types.MethodType):
        owner = x.__self__ if isinstance(x.__self__, type) else type(x.__self__)
        yield from ((g, (owner,)) for g, _ in _functions(x.__func__, names))
    elif isinstance(x, types.FunctionType):
        yield x, ()
    elif _wraps(x):
        yield from _functions(x.__wrapped__, names)
    elif not isinstance(x, types.ModuleType):
        kind = x if isinstance(x, type) else type(x)
        for found in (vars(k).get(name) for k in kind.__mro__ for name in {"__call__", *names}):
            method = getattr(found, INSIDE[type(found)]) if type(found) in INSIDE else found
            if isinstance(method, (types.FunctionType, functools.partial)) or _wraps(method):
                yield from ((g, (kind,)) for g, _ in _functions(method, ()))


def _wraps(x: Any) -> bool:
    """Whether x is a compiled function, or one of functools.cache."""
    return "__wrapped__" in getattr(x, "__dict__", {})
