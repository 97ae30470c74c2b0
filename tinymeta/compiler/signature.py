"""For which arguments a program holds: generated functions that read the arrays out of them, and put results into their tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine import trees
from ..engine.tensor import PLAIN, describe
from .capture import check_numbers, has_dtype, is_array
from .graph import Value


def reader(args: tuple, kwargs: dict) -> Callable[[tuple, dict], list | None]:
    """read(args, kwargs): the arrays among the leaves, in order; None for arguments of another tree, shape, dtype or static value.

    It is generated, with one test per node, because it is run at every call.
    """
    code = _Reader()
    code.node("args", args)
    code.node("kwargs", kwargs)
    body = "\n    ".join(code.lines)
    text = f"def read(args, kwargs):\n    {body}\n    return [{', '.join(code.leaves)}]\n"
    exec(text, code.names)
    return code.names["read"]


SIGNED = (float, complex)  # whose zeros are equal, but not alike


class _Reader:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.leaves: list[str] = []
        self.names: dict[str, Any] = {}

    def node(self, path: str, x: Any) -> None:
        node = trees.children(x)
        if node is None:
            self.leaf(path, x)
            return
        keys, values, _ = node
        kind = self.name(type(x))
        test = f"type({path}) is not {kind}"
        if isinstance(x, dict):
            test += f" or tuple({path}) != {self.name(keys)}"
        elif isinstance(x, (tuple, list)):
            test += f" or len({path}) != {len(values)}"
        self.lines.append(f"if {test}: return None")
        for k, (key, child) in enumerate(zip(keys, values, strict=True)):
            name = f"{path}_{k}"
            step = (
                f"[{self.name(key)}]"
                if isinstance(x, dict)
                else f"[{k}]"
                if isinstance(x, (tuple, list))
                else f".{key}"
            )
            self.lines.append(f"{name} = {path}{step}")
            self.node(name, child)

    def leaf(self, path: str, x: Any) -> None:
        test = f"type({path}) is not {self.name(type(x))}"
        if is_array(x):
            self.leaves.append(path)
            if x.shape == () and isinstance(x, (np.ndarray, np.generic)):
                # NumPy's scalars and arrays with no axis take turns
                test = f"(type({path}) not in {self.name(PLAIN)} and not isinstance({path}, {self.name(np.generic)}))"
            test += f" or {path}.shape != {x.shape} or {path}.dtype != {self.name(x.dtype)}"
        else:
            other = f"repr({path}) != {repr(x)!r}" if type(x) in SIGNED else f"{path} != {self.name(x)}"
            test += f" or {path} is not {self.name(x)} and {other}"
        self.lines.append(f"if {test}: return None")

    def name(self, x: Any) -> str:
        name = f"k{len(self.names)}"
        self.names[name] = x
        return name


def writer(result: Any, results: list[Value]) -> Callable[[list], Any]:
    """write(arrays): the result's tree, with the array of each of its Values (as in `results`) or what stands there; none twice."""
    names: dict[str, Any] = {}
    places = {v: k for k, v in enumerate(results)}
    used: set[int] = set()

    def array(at: int) -> str:
        again = at in used
        used.add(at)
        return f"arrays[{at}]{'.copy()' * again}"

    def name(x: Any) -> str:
        names[f"k{len(names)}"] = x
        return f"k{len(names) - 1}"

    def node(x: Any) -> str:
        found = trees.children(x)
        if found is None:
            return array(places[x]) if type(x) is Value else name(x)
        keys, values, rebuild = found
        parts = list(map(node, values))
        inside = "".join(f"{part}, " for part in parts)
        if x is None:
            return "None"
        if type(x) is dict:
            return f"{{{''.join(f'{name(k)}: {part}, ' for k, part in zip(keys, parts, strict=True))}}}"
        if type(x) is tuple:
            return f"({inside})"
        return f"[{inside}]" if type(x) is list else f"{name(rebuild)}(({inside}))"

    text = f"def write(arrays):\n    return {node(result)}\n"
    exec(text, names)
    return names["write"]


def check_static(args: tuple, kwargs: dict) -> None:
    """TypeError unless every leaf is an array or can be compared with that of another call."""
    for name, tree in [
        *((f"argument {i}", x) for i, x in enumerate(args)),
        *((f"argument {k}", x) for k, x in kwargs.items()),
    ]:
        for path, x in trees.items(tree):
            check_numbers(f"{name}{path}", x)
            if isinstance(x, np.ndarray) and type(x) not in PLAIN:
                raise TypeError(
                    f"tm.compile: {name}{path} is a {type(x).__name__}, whose arithmetic may be its own, expected a plain array: "
                    "pass np.asarray of it"
                )
            if not has_dtype(x):
                try:
                    hash(x)
                except TypeError:
                    raise TypeError(
                        f"tm.compile: {name}{path} is a {describe(x)}, which is neither an array nor hashable"
                    ) from None
