"""Central differences along a direction, their rounding error, and what tells a kink from a wrong derivative."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .subject import Arrays, Subject

RATIO = 4.0
STEPS = (RATIO**2, RATIO, 1.0)  # in units of eps**(1/3), where rounding and truncation of a central difference balance


def differences(subject: Subject, vs: Arrays) -> Iterator[tuple[Arrays, list[float]]]:
    """The slope of each output along vs and the size of its rounding error, by central differences of shorter and shorter steps.

    The last two are extrapolated from two steps, for errors that shrink with the step, where the second derivative jumps, as in
    relu(x)**2, and with its square, where the function is smooth.
    """
    slopes: Arrays = []
    for step in _steps(subject):
        longer = slopes
        with np.errstate(all="ignore"):  # a step may leave the domain; a shorter one, or the message, deals with it
            above, below = _at(subject, vs, step), _at(subject, vs, -step)
            slopes = [(a - b) / (2 * step) for a, b in zip(above, below, strict=True)]
        rounding = [_rounding(subject, y, step) for y in above]
        yield slopes, rounding
    for shrinks in (RATIO, RATIO**2):
        with np.errstate(all="ignore"):
            yield [(shrinks * s - l) / (shrinks - 1) for s, l in zip(slopes, longer, strict=True)], rounding


def kink(subject: Subject, vs: Arrays) -> str | None:
    """What is not smooth here: a kink, whose two slopes a shorter step does not bring together, or a jump; None if smooth."""
    *_, long, short = _steps(subject)
    here = _at(subject, vs, 0.0)
    pairs = zip(here, _sides(subject, vs, here, long), _sides(subject, vs, here, short), strict=True)
    for y, coarse, (below, above) in pairs:
        noise = 4 * _rounding(subject, y, short)
        for name, size, growth in _ROUGH:
            before, after = size(*coarse), size(below, above)
            found = np.argwhere((after > noise) & (after > growth * before))
            if len(found):
                at = tuple(found[0])
                return f"a {name}: slopes {below[at]:.6g} and {above[at]:.6g} on its two sides"
    return None


# what to measure of two one-sided slopes, and by how much it must have grown from the long step to the short one
_ROUGH = (
    ("kink", lambda below, above: np.abs(above - below), 0.6),  # where the function is smooth: 1 / RATIO
    ("jump", lambda below, above: np.abs(above) + np.abs(below), 2.0),  # smooth: 1, at a jump: RATIO
)


def _steps(subject: Subject) -> list[float]:
    """Longest first: 1e-4, 2.4e-5 and 6e-6 in float64."""
    return [step * subject.eps ** (1 / 3) for step in STEPS]


def _sides(subject: Subject, vs: Arrays, here: Arrays, step: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """(slope below, slope above) of each output."""
    left, right = _at(subject, vs, -step), _at(subject, vs, step)
    return [((y - l) / step, (r - y) / step) for l, y, r in zip(left, here, right, strict=True)]


def _at(subject: Subject, vs: Arrays, step: float) -> Arrays:
    moved = [np.asarray(x + step * v, x.dtype) for x, v in zip(subject.arrays, vs, strict=True)]
    return [np.asarray(y, np.float64) for y in subject.call(*moved)]


def _rounding(subject: Subject, y: np.ndarray, step: float) -> float:
    """Of a difference quotient of y, if what y was computed from was of size 1: a small y may be what larger terms left."""
    return 8 * subject.eps * float(np.max(np.abs(y), initial=1.0)) / step
