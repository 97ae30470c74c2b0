"""The op table: one line per op with its metadata bound and example inputs, checked by every law and printed as a table."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from .algebraic import adjoint, linearity
from .numeric import gradients
from .report import CheckError, Report

Maker = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Row:
    """An op at example inputs: `name` is its public name, with what sets the row apart in brackets."""

    name: str
    function: Callable
    inputs: tuple[Any, ...]  # a tree of Makers

    @property
    def op(self) -> str:
        return self.name.partition("[")[0]

    def arrays(self) -> list[Any]:
        """The same arrays every time: the seed is the name."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        return [trees.map(lambda make: make(rng), tree) for tree in self.inputs]


@dataclass(frozen=True)
class Result:
    """The worst error of each law of a row, or the sentence that says what is wrong."""

    row: Row
    report: Report
    failure: str | None = None


def _row(name: str, function: Callable, *inputs: Any) -> Row:
    return Row(name, function, inputs)


def _real(*shape: int) -> Maker:
    return lambda rng: np.asarray(rng.standard_normal(shape))


def _positive(*shape: int) -> Maker:
    return lambda rng: rng.uniform(0.3, 2, shape)


def _nonzero(*shape: int) -> Maker:
    return lambda rng: rng.uniform(0.3, 2, shape) * rng.choice([-1, 1], shape)


def _distinct(*shape: int) -> Maker:
    return lambda rng: rng.permutation(np.linspace(-2, 2, int(np.prod(shape)))).reshape(shape)


def _matrix(n: int) -> Maker:
    return lambda rng: rng.standard_normal((2, n, n)) + 5 * np.eye(n)


_REPEATED = np.array([2, 0, -1, 2])
_ALONG = np.array([[2, 0], [1, 1], [0, -1]])
_MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, True]])


def _positive_definite(a: Any) -> Any:
    return a @ ops.swapaxes(a, -1, -2) + np.eye(a.shape[-1])


_FOOTER = """
Worst relative errors in float64; J·V is the JVP of the VJP. J and V stand against finite differences, good to about 1e-6;
the last three columns are exact laws."""


