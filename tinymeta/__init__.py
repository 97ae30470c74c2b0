"""tinymeta: a small autodiff engine in NumPy, and learned optimizers, MAML and EWC written by hand on it."""

from . import ops
from .engine import trees
from .engine.backend import use as backend
from .engine.checkpoint import checkpoint
from .engine.show import show
from .engine.transforms import grad, hessian, hvp, jacobian, jvp, linearize, stop_gradient, value_and_grad, vjp

__all__ = [
    "backend", "checkpoint", "grad", "hessian", "hvp", "jacobian", "jvp", "linearize", "ops", "show", "stop_gradient", "trees",
    "value_and_grad", "vjp",
]  # fmt: skip
