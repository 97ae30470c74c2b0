"""Kernel ops: fast hand-written implementations that never limit the order of differentiation.

An op declares a *reference composition* of public ops. Its value comes from a kernel, its first derivative from a VJP kernel; the
VJP kernel is itself an op, whose reference is the VJP of the reference. Whatever order the kernels do not provide is therefore
differentiated through the composition: never silently wrong, never refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..engine.backend import choose
from ..engine.rerun import Rerun
from ..engine.tensor import Prim, bind

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
    pulled = _vjp_op(name, reference, vjp, vjp_vjp) if vjp else None

    def vjp_rule(g: Any, out: Any, *args: Any, **params: Any) -> Any:
        gs = g if isinstance(g, tuple) else (g,)
        if pulled is None:
            return Rerun(reference, args, params=params).pull(gs)
        found = iter(_tuple(bind(pulled, *gs, *args, outputs=len(gs), many=isinstance(g, tuple), **params)))
        return [next(found) if _is_float(a) else None for a in args]

    def jvp_rule(tangents: Any, out: Any, *args: Any, **params: Any) -> Any:
        if jvp and not any(hasattr(x, "prim") for x in (*tangents, *args)):
            return choose(name, jvp, args)(tangents, *args, **params)
        pushed = Rerun(reference, args, params=params).push(tangents)
        return pushed if isinstance(out, tuple) else pushed[0]

    return Prim(name, lambda *a, **p: choose(name, forward, a)(*a, **p), vjp=vjp_rule, jvp=jvp_rule)


def _vjp_op(name: str, reference: Callable, vjp: Kernels, vjp_vjp: Kernels | None) -> Prim:
    """The VJP kernel as a primitive of (cotangents..., arrays...), with the VJP of the reference as its own reference."""

    def composed(*all_args: Any, outputs: int, many: bool, **params: Any) -> tuple:
        again = Rerun(reference, all_args[outputs:], params=params)
        return tuple(g for g in again.pull(all_args[:outputs]) if g is not None)

    def adapt(kernel_function: Callable) -> Callable:
        def run(*all_args: Any, outputs: int, many: bool, **params: Any) -> tuple:
            gs, args = all_args[:outputs], all_args[outputs:]
            return tuple(g for g in kernel_function(gs if many else gs[0], *args, **params) if g is not None)

        return run

    def adapt_double(kernel_function: Callable) -> Callable:
        def run(g: tuple, *all_args: Any, outputs: int, many: bool, **params: Any) -> Any:
            gs, args = all_args[:outputs], all_args[outputs:]
            return kernel_function(g, gs if many else gs[0], *args, **params)

        return run

    forward = {backend: adapt(f) for backend, f in vjp.items()}
    double = {backend: adapt_double(f) for backend, f in vjp_vjp.items()} if vjp_vjp else None
    return _kernel_prim(f"{name}_vjp", composed, forward, double)


def _tuple(x: Any) -> tuple:
    return x if isinstance(x, tuple) else (x,)


def _is_float(x: Any) -> bool:
    return getattr(getattr(x, "dtype", None), "kind", None) == "f"
