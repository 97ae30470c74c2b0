"""The value graph: a Tensor remembers which primitive made it, from what, when, and for which line of the user's.

Rules are looked up on the primitive, never closed over, so that the reverse sweep, the forward sweep and the drawings are
small interpreters over one list of (prim, inputs, params). Inputs that are not Tensors are constants of the graph.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

_HOUSE = frozenset({"tinymeta.engine", "tinymeta.ops", "tinymeta.compiler"})
# The vmaps and captures that run in any thread: while there is none, no value is Batched or captured.
OPEN: list[int] = []
# What tm.compile hangs in while it captures: how a primitive and a check of numbers write themselves down.
CAPTURES: list[Any] = []
_next_seq = itertools.count().__next__
_new = object.__new__
_getframe = sys._getframe
_ndarray = np.ndarray
PLAIN = (np.ndarray, np.memmap)  # arrays whose arithmetic is NumPy's


class Thread(threading.local):
    """Per thread: which derivatives, vmaps and captures run, the arrays they locked, and the line a recorded rule belongs to."""

    depth = 0
    maps: tuple[Any, ...] = ()
    captures = 0
    site: tuple[Any, int] | None = None

    def __init__(self) -> None:
        self.locked: dict[int, np.ndarray] = {}  # by id, every array after its base


THREAD = Thread()


class Prim:
    """A primitive: `forward(*arrays, **params)` and how it is differentiated.

    Rules are written with the public ops, so they take arrays or Tensors alike and can be differentiated again:
    - `vjps[i](g, out, *inputs, **params)` is the cotangent of input i; None where there is no derivative;
    - `vjp(g, out, *inputs, **params)` instead gives all cotangents at once (shared work, or any number of inputs);
    - kind "elementwise": vjps[i] is g times ∂out/∂input_i, so that it serves the forward sweep too;
    - kind "linear": linear in each input alone; "joint": linear in all inputs together; "general": neither;
    - `jvp(tangents, out, *inputs, **params)` overrides the JVP that a general op gets by transposing its VJP;
    - `broadcasts`: the engine sums cotangents back to the inputs' shapes; otherwise shapes must match exactly.
    `expr` is the scalar formula of an elementwise op, for printing and for generated code.
    """

    __slots__ = ("broadcasts", "differentiable", "expr", "forward", "jvp", "kind", "name", "vjp", "vjps")

    def __init__(
        self,
        name: str,
        forward: Callable,
        vjps: Sequence[Callable | None] = (),
        *,
        vjp: Callable | None = None,
        jvp: Callable | None = None,
        kind: str = "general",
        broadcasts: bool = False,
        expr: str | None = None,
    ) -> None:
        self.name, self.forward, self.vjps, self.vjp, self.jvp = name, forward, tuple(vjps), vjp, jvp
        self.kind, self.broadcasts, self.expr = kind, broadcasts or kind == "elementwise", expr
        self.differentiable = bool(self.vjps) or vjp is not None

    def __call__(self, *inputs: Any, **params: Any) -> Any:
        return bind(self, *inputs, **params)

    def __repr__(self) -> str:
        return f"<prim {self.name}>"


class Tensor:
    """A value inside a function that is being differentiated: an array, the primitive that made it, and its inputs."""

    __slots__ = ("code", "data", "inputs", "lasti", "params", "prim", "seq")
    __hash__ = object.__hash__
    __array_priority__ = 1000  # CuPy hands `array * tensor` to the operand of higher priority

    def __init__(self, data: Any, prim: Any = None, inputs: tuple = (), params: dict | None = None) -> None:
        self.data, self.prim, self.inputs, self.params = data, prim, inputs, params or {}
        self.seq = _next_seq()
        self.code: Any = None
        self.lasti = 0

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    def __repr__(self) -> str:
        made_by = self.prim.name if self.prim else "leaf"
        return f"<Tensor {describe(self)} from {made_by}: {self.data}>"


def bind(prim: Prim, *inputs: Any, **params: Any) -> Any:
    """Apply a primitive. Plain arrays in, plain array out; with a Tensor among the inputs the result is recorded."""
    run = prim.forward
    if OPEN:
        if _any_batched(inputs):
            return batched.bind_batched(prim, inputs, params)
        if CAPTURES:
            run = CAPTURES[-1].running(prim)
    arrays, tracked = [], False
    for x in inputs:
        if type(x) is Tensor:
            tracked = True
            x = x.data
        arrays.append(x)
    try:
        data = run(*arrays, **params)
    except Exception as error:
        raise explain(error, prim.name, arrays, line_of_user(_getframe(1))) from error
    if not tracked or not prim.differentiable:
        return data
    for x in inputs:
        if isinstance(x, _ndarray):
            lock(x)
        elif type(x) is list:  # which could be changed
            inputs = tuple(np.array(a) if type(a) is list else a for a in inputs)
    return record(data, prim, inputs, params)


def _any_batched(inputs: tuple) -> bool:
    return any(type(x.data if type(x) is Tensor else x) is batched.Batched for x in inputs)


def record(data: Any, prim: Prim, inputs: tuple, params: dict) -> Any:
    """A new node of the graph, with the line of the user's that made it; a tuple of nodes for a tuple of arrays."""
    node = _new(Tensor)
    node.data, node.prim, node.inputs, node.params, node.seq = data, prim, inputs, params, _next_seq()
    site = THREAD.site
    if site is None:
        frame = _user_frame(_getframe(3))  # 0 here, 1 bind, 2 the op: the first that can be the user's is 3
        node.code, node.lasti = frame.f_code, frame.f_lasti
    else:
        node.code, node.lasti = site
    return node if type(data) is not tuple else parts(node)


