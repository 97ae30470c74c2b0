"""Kernel ops: fast hand-written implementations that never limit the order of differentiation.

An op declares a *reference composition* of public ops. Its value comes from a kernel, its first derivative from a VJP kernel; the
VJP kernel is itself an op, whose reference is the VJP of the reference. Whatever order the kernels do not provide is therefore
differentiated through the composition: never silently wrong, never refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.backend import choose
from ..engine.batched import COMPOSED
from ..engine.rerun import Rerun
from ..engine.tensor import Prim, Tensor, bind, describe, is_float

Kernels = Mapping[str, Callable]  # backend ("numpy", "numba", "cuda") -> function of plain arrays
KERNELS: dict[str, Callable] = {}  # every declared kernel op by name: its tests and benchmarks are generated from this


def kernel(
    name: str,
    reference: Callable,
    forward: Kernels,
    vjp: Kernels | None = None,
    vjp_vjp: Kernels | None = None,
    jvp: Kernels | None = None,
) -> Callable:
    """An op `f(*arrays, **params)` that runs `forward[backend]` and differentiates by kernels as far as they go.

    - reference(*arrays, **params): the same function of public ops, returning one array or a tuple of arrays;
    - vjp[backend](cotangents, *arrays, **params) -> one cotangent per array (None for integer arrays), where cotangents is an
      array, or a tuple of arrays if the op returns a tuple;
    - vjp_vjp[backend](cotangents of the vjp's results, cotangents, *arrays, **params): the double backward;
    - jvp[backend](tangents, *arrays, **params): tangents of the outputs; a tangent is None where there is none.
    """
    prim = _kernel_prim(name, reference, forward, vjp, vjp_vjp, jvp)

    def op(*arrays: Any, **params: Any) -> Any:
        return bind(prim, *arrays, **params)

    op.__name__ = op.__qualname__ = name
    op.__doc__ = reference.__doc__
    op.reference, op.prim, op.kernels = reference, prim, forward  # type: ignore[attr-defined]
    KERNELS[name] = op
    return op


def _kernel_prim(
    name: str,
    reference: Callable,
    forward: Kernels,
    vjp: Kernels | None,
    vjp_vjp: Kernels | None = None,
    jvp: Kernels | None = None,
) -> Prim:
    pulled = _vjp_prim(name, reference, vjp, vjp_vjp) if vjp else None

    def vjp_rule(g: Any, out: Any, *args: Any, **params: Any) -> Any:
        gs = g if isinstance(g, tuple) else (g,)
        if pulled is None:
            return Rerun(reference, args, params=params).pull(gs)
        several = len(gs) if isinstance(g, tuple) else 0
        found = iter(bind(pulled, *gs, *args, several=several, given=params))
        return [next(found) if is_float(a) else None for a in args]

    def jvp_rule(tangents: Any, out: Any, *args: Any, **params: Any) -> Any:
        if jvp and not any(type(x) is Tensor for x in (*tangents, *args)):
            return choose(name, jvp, args)(tangents, *args, **params)
        pushed = Rerun(reference, args, params=params).push(tangents)
        return pushed if isinstance(out, tuple) else pushed[0]

    prim = Prim(name, lambda *a, **p: choose(name, forward, a)(*a, **p), vjp=vjp_rule, jvp=jvp_rule)
    COMPOSED[prim] = reference
    return prim


def _vjp_prim(name: str, reference: Callable, vjp: Kernels, vjp_vjp: Kernels | None) -> Prim:
    """The VJP kernel as a primitive of (cotangents..., arrays...) -> the cotangents of the float arrays, a tuple.

    Its own reference is the VJP of the reference. `several` is the number of cotangents if the op returns a tuple, else 0;
    `given` are the op's own parameters.
    """

    def composed(*inputs: Any, several: int, given: dict) -> tuple:
        n = several or 1
        return tuple(g for g in Rerun(reference, inputs[n:], params=given).pull(inputs[:n]) if g is not None)

    def adapted(kernel_function: Callable) -> Callable:
        @functools.wraps(kernel_function)  # also its marks, such as float32_only
        def run(*inputs: Any, several: int, given: dict) -> tuple:
            g, args = _cut(inputs, several)
            return _of_floats(name, kernel_function(g, *args, **given), args)

        return run

    def adapted_double(kernel_function: Callable) -> Callable:
        @functools.wraps(kernel_function)
        def run(dd: tuple, *inputs: Any, several: int, given: dict) -> Any:
            g, args = _cut(inputs, several)
            return kernel_function(dd, g, *args, **given)

        return run

    forward = {backend: adapted(f) for backend, f in vjp.items()}
    double = {backend: adapted_double(f) for backend, f in vjp_vjp.items()} if vjp_vjp else None
    return _kernel_prim(f"{name}_vjp", composed, forward, double)


def _cut(inputs: tuple, several: int) -> tuple[Any, tuple]:
    """The cotangents (a tuple, or the only one) and the arrays."""
    return (inputs[:several], inputs[several:]) if several else (inputs[0], inputs[1:])


def _of_floats(name: str, cotangents: Any, args: tuple) -> tuple:
    """The cotangents of the float arrays; ValueError if the kernel gave too few, or none for one of them."""
    if len(cotangents) != len(args):
        raise ValueError(f"the VJP kernel of {name} returned {len(cotangents)} cotangents for {len(args)} arguments")
    for i, (g, a) in enumerate(zip(cotangents, args, strict=True)):
        if is_float(a) and g is None:
            raise ValueError(
                f"the VJP kernel of {name} returned None for argument {i}, {describe(a)}; expected an array"
            )
    return tuple(g for g, a in zip(cotangents, args, strict=True) if is_float(a))
