"""einsum: linear in each operand, so the cotangent of one operand is the einsum of g with all the others."""

from __future__ import annotations

import itertools
import string
from typing import Any

import numpy as np

from ..engine.tensor import Prim, as_array, bind, value
from .linalg import eye_like as _eye
from .shape import reshape

_einsum = Prim(
    "einsum",
    lambda *xs, spec: np.einsum(spec, *xs, optimize=True),
    vjp=lambda g, y, *xs, spec: [_cotangent(g, xs, spec, i) for i in range(len(xs))],
    kind="linear",
)


def einsum(subscripts: str, *operands: Any) -> Any:
    """Sum of products by index letters, as NumPy's: `ij,jk->ik`, `...` for leading axes, a repeated letter for a diagonal."""
    operands = tuple(map(as_array, operands))
    inputs, output = _explicit(subscripts.replace(" ", ""), operands)
    inputs, operands = _without_diagonals(*_without_ones(inputs, operands))
    return bind(_einsum, *operands, spec=f"{','.join(inputs)}->{output}")


def _explicit(subscripts: str, operands: tuple) -> tuple[list[str], str]:
    """Letters for every axis: `...` becomes capital letters from the end, a missing output is NumPy's (sorted singles)."""
    left, arrow, output = subscripts.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum({subscripts!r}) names {len(terms)} operand(s), got {len(operands)}")
    free = [c for c in reversed(string.ascii_letters) if c not in subscripts]
    extra = [x.ndim - len(t.replace("...", "")) if "..." in t else 0 for t, x in zip(terms, operands, strict=True)]
    dots = "".join(free[: max(extra, default=0)])
    inputs = [t.replace("...", dots[len(dots) - n :]) for t, n in zip(terms, extra, strict=True)]
    if not arrow:
        letters = "".join(terms).replace(".", "")
        output = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    for t, x in zip(inputs, operands, strict=True):
        if len(t) != x.ndim:
            raise ValueError(f"einsum({subscripts!r}): {t!r} names {len(t)} axes of an operand with {x.ndim}")
    return inputs, output.replace("...", dots)


def _without_ones(inputs: list[str], operands: tuple) -> tuple[list[str], tuple]:
    """An axis of length 1 whose letter is longer elsewhere is broadcast: it goes, and its letter with it."""
    lengths: dict[str, int] = {}
    for term, x in zip(inputs, operands, strict=True):
        lengths |= {c: n for c, n in zip(term, x.shape, strict=True) if n != 1 or c not in lengths}
    kept = [
        [n != 1 or lengths[c] == 1 for c, n in zip(t, x.shape, strict=True)]
        for t, x in zip(inputs, operands, strict=True)
    ]
    terms = ["".join(itertools.compress(t, k)) for t, k in zip(inputs, kept, strict=True)]
    return terms, tuple(
        x if all(k) else reshape(x, tuple(itertools.compress(x.shape, k))) for x, k in zip(operands, kept, strict=True)
    )


def _without_diagonals(inputs: list[str], operands: tuple) -> tuple[list[str], tuple]:
    """A letter that repeats within one operand gets a new name, tied to the old one by an identity matrix."""
    fresh = [c for c in string.ascii_letters if c not in "".join(inputs)]
    terms, more, eyes = [], [], []
    for term, x in zip(inputs, operands, strict=True):
        seen = ""
        for axis, letter in enumerate(term):
            if letter in seen:
                new = fresh.pop(0)
                more.append(letter + new)
                eyes.append(_eye(x, x.shape[axis]))
                letter = new
            seen += letter
        terms.append(seen)
    return terms + more, (*operands, *eyes)


def _cotangent(g: Any, xs: tuple, spec: str, i: int) -> Any:
    left, output = spec.split("->")
    terms = left.split(",")
    others = [(t, x) for j, (t, x) in enumerate(zip(terms, xs, strict=True)) if j != i]
    known = set(output).union(*(t for t, _ in others)) if others else set(output)
    lengths = dict(zip(terms[i], xs[i].shape, strict=True))
    lonely = [(c, np.ones_like(value(xs[i]), shape=(lengths[c],))) for c in terms[i] if c not in known]
    parts = [(output, g), *others, *lonely]
    return einsum(f"{','.join(t for t, _ in parts)}->{terms[i]}", *(x for _, x in parts))