def _user_frame(frame: Any) -> Any:
    while frame.f_globals.get("__package__") in _HOUSE and frame.f_back is not None:
        frame = frame.f_back
    return frame


def line_of_user(frame: Any) -> str:
    frame = _user_frame(frame)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def parts(node: Tensor) -> tuple[Tensor, ...]:
    """The outputs of a primitive that returns a tuple, each as a Tensor of its own."""
    return tuple(record(d, PICK, (node,), {"index": k}) for k, d in enumerate(node.data))


def value(x: Any) -> Any:
    """The array in a Tensor; anything else as it is."""
    return x.data if type(x) is Tensor else x


def examine(check: Callable, *values: Any, again: bool = True) -> None:
    """check(*values), which raises where the arrays are wrong: a look at numbers, which a compiled function repeats on each call
    unless it is told not to look `again`."""
    if CAPTURES:
        CAPTURES[-1].examine(check, values, again)
    else:
        check(*values)


def is_float(x: Any) -> bool:
    """Whether x is a Tensor or an array, of any library, of floats: what a derivative can be taken of."""
    return getattr(getattr(x, "dtype", None), "kind", None) == "f"


def as_array(x: Any) -> Any:
    """x itself if it is a Tensor or an array of any library, np.asarray of a number or list."""
    return x if hasattr(x, "ndim") else np.asarray(x)


PICK = Prim("pick", lambda xs, index: xs[index], vjp=lambda g, out, xs, index: (g,))
IDENTITY = Prim("identity", lambda x: x, (lambda g, out, x: g,), kind="linear")


def lock(array: np.ndarray) -> None:
    """Make a captured array read-only until the thread's outermost derivative is done: changing it would falsify the gradient.

    Another view of it that was taken before stays writeable, and so does an array that NumPy would not unlock again.
    """
    for a in (array.base, array) if THREAD.depth else ():
        known = a is array or type(a) in PLAIN
        if a is not None and known and a.flags.writeable and (a.base is None or _unlockable(a)):
            a.flags.writeable = False
            THREAD.locked[id(a)] = a


def _unlockable(view: np.ndarray) -> bool:
    """Whether NumPy will make it writeable again: only for the sake of a writeable array, or buffer, that it is a view of."""
    base: Any = view.base
    while isinstance(base, _ndarray):
        if base.flags.writeable or id(base) in THREAD.locked:
            return True
        base = base.base
    try:
        return not memoryview(base).readonly
    except (TypeError, BufferError):  # as of torch_tensor.numpy() and as_strided
        return False


def lock_all(values: Iterable) -> None:
    for x in values:
        if type(x) in PLAIN:
            lock(x)


def unlock() -> None:
    locked, THREAD.locked = THREAD.locked, {}
    for array in locked.values():
        try:
            array.flags.writeable = True
        except ValueError:  # f has made its base read-only, and so it is meant to be
            continue


def describe(x: Any) -> str:
    """`float64[3,4]` for an array or Tensor, the type's name for anything else."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return f"{x.dtype}[{','.join(map(str, x.shape))}]"
    return type(x).__name__


def where_made(node: Tensor) -> str:
    """`file.py:12` of the user's line that made this node; worked out only when it is asked for."""
    if node.code is None:
        return "an input"
    line = next((at for start, end, at in node.code.co_lines() if start <= node.lasti < end), None)
    return f"{node.code.co_filename}:{line or node.code.co_firstlineno}"


def explain(error: Exception, op: str, inputs: Sequence, line: str) -> Exception:
    """The same error, saying which op failed, on what, and on which line of the user's."""
    message = f"{op}({', '.join(map(describe, inputs))}), called at {line}: {error}"
    for kind in type(error).__mro__:
        if issubclass(kind, Exception) and kind is not Exception:
            with contextlib.suppress(Exception):  # one that takes other things than a message
                return kind(message)
    return RuntimeError(message)


from . import batched  # noqa: E402  (it is made of what stands above; bind needs it when a vmap runs)
