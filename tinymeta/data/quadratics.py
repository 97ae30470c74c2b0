"""The random quadratics on which the learned optimizer is trained (Andrychowicz et al. 2016, section 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Quadratics(NamedTuple):
    """B problems f(theta) = |W theta - y|^2: float32 W (B, dim, dim) and y (B, dim)."""

    W: NDArray[np.float32]
    y: NDArray[np.float32]


def quadratics(
    rng: np.random.Generator, problems: int, dim: int = 10, kind: Literal["gaussian", "uniform"] = "gaussian"
) -> Quadratics:
    """Draw problems with IID entries: N(0, 1) as in the paper or, "uniform", U[0, 1) as in the authors' problems.py."""
    kinds: dict[str, Callable[..., NDArray[np.float64]]] = {"gaussian": rng.standard_normal, "uniform": rng.random}
    if kind not in kinds:
        raise ValueError(f"kind is {kind!r}, expected one of {list(kinds)}")
    draw = kinds[kind]
    return Quadratics(draw((problems, dim, dim)).astype(np.float32), draw((problems, dim)).astype(np.float32))
