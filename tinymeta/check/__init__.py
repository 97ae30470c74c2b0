"""Gradient checks as a product: finite differences, algebraic laws, a contract for hand-written kernels, Hypothesis strategies.

Every check returns a Report of its worst errors or raises a CheckError of one sentence. `strategies` needs Hypothesis and is
loaded when it is first used; `import *` leaves it out.
"""

from __future__ import annotations

import importlib
from typing import Any

from .algebraic import adjoint, hvp_symmetry, linearity
from .contract import contract
from .numeric import gradients
from .report import CheckError, KinkError, Report

__all__ = [
    "CheckError", "KinkError", "Report", "adjoint", "contract", "gradients", "hvp_symmetry", "linearity",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in {"strategies", "table"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
