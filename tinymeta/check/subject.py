"""What is checked: a function of plain float arrays together with the derivatives that are claimed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import Tensor, describe
from ..engine.transforms import jvp, vjp
from .report import CheckError

Arrays = list[np.ndarray]
Seed = np.random.Generator | int | None


@dataclass(frozen=True)
class Subject:
    """`call(*arrays)` is a list of float arrays; `pull` and `push` are its claimed VJP and JVP at `arrays`."""

    law: str  # "" for the function itself, "VJP" or "JVP of VJP" for what was derived from it
    name: str
    labels: list[str]
    arrays: Arrays
    call: Callable[..., Arrays]
    pull: Callable[[Arrays], Arrays]
    push: Callable[[Arrays], Arrays] | None

    @property
    def eps(self) -> float:
        """Machine epsilon of the least precise array."""
        return max((float(np.finfo(x.dtype).eps) for x in self.arrays), default=float(np.finfo(np.float64).eps))

    def nest(self, mode: str) -> str:
        """The law's name one derivative further: "JVP" around "VJP" is "JVP of VJP"."""
        return f"{mode.upper()} of {self.law}" if self.law else mode.upper()

    def argument(self, i: int) -> str:
        return f"{self.labels[i]}, {describe(self.arrays[i])}"


def differentiable(subject: Subject) -> Subject:
    """The subject; CheckError if none of its results is an array of floats."""
    if not subject.call(*subject.arrays):
        raise CheckError(f"{subject.name} returned no array of floats, so it has no derivative to check")
    return subject


def of_function(f: Callable, xs: Sequence[Any], name: str | None) -> Subject:
    """The function as the engine differentiates it; results that are not floats (labels, masks) are left out."""
    labels, arrays = [], []
    for i, tree in enumerate(xs):
        for path, x in trees.items(tree):
            labels.append(f"argument {i}{path}")
            arrays.append(_float_array(x, labels[-1]))
    if not arrays:
        raise TypeError(
            f"check: {name or name_of(f)} was given no array, expected the arguments to differentiate it by"
        )

    def call(*leaves: Any) -> Arrays:
        return float_outputs(f(*trees.unflatten(tuple(xs), leaves)))

    return _differentiated("", name or name_of(f), labels, arrays, call)


def derived(subject: Subject, mode: str, rng: np.random.Generator) -> Subject:
    """The function (x, u) -> VJP of f at x of u, or (x, v) -> JVP of f at x of v, whose own derivatives are order two of f."""
    n, call = len(subject.arrays), subject.call
    extra = normals(subject.arrays if mode == "jvp" else call(*subject.arrays), rng)

    def pulled(*arrays: Any) -> Arrays:
        return list(vjp(call, *arrays[:n])[1](list(arrays[n:])))

    def pushed(*arrays: Any) -> Arrays:
        return jvp(call, arrays[:n], arrays[n:])[1]

    kind = "cotangent" if mode == "vjp" else "tangent"
    labels = subject.labels + [f"{kind} {i}" if len(extra) > 1 else kind for i in range(len(extra))]
    return _differentiated(
        subject.nest(mode), subject.name, labels, subject.arrays + extra, pulled if mode == "vjp" else pushed
    )


def as_function(op: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Callable, Arrays]:
    """op as a function of the float arrays among `args` alone, and those arrays; axes, indices and masks are held fixed."""
    leaves = trees.leaves(tuple(args))
    floats = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]

    def function(*arrays: Any) -> Any:
        filled = list(leaves)
        for i, x in zip(floats, arrays, strict=True):
            filled[i] = x
        return op(*trees.unflatten(tuple(args), filled), **kwargs)

    function.__name__ = name_of(op)
    return function, [leaves[i] for i in floats]


def name_of(f: Callable) -> str:
    return str(getattr(f, "__name__", "function"))


def generator(rng: Seed) -> np.random.Generator:
    """The Generator of a check: its own, seeded with 0, unless the caller gives a seed or a Generator."""
    return np.random.default_rng(0 if rng is None else rng)


def normals(like: Sequence[np.ndarray], rng: np.random.Generator) -> Arrays:
    """Standard normal arrays of the same shapes and dtypes."""
    return [np.asarray(rng.standard_normal(x.shape)).astype(x.dtype) for x in like]


def inner(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> tuple[float, float]:
    """<a, b> over a list of arrays, and the same of the absolute values: the scale of its rounding error."""
    products = [np.multiply(x, y, dtype=np.float64) for x, y in zip(a, b, strict=True)]
    return sum(float(np.sum(p)) for p in products), sum(float(np.sum(np.abs(p))) for p in products)


def float_outputs(tree: Any) -> Arrays:
    """The floating leaves of what a function returned, as arrays (or Tensors)."""
    outputs: list[Any] = [y if isinstance(y, Tensor) else np.asarray(y) for y in trees.leaves(tree)]
    return [y for y in outputs if y.dtype.kind == "f"]


def _differentiated(law: str, name: str, labels: list[str], arrays: Arrays, call: Callable[..., Arrays]) -> Subject:
    def pull(us: Arrays) -> Arrays:
        return list(vjp(call, *arrays)[1](us))

    def push(vs: Arrays) -> Arrays:
        return jvp(call, arrays, vs)[1]

    return Subject(law, name, labels, arrays, call, pull, push)


def _float_array(x: Any, label: str) -> np.ndarray:
    """A copy, so that nothing that is done here can change the caller's array."""
    array = np.array(x)
    if array.dtype.kind != "f":
        raise TypeError(
            f"check: {label} is {describe(array)}, expected floats: hold it fixed by a lambda around the function"
        )
    return array
