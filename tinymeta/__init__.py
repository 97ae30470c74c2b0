"""tinymeta: a small autodiff engine in NumPy, and learned optimizers, MAML and EWC written by hand on it."""

import importlib
from typing import Any

from . import ops
from .engine import trees
from .engine.backend import use as backend
from .engine.batch import vmap
from .engine.checkpoint import checkpoint
from .engine.show import show
from .engine.transforms import grad, hessian, hvp, jacobian, jvp, linearize, stop_gradient, value_and_grad, vjp

_ROOMS = ("check", "data", "ewc", "kernels", "l2l", "lab", "maml", "nets", "optim", "rl")  # loaded when first asked for

__all__ = [
    "backend", "check", "checkpoint", "compile", "data", "ewc", "grad", "hessian", "hvp", "jacobian", "jvp", "kernels", "l2l",
    "lab", "linearize", "maml", "nets", "ops", "optim", "rl", "show", "stop_gradient", "trees", "value_and_grad", "vjp",
    "vmap",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "compile":
        return importlib.import_module(".compiler", __name__).compile
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'tinymeta' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
