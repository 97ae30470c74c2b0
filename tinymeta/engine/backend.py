"""Which implementation runs: chosen by the arrays' type and by what is installed, overridden by TINYMETA_BACKEND or `use`."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np

INSTALL = {"numpy": "numpy", "numba": 'pip install "tinymeta[fast]"', "cuda": 'pip install "tinymeta[cuda]"'}
_MODULE = {"numpy": "numpy", "numba": "numba", "cuda": "cupy"}
_chosen: ContextVar[str | None] = ContextVar("tinymeta_backend", default=None)


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Within this block kernels run on backend `name`: "numpy", "numba" or "cuda"."""
    _check(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def float32_only(f: Callable) -> Callable:
    """Marks an implementation that `choose` passes over, unless it is asked for by name, when a float array is not float32."""
    f.float32_only = True  # type: ignore[attr-defined]
    return f


def chosen() -> str | None:
    """The backend that `use` or TINYMETA_BACKEND asks for; the variable's is refused as `use` refuses its own."""
    name = _chosen.get()
    if name is None and (name := os.environ.get("TINYMETA_BACKEND") or None):
        _check(name, "TINYMETA_BACKEND: ")
    return name


def choose(op: str, table: Mapping[str, Callable], arrays: Sequence[Any]) -> Callable:
    """The implementation in `table` for these arrays; ImportError says what to install, ValueError what there is."""
    wanted = chosen()
    if wanted:
        if wanted not in table:
            raise ValueError(f"{op}: no implementation for backend {wanted!r}, only for {sorted(table)}")
        return table[wanted]
    for name in ("numba", "numpy") if _on_host(arrays) else ("cuda", "numpy"):
        if name in table and _installed(name) and _takes(table[name], arrays):
            return table[name]
    raise ImportError(f"{op}: none of its implementations {sorted(table)} can run here; {INSTALL[next(iter(table))]}")


def _check(name: str, source: str = "") -> None:
    if name not in _MODULE:
        raise ValueError(f"{source}backend {name!r} is unknown, expected one of {sorted(_MODULE)}")
    if not _installed(name):
        raise ImportError(f"{source}backend {name!r} needs the package {_MODULE[name]}: {INSTALL[name]}")


@functools.cache
def _installed(name: str) -> bool:
    return importlib.util.find_spec(_MODULE[name]) is not None


def _takes(f: Callable, arrays: Sequence[Any]) -> bool:
    narrow = getattr(f, "float32_only", False)
    return not narrow or all(x.dtype == np.float32 for x in arrays if getattr(x, "dtype", np.dtype(int)).kind == "f")


def _on_host(arrays: Sequence[Any]) -> bool:
    return all(isinstance(x, (np.ndarray, np.generic, float, int)) for x in arrays)
