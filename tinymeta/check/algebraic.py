"""Laws that a right derivative obeys exactly: no finite differences, so rounding is the only error, in any float dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import describe
from ..engine.transforms import hvp
from .report import CheckError, Report, positive
from .subject import Arrays, Seed, Subject, differentiable, generator, inner, normals, of_function

Sides = tuple[np.ndarray, np.ndarray]


def adjoint(f: Callable, *xs: Any, rng: Seed = None, rtol: float | None = None, name: str | None = None) -> Report:
    """<u, J v> = <Jᵀ u, v> for random u and v, in each argument alone: JVP and VJP are one matrix and its transpose.

    f takes trees of float arrays and returns a tree of arrays. `rtol` is eps**(2/3) of the dtype, 4e-11 in float64, relative
    to the sum of the absolute products; differences below 64 eps count as none.
    """
    subject = differentiable(of_function(f, xs, name))
    report = Report(subject.name)
    check_adjoint(subject, generator(rng), rtol, report)
    return report


def linearity(f: Callable, *xs: Any, rng: Seed = None, rtol: float | None = None, name: str | None = None) -> Report:
    """VJP(a u + b u') = a VJP(u) + b VJP(u'), and the same of the JVP in its tangent. Arguments as `adjoint`."""
    subject = differentiable(of_function(f, xs, name))
    report = Report(subject.name)
    check_linearity(subject, generator(rng), rtol, report)
    return report


def hvp_symmetry(f: Callable, x: Any, rng: Seed = None, rtol: float | None = None, name: str | None = None) -> Report:
    """<u, H v> = <v, H u> for the Hessian of a scalar f at x (a tree), and forward-over-reverse = reverse-over-reverse."""
    subject = of_function(f, (x,), name)
    source, report = generator(rng), Report(subject.name)
    u, v = normals(subject.arrays, source), normals(subject.arrays, source)

    def product(direction: Arrays, mode: str) -> Arrays:
        return hvp(lambda arrays: f(trees.unflatten(x, arrays)), subject.arrays, direction, mode)

    forward, reverse = product(v, "forward-over-reverse"), product(v, "reverse-over-reverse")
    for i, sides in enumerate(zip(forward, reverse, strict=True)):
        _same_arrays(subject, "forward-over-reverse = reverse-over-reverse", subject.argument(i), sides, rtol, report)
    other = inner(v, product(u, "forward-over-reverse"))
    _same_numbers(subject, "symmetry of the Hessian", "<u, H v> and <v, H u>", inner(u, forward), other, rtol, report)
    return report


def check_adjoint(subject: Subject, rng: np.random.Generator, rtol: float | None, report: Report) -> None:
    assert subject.push is not None
    us, vs = normals(subject.call(*subject.arrays), rng), normals(subject.arrays, rng)
    pulled = subject.pull(us)
    for i, v in enumerate(vs):
        alone = [v if i == j else np.zeros_like(w) for j, w in enumerate(vs)]
        left, right = inner(us, subject.push(alone)), inner(pulled, alone)
        where = f"{subject.argument(i)}: <u, J v> and <Jᵀ u, v>"
        _same_numbers(subject, "adjoint", where, left, right, rtol, report)


def check_linearity(subject: Subject, rng: np.random.Generator, rtol: float | None, report: Report) -> None:
    for i, sides in enumerate(_superposed(subject.pull, subject.call(*subject.arrays), rng)):
        _same_arrays(subject, "linearity of VJP", subject.argument(i), sides, rtol, report)
    if subject.push is not None:
        for i, sides in enumerate(_superposed(subject.push, subject.arrays, rng)):
            _same_arrays(subject, "linearity of JVP", f"output {i}, {describe(sides[0])}", sides, rtol, report)


def _superposed(linear: Callable[[Arrays], Arrays], like: Arrays, rng: np.random.Generator) -> list[Sides]:
    """(L(2 u - 3 v), 2 L(u) - 3 L(v)) for each result of a map L that should be linear."""
    u, v = normals(like, rng), normals(like, rng)
    whole = linear([2 * a - 3 * b for a, b in zip(u, v, strict=True)])
    return [(w, 2 * a - 3 * b) for w, a, b in zip(whole, linear(u), linear(v), strict=True)]


def _same_numbers(
    subject: Subject,
    law: str,
    where: str,
    a: tuple[float, float],
    b: tuple[float, float],
    rtol: float | None,
    report: Report,
) -> None:
    """Two inner products, each with the sum of its absolute terms, the scale of its rounding."""
    text = f"{where} are {a[0]:.12g} and {b[0]:.12g}"
    _judge(subject, law, text, abs(a[0] - b[0]), max(a[1], b[1]), rtol, report)


def _same_arrays(subject: Subject, law: str, where: str, sides: Sides, rtol: float | None, report: Report) -> None:
    a, b = sides
    difference = float(np.max(np.abs(a - b), initial=0))
    scale = float(max(np.max(np.abs(a), initial=0), np.max(np.abs(b), initial=0)))
    _judge(
        subject, law, f"{where}: the sides differ by {difference:.3g} on {scale:.3g}", difference, scale, rtol, report
    )


def _judge(
    subject: Subject, law: str, text: str, difference: float, scale: float, rtol: float | None, report: Report
) -> None:
    rtol = subject.eps ** (2 / 3) if rtol is None else positive(rtol)
    error = difference / (scale + 64 * subject.eps / rtol)
    if not error <= rtol:
        raise CheckError(f"{law} of {subject.name}, {text} (relative error {error:.1e}, expected at most {rtol:.1e})")
    report.add(law, error)
