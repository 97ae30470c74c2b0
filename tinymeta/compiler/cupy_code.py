"""The program for CuPy's arrays: a cupy.ElementwiseKernel for each cluster of elementwise ops, everything else op by op.

The clusters are the loops that machine code has (loops.py), without their sums, and join what is further apart. A kernel makes
fresh arrays, and what nobody reads any more is deleted, so that CuPy's pool hands its memory to the next one.
"""

from __future__ import annotations

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from . import numpy_code
from .cuda_scalars import C, check, expression
from .graph import Op, Program, Value, values
from .loops import Lowering
from .numpy_code import WIDTH, Lines
from .plan import is_view
from .statements import Loop, Unsupported

PARAMETERS = 4096  # bytes that a kernel's arguments may take on every GPU; an array takes 16 and 16 more for each axis
OPTIONS = ("--fmad=false",)  # each op rounds, as it does on its own


def is_cupy(x: Any) -> bool:
    """Whether x is an array of CuPy's, which is not imported here: nobody has one who did not import it."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


@functools.cache
def kernel(name: str, inputs: str, outputs: str, operation: str) -> Callable:
    """The kernel with this text, one in the process: CuPy compiles it at its first call, and keeps it on disk."""
    import cupy

    return cupy.ElementwiseKernel(inputs, outputs, operation, name, options=OPTIONS)


class Clusters(Lowering):
    """Loops and single ops in an order in which they can run. `on_device` are the inputs and constants that are CuPy's."""

    def __init__(self, program: Program, on_device: Iterable[Value]) -> None:
        self.on_device = set(on_device)
        self.views_after: dict[int, list[Op]] = defaultdict(list)  # by statement; a view ends no cluster
        super().__init__(program.ops, {v: v for v in program.results}, {})

    def __iter__(self) -> Iterator[Loop | Op]:
        yield from self.views_after[-1]
        for k, statement in enumerate(self.statements):
            yield _alone(statement) or statement  # type: ignore[misc]
            yield from self.views_after[k]

    def lower(self, op: Op) -> None:
        given = [x in self.on_device for x in values(op.inputs)]
        if any(given):
            self.on_device.update(op.outputs)
        if all(given) and _is_fused(op):
            self.elementwise(op)
            return
        self.wanted.update(values(op.inputs))
        if is_view(op) and type(op.inputs[0]) is Value:
            self.made[op.out] = self.ready(op.inputs[0])
            self.views_after[self.made[op.out]].append(op)
        else:
            self.append(op, *op.outputs)  # type: ignore[arg-type]

    def _has_room(self, loop: Loop) -> bool:
        arrays = len(loop.loads) + len(loop.code) + 5  # with the next op's three inputs and its output, and the index
        return super()._has_room(loop) and arrays * 16 * (1 + len(loop.shape)) <= PARAMETERS

    def _candidates(self, first: int) -> Sequence[int]:
        return range(first, len(self.statements))  # a launch costs more than what a cluster reads twice

    def _export(self, x: Value, to: Value) -> None:
        self.wanted.add(x)


class Code(numpy_code.Code):
    """The text of the program and the names in it: `source` defines replay(*inputs), which returns the program's results."""

    def __init__(self, program: Program, on_device: Iterable[Value]) -> None:
        self.statements = list(Clusters(program, on_device))
        self.kernels: dict[tuple, str] = {}  # the names of those that are written already
        super().__init__(program, buffers=False)

    def build(self) -> Callable:
        names: dict[str, Any] = dict(self.given)
        exec(compile(self.source, numpy_code.FILE, "exec"), names)
        run, owned = names["replay"], self._owned()

        def replay(*inputs: Any) -> list:
            with np.errstate(all="ignore"):
                try:
                    results = run(*inputs)
                except Exception as error:
                    numpy_code.note_line(error, self.source)
                    raise
                return [x if own else numpy_code._fresh(x) for x, own in zip(results, owned, strict=True)]

        return replay

    def _owned(self) -> list[bool]:
        """Whether each result is a kernel's own array, which nothing else shares."""
        made = {view.root for s in self.statements if isinstance(s, Loop) for _, view in s.stores}
        return [v in made for v in self.program.results]

    def _lines(self) -> Lines:
        self.given["kernel"] = kernel
        dead = self._dead(map(_touched, self.statements), set(self.program.results))
        definitions, steps = Lines(), Lines()
        for k, s in enumerate(self.statements):
            steps += self._launch(s, definitions) if isinstance(s, Loop) else self._step(s)
            steps += dead[k]
        steps.append(f"return ({''.join(f'{self.names[v]}, ' for v in self.program.results)})")
        parameters = ", ".join(self.names[v] for v in self.program.inputs)
        return [*definitions, f"def replay({parameters}):", *(f"    {line}" for line in steps)]

    def _launch(self, loop: Loop, definitions: Lines) -> Lines:
        """The call of the loop's kernel, which is defined unless another loop has the same."""
        inputs = ", ".join(f"{view.root.dtype} v{register}" for view, register in loop.loads.items())
        outputs = ", ".join(f"{view.root.dtype} y{k}" for k, (_, view) in enumerate(loop.stores))
        body = list(_body(loop))
        key = (inputs, outputs, *(code for code, _ in body))
        if key not in self.kernels:
            self.kernels[key] = f"fused{len(self.kernels)}"
            title = f"tm_{'_'.join(op.prim.name for _, op, _ in loop.code)}"[:60]
            definitions += [f"{self.kernels[key]} = kernel({title!r}, {inputs!r}, {outputs!r},"]
            definitions += [f"    {self._commented(repr(code), op) if op else repr(code)}" for code, op in body]
            definitions += [")"]
        given = ", ".join(self.names[view.root] for view in loop.loads)
        made = ", ".join(self.names[view.root] for _, view in loop.stores)
        comment = f"# {', '.join(op.prim.name for _, op, _ in loop.code)}"
        return [f"{f'{made} = {self.kernels[key]}({given})':<{WIDTH}} {comment}"]


def _body(loop: Loop) -> Iterator[tuple[str, Op | None]]:
    """The kernel's lines, each with the op that it computes."""
    dtypes = {register: view.root.dtype for view, register in loop.loads.items()}
    for register, op, arguments in loop.code:
        given = [(f"v{a}", dtypes[a]) if isinstance(a, int) else (a[0], None) for a in arguments]
        dtypes[register] = op.out.dtype
        yield f"const {C[op.out.dtype.name]} v{register} = {expression(op, given)};", op
    for k, (register, _) in enumerate(loop.stores):
        yield f"y{k} = v{register};", None


def _is_fused(op: Op) -> bool:
    try:
        check(op)
    except Unsupported:
        return False
    return not op.many


def _alone(statement: Any) -> Op | None:
    """The op of a loop that has only one, if that is a ufunc: CuPy has a kernel for it."""
    if isinstance(statement, Loop) and len(statement.code) == 1 and numpy_code._ufunc(statement.code[0][1]):
        return statement.code[0][1]
    return None


def _touched(statement: Loop | Op) -> list[Value]:
    if isinstance(statement, Op):
        return [*values(statement.inputs), *statement.outputs]
    return [view.root for view in statement.loads] + [view.root for _, view in statement.stores]
