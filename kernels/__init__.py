"""Kernels: functions of plain arrays, one folder per family, one page of mathematics in each family's docstring.

    lstm      the coordinatewise LSTM optimizer: cell, step, unroll and their backward passes (arXiv 1606.04474)
    fisher    diagonals of the Fisher information, layer by layer (arXiv 1612.00796)
    penalty   the quadratic EWC penalty, alone and inside an optimizer's step (arXiv 1612.00796)
    gemm      batched products of small matrices

In every family ``reference.py`` is obvious NumPy for any float dtype and the oracle of the family's other backends.
Rules for all: arrays of one call share one float dtype and the result has it; strides are free; an axis may have
size 0; inputs are never changed; a wrong dtype is a TypeError and a wrong shape a ValueError, in one sentence.
A family loads when it is first used.
"""

from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ["agree", "fisher", "gemm", "lstm", "one_dtype", "penalty"]
_FAMILIES = ("fisher", "gemm", "lstm", "penalty")


def __getattr__(name: str) -> ModuleType:
    if name in _FAMILIES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"{__name__} has no {name!r}, expected one of {', '.join(__all__)}")


def one_dtype(operation: str, /, **arrays: Any) -> None:
    """TypeError, naming the array, unless all are arrays of one and the same float dtype."""
    leader, first = next(iter(arrays.items()))
    for name, array in arrays.items():
        if not hasattr(array, "dtype"):
            kind = type(array).__name__
            raise TypeError(f"{operation}: {name} is of type {kind}, expected an array of floats; use numpy.asarray")
        if array.dtype.kind != "f":
            raise TypeError(
                f"{operation}: {name} is {array.dtype} of shape {array.shape}, expected floats; use .astype"
            )
        if array.dtype != first.dtype:
            raise TypeError(f"{operation}: {name} is {array.dtype} but {leader} is {first.dtype}; make them one dtype")


def agree(operation: str, /, **arrays: tuple[Any, str]) -> dict[str, int]:
    """Check that arrays share one float dtype and that axes of one name have one size; return the sizes by name.

    An axis is a number, a letter, or a sum of letters with whole factors, each bound before it is summed:
    ``agree("lstm_cell", x=(x, "n d"), h=(h, "n H"), W=(W, "d+H 4H"))``. TypeError on a dtype, ValueError on a shape.
    """
    one_dtype(operation, **{name: array for name, (array, _) in arrays.items()})
    sizes: dict[str, int] = {}
    for name, (array, axes) in arrays.items():
        layout = axes.split()
        if len(layout) == array.ndim:
            sizes = {axis: size for axis, size in zip(layout, array.shape, strict=True) if axis.isalpha()} | sizes
        expected = tuple(_size(axis, sizes) for axis in layout)
        if array.shape != expected:
            named, numbers = ", ".join(layout), ", ".join(map(str, expected))
            others = ", ".join(f"{other} is {given.shape}" for other, (given, _) in arrays.items() if other != name)
            where = f" = ({numbers}), where {others}" if others else ""
            raise ValueError(f"{operation}: {name} has shape {array.shape}, expected ({named}){where}")
    return sizes


def _size(axis: str, sizes: dict[str, int]) -> int | str:
    """The size of "2", "d", "4H" or "d+H"; the name itself while a letter in it is unbound."""
    if axis.isdigit():
        return int(axis)
    terms = [(int(term[:-1] or 1), term[-1]) for term in axis.split("+")]
    if any(letter not in sizes for _, letter in terms):
        return axis
    return sum(factor * sizes[letter] for factor, letter in terms)
