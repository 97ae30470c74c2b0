"""The Fisher and penalty kernels, each call on the implementation that suits its arrays (`engine.backend`).

`fisher.NAME` and `penalty.NAME` are the functions of tinymeta.kernels.fisher and .penalty; `table` has a function's
implementations by the name of their backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..engine.backend import choose, float32_only
from ..engine.tensor import Tensor

CPU = {
    "fisher": ("linear", "linear_exact", "mlp_fisher"),
    "penalty": ("adam_step", "penalty", "penalty_grad", "proximal_step", "sgd_step"),
}
CUDA = {"fisher": (*CPU["fisher"], "linear_time", "conv"), "penalty": CPU["penalty"]}
"""By family what is compiled, the CPU's Fisher kernels in float32 alone; the rest is NumPy's on every backend."""
COMPILABLE = (np.dtype(np.float32), np.dtype(np.float64))


@functools.cache
def table(family: str, name: str) -> dict[str, Callable]:
    """backend -> implementation of a function, whose module loads when it is first called."""
    numpy = _on_numpy(name) if family == "fisher" else _lazily(family, "reference", name)
    found = dict.fromkeys(("numpy", "numba", "cuda"), numpy)
    if name in CPU[family]:
        compiled = _lazily(family, "cpu", name)
        found["numba"] = float32_only(compiled) if family == "fisher" else _compilable(compiled, numpy)
    if name in CUDA[family]:
        found["cuda"] = _lazily(family, "cuda", name)
    return found


def _compilable(compiled: Callable, numpy: Callable) -> Callable:
    """The compiled penalty or step; NumPy's for floats that Numba lacks, such as float16 or those of another byte order."""

    def call(theta: Any, *args: Any, **kwargs: Any) -> Any:
        lacking = hasattr(theta, "dtype") and theta.dtype not in COMPILABLE
        return (numpy if lacking else compiled)(theta, *args, **kwargs)

    return call


def _on_numpy(name: str) -> Callable:
    """Chunks of NumPy's own arrays; the reference for other arrays that follow its protocols."""
    reference, chunked = (_lazily("fisher", module, name) for module in ("reference", "chunked"))

    def call(*args: Any, **kwargs: Any) -> Any:
        return (chunked if all(isinstance(x, np.ndarray) for x in _arrays(args)) else reference)(*args, **kwargs)

    return call


def _lazily(family: str, module: str, name: str) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f"tinymeta.kernels.{family}.{module}"), name)(*args, **kwargs)

    return call


def _dispatched(family: str, name: str) -> Callable:
    reference = getattr(import_module(f"tinymeta.kernels.{family}"), name)

    @functools.wraps(reference)
    def call(*args: Any, **kwargs: Any) -> Any:
        arrays = _arrays(args)
        if any(type(x) is Tensor for x in arrays):
            return reference(*args, **kwargs)
        return choose(f"{family}.{name}", table(family, name), arrays)(*args, **kwargs)

    return call


def _arrays(args: tuple) -> list[Any]:
    return [x for x in args if hasattr(x, "dtype")]


def _family(family: str) -> SimpleNamespace:
    names = import_module(f"tinymeta.kernels.{family}").__all__
    return SimpleNamespace(**{name: _dispatched(family, name) for name in names})


fisher, penalty = _family("fisher"), _family("penalty")
