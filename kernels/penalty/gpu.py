"""What both GPU twins do on the host: the functions of the family, given how to run a kernel on arrays and numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .reference import _compilable

Array = Any
Run = Callable[[str, list[Array], list[Array], list[float]], None]
"""run(kernel, arrays it reads, arrays it writes, numbers): arrays of one shape and dtype, numbers become that dtype."""


class Functions(NamedTuple):
    """penalty_grad, sgd_step, proximal_step and adam_step, each with the reference's arguments and `out`."""

    penalty_grad: Callable
    sgd_step: Callable
    proximal_step: Callable
    adam_step: Callable


def functions(run: Run) -> Functions:
    """The functions whose kernels `run` runs."""

    def penalty_grad(theta: Array, anchor: Array, fisher: Array, lam: float, out: Array | None = None) -> Array:
        """lam F (theta - anchor) (2), shaped like theta."""
        return _step(
            "penalty_grad", run, "gradients", {"theta": theta, "anchor": anchor, "fisher": fisher}, [lam], [out]
        )[0]

    def sgd_step(
        theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float, out: Array | None = None
    ) -> Array:
        """The new theta after gradient descent on loss + penalty (3); grad is the loss's gradient alone."""
        given = {"theta": theta, "grad": grad, "anchor": anchor, "fisher": fisher}
        return _step("sgd_step", run, "sgd", given, [lam, lr], [out])[0]

    def proximal_step(
        theta: Array, grad: Array, anchor: Array, fisher: Array, lam: float, lr: float, out: Array | None = None
    ) -> Array:
        """The new theta after an explicit step on the loss and an implicit one on the penalty (5)."""
        given = {"theta": theta, "grad": grad, "anchor": anchor, "fisher": fisher}
        return _step("proximal_step", run, "proximal", given, [lr, float(lr) * float(lam)], [out])[0]

    def adam_step(
        theta: Array,
        grad: Array,
        anchor: Array,
        fisher: Array,
        lam: float,
        lr: float,
        m: Array,
        v: Array,
        t: int,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        out: tuple[Array, Array, Array] | None = None,
    ) -> tuple[Array, Array, Array]:
        """(theta, m, v) after Adam's step number t = 1, 2, ... on loss + penalty (4); m and v start at 0."""
        if t < 1:
            raise ValueError(f"adam_step: t is {t}, expected the step's number counted from 1")
        given = {"theta": theta, "grad": grad, "anchor": anchor, "fisher": fisher, "m": m, "v": v}
        corrections = [1 - float(beta1) ** int(t), 1 - float(beta2) ** int(t)]
        numbers = [lam, lr, beta1, 1 - float(beta1), beta2, 1 - float(beta2), *corrections, eps]
        return tuple(_step("adam_step", run, "adam", given, numbers, list(out or [None] * 3)))

    return Functions(penalty_grad, sgd_step, proximal_step, adam_step)


def _step(
    operation: str, run: Run, kernel: str, given: dict[str, Array], numbers: list[float], outs: list[Array | None]
) -> list[Array]:
    _compilable(operation, **given, **{f"out_{k}": out for k, out in enumerate(outs) if out is not None})
    first = given["theta"]
    if any(out is not None and not out.flags.c_contiguous for out in outs):
        raise ValueError(f"{operation}: out has strides, expected a C-contiguous array to write to")
    new = [np.empty_like(first, order="C") if out is None else out for out in outs]
    if first.size:
        run(kernel, list(given.values()), new, [float(number) for number in numbers])
    return new
