"""The contract of a hand-written kernel: what a forward, its VJP and its JVP on plain arrays owe to each other and to callers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.tensor import describe
from .algebraic import check_adjoint, check_linearity
from .numeric import Comparison, first_order
from .report import CheckError, Report, not_negative, positive
from .subject import Arrays, Seed, Subject, generator, name_of, normals


def contract(
    forward: Callable,
    vjp: Callable,
    jvp: Callable | None = None,
    *,
    args: Sequence[Any],
    name: str | None = None,
    rng: Seed = None,
    rtol: float | None = None,
    atol: float = 0.0,
) -> Report:
    """Check your own kernel, torch autograd.Function or jax custom rule: NumPy arrays in and out, any library inside.

    - forward(*args) -> an array of floats, or a tuple of them;
    - vjp(cotangents, *args) -> a tuple with one cotangent per argument (None for integer arguments), where `cotangents` is an
      array if forward returns an array and a tuple if it returns a tuple;
    - jvp(tangents, *args) -> what forward returns; `tangents` is a tuple with one array per argument (None for integers).

    Each must give the shapes and dtypes of its values, the same result twice, the same result for strided inputs (to
    rounding), and leave its inputs alone. The VJP and JVP must agree with central differences, be linear, and be adjoint.
    float32 is checked in float32, to `rtol` = eps**(1/3) = 5e-3 (6e-6 in float64). CheckError if one of this fails.
    """
    kernel = _Kernel(forward, vjp, jvp, tuple(np.array(x) for x in args), name or name_of(forward))
    source, report, subject = generator(rng), Report(kernel.name), kernel.subject()
    _well_behaved("forward", lambda arrays: kernel.outputs(*arrays), list(kernel.args), kernel.name)
    us, vs = normals(kernel.like, source), normals(subject.arrays, source)
    n = len(us)
    _well_behaved("vjp", lambda arrays: kernel.pull(arrays[:n], arrays[n:]), [*us, *kernel.args], kernel.name)
    if jvp is not None:
        m = len(vs)
        _well_behaved("jvp", lambda arrays: kernel.push(arrays[:m], arrays[m:]), [*vs, *kernel.args], kernel.name)
        check_adjoint(subject, source, None, report)
    check_linearity(subject, source, None, report)
    rtol = subject.eps ** (1 / 3) if rtol is None else positive(rtol)
    first_order(subject, Comparison(("vjp", "jvp"), source, rtol, not_negative(atol), report))
    return report


class _Kernel:
    """The three functions with their trees flattened to lists of float arrays, and every result checked for its shape."""

    def __init__(self, forward: Callable, vjp: Callable, jvp: Callable | None, args: tuple, name: str) -> None:
        self.forward, self.vjp, self.jvp, self.args, self.name = forward, vjp, jvp, args, name
        for i, x in enumerate(args):
            if x.dtype.kind == "O":
                raise TypeError(
                    f"check.contract: argument {i} of {name} is no array or number: hold it fixed by a lambda around the functions"
                )
        self.floats = [i for i, x in enumerate(args) if x.dtype.kind == "f"]
        if not self.floats:
            raise TypeError(f"check.contract: {name} has no argument of floats to differentiate")
        self.many = isinstance(forward(*self._copies()), tuple)
        self.like = self.outputs(*self._copies())

    def subject(self) -> Subject:
        def call(*leaves: np.ndarray) -> Arrays:
            return self.outputs(*self._filled(leaves, self.args))

        labels, arrays = [f"argument {i}" for i in self.floats], [self.args[i] for i in self.floats]
        push = None if self.jvp is None else lambda vs: self.push(vs, self.args)
        return Subject("", self.name, labels, arrays, call, lambda us: self.pull(us, self.args), push)

    def outputs(self, *args: Any) -> Arrays:
        return self._results("forward", self.forward(*args))

    def pull(self, us: Sequence[np.ndarray], args: Sequence[Any]) -> Arrays:
        found = self.vjp(tuple(us) if self.many else us[0], *args)
        if not isinstance(found, tuple) or len(found) != len(self.args):
            raise CheckError(
                f"vjp of {self.name} returned {_count(found)}, expected a tuple of {len(self.args)}, one per argument"
            )
        chosen = [found[i] for i in self.floats]
        for i, g in zip(self.floats, chosen, strict=True):
            _same_kind(f"vjp of {self.name}, argument {i}", g, self.args[i])
        return chosen

    def push(self, vs: Sequence[np.ndarray], args: Sequence[Any]) -> Arrays:
        assert self.jvp is not None
        nothing = [None] * len(self.args)
        found = self._results("jvp", self.jvp(tuple(self._filled(vs, nothing)), *args))
        for k, (t, y) in enumerate(zip(found, self.like, strict=True)):
            _same_kind(f"jvp of {self.name}, output {k}", t, y)
        return found

    def _copies(self) -> list[Any]:
        """The arguments for a kernel that has not yet been seen to leave them alone."""
        return [x.copy() for x in self.args]

    def _filled(self, floats: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
        filled = list(rest)
        for i, x in zip(self.floats, floats, strict=True):
            filled[i] = x
        return filled

    def _results(self, which: str, returned: Any) -> Arrays:
        arrays = list(returned) if self.many and isinstance(returned, tuple) else [returned]
        if which == "jvp" and len(arrays) != len(self.like):
            raise CheckError(
                f"jvp of {self.name} returned {_count(returned)}, expected a tuple of {len(self.like)} as forward"
            )
        for y in arrays:
            if not isinstance(y, (np.ndarray, np.generic)) or y.dtype.kind != "f":
                raise CheckError(f"{which} of {self.name} returned {describe(y)}, expected a NumPy array of floats")
        return [np.asarray(y) for y in arrays]


def _well_behaved(which: str, run: Callable[[list], Arrays], inputs: list[np.ndarray], name: str) -> None:
    """The same result twice, the inputs untouched, and strided inputs as good as contiguous ones."""
    given = [x.copy() for x in inputs]
    first = [y.copy() for y in run(given)]
    if not all(_identical(a, b) for a, b in zip(given, inputs, strict=True)):
        raise CheckError(f"{which} of {name} changed one of its inputs in place")
    if not all(_identical(a, b) for a, b in zip(first, run(given), strict=True)):
        raise CheckError(f"{which} of {name} gave another result when it was called again with the same inputs")
    for a, b in zip(first, run([_strided(x) for x in inputs]), strict=True):
        if not np.allclose(a, b, rtol=np.finfo(a.dtype).eps ** (2 / 3), atol=np.finfo(a.dtype).eps, equal_nan=True):
            raise CheckError(f"{which} of {name} gave another result for inputs that are not contiguous in memory")


def _strided(x: np.ndarray) -> np.ndarray:
    """The same values, every second element of a larger array; other elements are ones."""
    if x.ndim == 0:
        return x
    wide = np.ones((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _identical(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _same_kind(what: str, got: Any, like: np.ndarray) -> None:
    if getattr(got, "shape", None) != like.shape or got.dtype != like.dtype:
        raise CheckError(f"{what}: got {describe(got)}, expected {describe(like)} like the value it belongs to")


def _count(x: Any) -> str:
    return f"a tuple of {len(x)}" if isinstance(x, tuple) else describe(x)