# every op of tinymeta.ops that has a derivative, at points where it has one
ROWS = (
    _row("add", ops.add, _real(3, 4), _real(4)),
    _row("subtract", ops.subtract, _real(3, 1), _real(2, 1, 4)),
    _row("multiply", ops.multiply, _real(3, 4), _real(3, 1)),
    _row("divide", ops.divide, _real(3, 4), _nonzero(4)),
    _row("power", ops.power, _positive(3, 4), _real(4)),
    _row("power[x, 3]", lambda x: ops.power(x, 3), _real(3, 4)),
    _row("maximum", ops.maximum, _distinct(3, 4), _real(4)),
    _row("minimum", ops.minimum, _distinct(3, 4), _real(3, 1)),
    _row("logaddexp", ops.logaddexp, _real(3, 4), _real(4)),
    _row("negative", ops.negative, _real(3, 4)),
    _row("reciprocal", ops.reciprocal, _nonzero(3, 4)),
    _row("exp", ops.exp, _real(3, 4)),
    _row("expm1", ops.expm1, _real(3, 4)),
    _row("log", ops.log, _positive(3, 4)),
    _row("log1p", ops.log1p, _positive(3, 4)),
    _row("sqrt", ops.sqrt, _positive(3, 4)),
    _row("square", ops.square, _real(3, 4)),
    _row("abs", ops.abs, _nonzero(3, 4)),
    _row("absolute", ops.absolute, _nonzero(3, 4)),
    _row("sin", ops.sin, _real(3, 4)),
    _row("cos", ops.cos, _real(3, 4)),
    _row("tan", lambda x: ops.tan(0.3 * x), _real(3, 4)),
    _row("arctan", ops.arctan, _real(3, 4)),
    _row("sinh", ops.sinh, _real(3, 4)),
    _row("cosh", ops.cosh, _real(3, 4)),
    _row("tanh", ops.tanh, _real(3, 4)),
    _row("sigmoid", ops.sigmoid, _real(3, 4)),
    _row("relu", ops.relu, _nonzero(3, 4)),
    _row("softplus", ops.softplus, _real(3, 4)),
    _row("clip", lambda x: ops.clip(x, -1.1, 0.9), _distinct(3, 4)),
    _row("where", lambda x, y: ops.where(_MASK, x, y), _real(3, 4), _real(4)),
    _row("sum", lambda x: ops.sum(x, axis=(0, -1)), _real(2, 3, 4)),
    _row("mean", lambda x: ops.mean(x, axis=1, keepdims=True), _real(2, 3, 4)),
    _row("max", lambda x: ops.max(x, axis=(0, 2)), _distinct(2, 3, 4)),
    _row("min", lambda x: ops.min(x, axis=-1, keepdims=True), _distinct(2, 3, 4)),
    _row("var", lambda x: ops.var(x, axis=0, ddof=1), _real(4, 3)),
    _row("std", lambda x: ops.std(x, axis=(0, 1)), _real(4, 3)),
    _row("prod", lambda x: ops.prod(x, axis=1), _real(2, 5)),
    _row("cumsum", lambda x: ops.cumsum(x, axis=-2), _real(2, 3, 4)),
    _row("logsumexp", lambda x: ops.logsumexp(x, axis=1), _real(3, 4)),
    _row("norm", lambda x: ops.norm(x, axis=-1), _real(3, 4)),
    _row("reshape", lambda x: ops.reshape(x, (2, -1)), _real(3, 4)),
    _row("ravel", ops.ravel, _real(3, 4)),
    _row("transpose", lambda x: ops.transpose(x, (2, 0, 1)), _real(2, 3, 4)),
    _row("moveaxis", lambda x: ops.moveaxis(x, (0, 1), (-1, 0)), _real(2, 3, 4)),
    _row("swapaxes", lambda x: ops.swapaxes(x, 0, -1), _real(2, 3, 4)),
    _row("expand_dims", lambda x: ops.expand_dims(x, (0, -1)), _real(3, 4)),
    _row("squeeze", lambda x: ops.squeeze(x, 1), _real(3, 1, 4)),
    _row("concatenate", lambda xs: ops.concatenate(xs, axis=1), [_real(3, 1), _real(3, 4)]),
    _row("stack", lambda xs: ops.stack(xs, axis=-1), [_real(3, 4), _real(3, 4)]),
    _row("hstack", ops.hstack, [_real(3, 1), _real(3, 4)]),
    _row("vstack", ops.vstack, [_real(4), _real(3, 4)]),
    _row("split", lambda x: ops.split(x, [1, 3], axis=1), _real(3, 4)),
    _row("broadcast_to", lambda x: ops.broadcast_to(x, (2, 3, 4)), _real(3, 1)),
    _row("sum_to", lambda x: ops.sum_to(x, (3, 1)), _real(2, 3, 4)),
    _row("pad", lambda x: ops.pad(x, [(1, 2), (0, 1)]), _real(3, 4)),
    _row("flip", lambda x: ops.flip(x, axis=1), _real(3, 4)),
    _row("roll", lambda x: ops.roll(x, (1, -2), axis=(0, 1)), _real(3, 4)),
    _row("astype", lambda x: ops.astype(ops.astype(x, np.longdouble), np.float64), _real(3, 4)),
    _row("getitem", lambda x: ops.getitem(x, (_REPEATED, slice(None, None, -1))), _real(3, 4)),
    _row("getitem[mask]", lambda x: ops.getitem(x, _MASK), _real(3, 4)),
    _row("scatter_add", lambda x, y: ops.scatter_add(x, _REPEATED, y), _real(3, 4), _real(4, 4)),
    _row("take", lambda x: ops.take(x, _REPEATED, axis=1), _real(2, 3, 4)),
    _row("take_along_axis", lambda x: ops.take_along_axis(x, _ALONG, axis=1), _real(3, 4)),
    _row("repeat", lambda x: ops.repeat(x, [2, 0, 1], axis=0), _real(3, 4)),
    _row("tile", lambda x: ops.tile(x, (2, 1, 3)), _real(3, 4)),
    _row("diagonal", lambda x: ops.diagonal(x, 1, axis1=-1, axis2=0), _real(4, 2, 3)),
    _row("trace", lambda x: ops.trace(x, -1), _real(3, 4, 2)),
    _row("diag", ops.diag, _real(3, 4)),
    _row("diag[vector]", lambda v: ops.diag(v, -1), _real(3)),
    _row("tril", lambda x: ops.tril(x, 1), _real(2, 3, 4)),
    _row("triu", ops.triu, _real(3, 4)),
    _row("matmul", ops.matmul, _real(3, 4), _real(4, 2)),
    _row("matmul[stacked]", ops.matmul, _real(2, 1, 3, 4), _real(3, 4, 2)),
    _row("matmul[vector]", ops.matmul, _real(4), _real(2, 4, 3)),
    _row("dot", ops.dot, _real(2, 4), _real(3, 4, 2)),
    _row("vdot", ops.vdot, _real(3, 4), _real(2, 6)),
    _row("inner", ops.inner, _real(2, 4), _real(3, 4)),
    _row("vecdot", lambda a, b: ops.vecdot(a, b, axis=0), _real(3, 4), _real(3, 2, 1)),
    _row("outer", ops.outer, _real(3), _real(2, 2)),
    _row("tensordot", lambda a, b: ops.tensordot(a, b, ([0, -1], [1, 0])), _real(2, 3, 4), _real(4, 2)),
    _row("einsum", lambda a, b: ops.einsum("...ij,...kj->...ik", a, b), _real(2, 3, 4), _real(2, 2, 4)),
    _row("einsum[diagonal]", lambda a, b: ops.einsum("iij,j->i", a, b), _real(3, 3, 4), _real(4)),
    _row("solve", ops.solve, _matrix(3), _real(2, 3, 2)),
    _row("cholesky", lambda a: ops.cholesky(_positive_definite(a)), _real(2, 3, 3)),
    _row("conv2d", lambda x, w: ops.conv2d(x, w, stride=2, padding=1), _real(2, 2, 5, 4), _real(3, 2, 3, 3)),
    _row("conv2d[tasks]", ops.conv2d, _real(2, 2, 1, 3, 3), _real(2, 2, 1, 2, 2)),
    _row("max_pool2d", lambda x: ops.max_pool2d(x, 2), _distinct(2, 2, 5, 4)),
    _row("mean_pool2d", lambda x: ops.mean_pool2d(x, (3, 2), stride=1), _real(2, 2, 5, 4)),
    _row("batch_norm", lambda x, g, b: ops.batch_norm(x, g, b, axis=(0, 2, 3)), _real(4, 2, 2, 2), _real(2), _real(2)),
    _row("softmax", lambda x: ops.softmax(x, axis=0), _real(3, 4)),
    _row("log_softmax", ops.log_softmax, _real(3, 4)),
    _row("softmax_cross_entropy", lambda x: ops.softmax_cross_entropy(x, np.array([2, 0, 3])), _real(3, 4)),
)  # fmt: skip


