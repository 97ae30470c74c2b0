"""einsum: linear in each operand, so the cotangent of one operand is the einsum of g with all the others."""

from __future__ import annotations

import itertools
import string
from typing import Any

import numpy as np

from ..engine.tensor import Prim, as_array, bind, describe, value
from .indexing import getitem
from .shape import reshape

_einsum = Prim(
    "einsum",
    lambda *xs, spec: np.einsum(spec, *xs, optimize=True),
    vjp=lambda g, y, *xs, spec: [_cotangent(g, xs, spec, i) for i in range(len(xs))],
    kind="linear",
)


def einsum(subscripts: str, *operands: Any) -> Any:
    """Sum of products by index letters, as NumPy's: `ij,jk->ik`, `...` for leading axes, a repeated letter for a diagonal."""
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: subscripts are {describe(subscripts)}, expected letters such as 'ij,jk->ik'")
    operands = tuple(map(as_array, operands))
    inputs, output = _explicit(subscripts.replace(" ", ""), operands)
    operands = tuple(_diagonal(subscripts, term, x) for term, x in zip(inputs, operands, strict=True))
    inputs, operands = _without_ones(["".join(dict.fromkeys(term)) for term in inputs], operands)
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
    if dots and "..." not in output:
        raise ValueError(f"einsum({subscripts!r}): the output has no place for the axes of '...', expected '...' in it")
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


def _diagonal(subscripts: str, term: str, x: Any) -> Any:
    """x with one axis for each letter of its term: of a letter that repeats the diagonal, and nothing of what lies beside it."""
    letters = "".join(dict.fromkeys(term))
    if letters == term:
        return x
    lengths = dict(zip(term, x.shape, strict=True))
    if any(lengths[c] != n for c, n in zip(term, x.shape, strict=True)):
        raise ValueError(f"einsum({subscripts!r}): {term!r} repeats a letter for different lengths of {describe(x)}")
    places = (np.arange(lengths[c], like=value(x)) for c in term)
    shapes = ([-1 if c == letter else 1 for c in letters] for letter in term)
    return getitem(x, tuple(i.reshape(shape) for i, shape in zip(places, shapes, strict=True)))


def _cotangent(g: Any, xs: tuple, spec: str, i: int) -> Any:
    left, output = spec.split("->")
    terms = left.split(",")
    others = [(t, x) for j, (t, x) in enumerate(zip(terms, xs, strict=True)) if j != i]
    known = set(output).union(*(t for t, _ in others)) if others else set(output)
    lengths = dict(zip(terms[i], xs[i].shape, strict=True))
    lonely = [(c, np.ones_like(value(xs[i]), shape=(lengths[c],))) for c in terms[i] if c not in known]
    parts = [(output, g), *others, *lonely]
    return einsum(f"{','.join(t for t, _ in parts)}->{terms[i]}", *(x for _, x in parts))
