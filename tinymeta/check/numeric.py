"""Finite differences against the claimed derivatives, to any order and in every nesting of VJP and JVP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.tensor import describe
from .differences import differences, kink
from .report import CheckError, KinkError, Report, not_negative, positive
from .subject import Arrays, Seed, Subject, derived, differentiable, generator, inner, normals, of_function

Compared = tuple[float, str]  # relative error, "numeric ..., got ..."
Claim = Callable[[Arrays, list[float]], Compared]  # of the differences of the outputs and of their rounding errors


@dataclass(frozen=True)
class Comparison:
    """How to compare, and where the errors are collected."""

    modes: Sequence[str]
    rng: np.random.Generator
    rtol: float
    atol: float
    report: Report


def gradients(
    f: Callable,
    *xs: Any,
    order: int = 2,
    modes: Sequence[str] = ("vjp", "jvp"),
    rng: Seed = None,
    rtol: float = 6e-6,
    atol: float = 0.0,
    name: str | None = None,
) -> Report:
    """Compare the derivatives of f (trees of float64 arrays in, a tree of arrays out) with central differences.

    Random directions of length max(1, |x|max) are tried in each array alone and in all together, with steps of 1e-4, 2.4e-5
    and 6e-6 until one agrees. The error is relative to the scale of the directional derivative; it may be `rtol`, besides
    `atol` and rounding (for each unit of a cotangent 3e-10 max(1, |f|max) at the shortest step: scale up a function whose
    derivatives are no larger). Order n checks every nesting ("JVP of VJP of f"), in which cotangents and tangents are
    arguments too. CheckError if one is wrong; KinkError if it is so because f has a kink at xs, where order 1 passes the
    mean of both sides' slopes, as 0 for abs; TypeError for other dtypes (float32 is refused, not promoted: f itself might round).
    `rng` is a seed (default 0) or a Generator.
    """
    _known(order, modes)
    subject = of_function(f, xs, name)
    for i, x in enumerate(subject.arrays):
        if x.dtype != np.float64:
            raise TypeError(
                f"check.gradients: {subject.argument(i)}: finite differences need float64, pass x.astype(np.float64)"
            )
    comparison = Comparison(modes, generator(rng), positive(rtol), not_negative(atol), Report(subject.name))
    _nestings(subject, order, comparison)
    return comparison.report


def first_order(subject: Subject, comparison: Comparison) -> None:
    """Check the claimed VJP and JVP of one subject, in each array alone and in all together."""
    us = normals(differentiable(subject).call(*subject.arrays), comparison.rng)
    pulled = subject.pull(us) if "vjp" in comparison.modes else []
    for where, vs in _directions(subject, comparison.rng):
        claims: dict[str, Claim] = {}
        if "vjp" in comparison.modes:
            claims[subject.nest("vjp")] = _vjp_claim(us, inner(pulled, vs)[0], comparison.rtol)
        if "jvp" in comparison.modes and subject.push is not None:
            claims[subject.nest("jvp")] = _jvp_claim(subject.push(vs), comparison.rtol)
        for law, claim in claims.items():
            comparison.report.add(law, _error(subject, f"{law} of {subject.name}, {where}", vs, claim, comparison))


def _known(order: int, modes: Sequence[str]) -> None:
    if order < 1 or not modes or not set(modes) <= {"vjp", "jvp"}:
        raise ValueError(
            f"check.gradients: order {order} and modes {tuple(modes)}, expected 1 or more, of 'vjp' and 'jvp'"
        )


def _nestings(subject: Subject, order: int, comparison: Comparison) -> None:
    first_order(subject, comparison)
    if order > 1:
        for mode in comparison.modes:
            _nestings(derived(subject, mode, comparison.rng), order - 1, comparison)


def _directions(subject: Subject, rng: np.random.Generator) -> Iterator[tuple[str, Arrays]]:
    """(which arguments, tangents): every array alone, then all of them."""
    units = [_direction(x, rng) for x in subject.arrays]
    for i in range(len(units)):
        yield subject.argument(i), [v if i == j else np.zeros_like(v) for j, v in enumerate(units)]
    if len(units) > 1:
        yield "all arguments together", units


def _direction(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    v = normals([x], rng)[0]
    length = np.max(np.abs(x), initial=1.0)
    return np.asarray(v * (length / np.linalg.norm(v.ravel())), x.dtype) if v.size else v


def _vjp_claim(us: Arrays, got: float, rtol: float) -> Claim:
    def compare(numeric: Arrays, errors: list[float]) -> Compared:
        expected, scale = inner(us, numeric)
        slack = sum(float(np.sum(np.abs(u))) * e for u, e in zip(us, errors, strict=True)) / rtol
        return _relative(abs(expected - got), scale + slack), f"numeric {expected:.9g}, got {got:.9g}"

    return compare


def _jvp_claim(got: Arrays, rtol: float) -> Claim:
    def compare(numeric: Arrays, errors: list[float]) -> Compared:
        each = [_worst_element(a, b, e / rtol) for a, b, e in zip(numeric, got, errors, strict=True)]
        return max(each, key=lambda compared: np.inf if np.isnan(compared[0]) else compared[0])

    return compare


def _worst_element(numeric: np.ndarray, got: np.ndarray, slack: float) -> Compared:
    if numeric.shape != got.shape:
        return np.inf, f"expected a tangent {describe(numeric)}, got {describe(got)}"
    if not numeric.size:
        return 0.0, ""
    at = np.unravel_index(np.argmax(np.abs(numeric - got)), numeric.shape)
    a, b = float(numeric[at]), float(got[at])
    scale = float(max(np.max(np.abs(numeric)), np.max(np.abs(got))))
    place = f" at [{','.join(map(str, at))}]" if at else ""
    return _relative(abs(a - b), scale + slack), f"numeric {a:.9g}, got {b:.9g}{place}"


def _relative(difference: float, scale: float) -> float:
    return difference / scale if difference else 0.0


def _error(subject: Subject, what: str, vs: Arrays, claim: Claim, comparison: Comparison) -> float:
    """The relative error at the first step where the claim holds; otherwise says what is wrong."""
    for numeric, slack in differences(subject, vs):
        error, text = claim(numeric, [s + comparison.atol for s in slack])
        if error <= comparison.rtol:
            return error
    if not all(np.isfinite(y).all() for y in numeric):
        raise CheckError(f"{what}: the function is not finite around this point; move it into the domain")
    rough = kink(subject, vs)
    if rough is not None:
        raise KinkError(f"{what} sits on {rough}; move it away")
    raise CheckError(f"{what}: {text} (relative error {error:.1e}, expected at most {comparison.rtol:.1e})")