def run(names: Sequence[str] = (), order: int = 2) -> Iterator[Result]:
    """Check the rows of the named ops (default: all) by finite differences up to `order`, adjoint and linearity, one by one.

    ValueError for a name that has no row.
    """
    known = {row.op for row in ROWS}
    unknown = [name for name in names if name not in known | {row.name for row in ROWS}]
    if unknown:
        raise ValueError(f"check: no row for {', '.join(unknown)}; the ops are {', '.join(sorted(known))}")
    return (_checked(row, order) for row in ROWS if not names or row.op in names or row.name in names)


def print_all(names: Sequence[str] = (), order: int = 2) -> int:
    """Print op x order x mode with the worst relative error of each; the number of rows that fail."""
    results = run(names, order)
    columns = [*_nestings(order), "adjoint", "linearity of VJP", "linearity of JVP"]
    width = max(len(row.name) for row in ROWS)
    print(f"{'op':{width}}  " + "  ".join(f"{_heading(law):>9}" for law in columns))
    failures, worst = 0, dict.fromkeys(columns, 0.0)
    for result in results:
        failures += result.failure is not None
        print(f"{result.row.name:{width}}  " + _figures(result, columns), flush=True)
        worst = {law: max(worst[law], result.report.errors.get(law, 0.0)) for law in columns}
    print(f"{'worst':{width}}  " + "  ".join(f"{worst[law]:9.1e}" for law in columns))
    print(_FOOTER, f"{failures or 'No'} failure{'' if failures == 1 else 's'}.")
    return failures


def _checked(row: Row, order: int) -> Result:
    report, arrays = Report(row.name), row.arrays()
    try:
        report.errors.update(gradients(row.function, *arrays, order=order, name=row.name).errors)
        report.errors.update(adjoint(row.function, *arrays, name=row.name).errors)
        report.errors.update(linearity(row.function, *arrays, name=row.name).errors)
    except CheckError as error:
        return Result(row, report, str(error))
    except Exception as error:
        return Result(row, report, f"{type(error).__name__}: {error}")
    return Result(row, report)


def _nestings(order: int) -> list[str]:
    """ "VJP", "JVP", "VJP of VJP", ...: every nesting up to the order."""
    return [" of ".join(modes) for n in range(1, order + 1) for modes in itertools.product(("VJP", "JVP"), repeat=n)]


def _heading(law: str) -> str:
    if law.startswith("linearity"):
        return f"linear {law[-3]}"
    return law if law == "adjoint" else law.replace(" of ", "·").replace("VJP", "V").replace("JVP", "J")


def _figures(result: Result, columns: Sequence[str]) -> str:
    if result.failure is not None:
        return f"FAILED  {result.failure}"
    return "  ".join(f"{result.report.errors[law]:9.1e}" for law in columns)
