"""Makers of elementwise ops (one row each) and the tables by which NumPy's own functions find ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.tensor import Prim, bind

Op = Callable[..., Any]
UFUNCS: dict[np.ufunc, Callable] = {}  # np.exp -> ops.exp, for __array_ufunc__
ELEMENTWISE: dict[str, Callable] = {}  # every row by name, for the generated checks


def unary(name: str, forward: Callable, rule: Callable | None, expr: str, doc: str = "") -> Callable[[Any], Any]:
    """An op of one input: its value, `rule(g, y, x)` = g ∂y/∂x (None: no derivative), its scalar formula."""
    prim = Prim(name, forward, () if rule is None else (rule,), kind="elementwise", expr=expr)
    return _publish(prim, lambda x: bind(prim, x), doc)


def binary(
    name: str, forward: Callable, rules: tuple[Callable, Callable] | None, expr: str, doc: str = ""
) -> Callable[[Any, Any], Any]:
    """An op of two inputs that broadcast: `rules[i](g, z, x, y)` = g ∂z/∂(input i)."""
    prim = Prim(name, forward, rules or (), kind="elementwise", expr=expr)
    return _publish(prim, lambda x, y: bind(prim, x, y), doc)


def built_in(prim: Prim) -> bool:
    """Whether it is a row's, or a ufunc of NumPy's, and not another's that has the name of one."""
    ufunc = isinstance(prim.forward, np.ufunc) and prim.forward.__name__ == prim.name
    return ufunc or getattr(ELEMENTWISE.get(prim.name), "prim", None) is prim


def _publish(prim: Prim, op: Callable, doc: str) -> Callable:
    op.__module__, op.__name__, op.__qualname__ = "tinymeta.ops", prim.name, prim.name  # where pickle looks for it
    op.__doc__ = doc or f"NumPy's {prim.name}, elementwise: {(prim.expr or '').format('x', 'y')}."
    op.prim = prim  # type: ignore[attr-defined]
    ELEMENTWISE[prim.name] = op
    if isinstance(prim.forward, np.ufunc):
        UFUNCS[prim.forward] = op
    return op
