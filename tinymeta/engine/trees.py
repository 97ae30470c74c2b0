"""Trees of arrays: dict, list, tuple, NamedTuple, dataclass and None; everything else is a leaf."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .structural import astype
from .tensor import as_array, describe


def children(tree: Any) -> tuple[tuple, tuple, Callable] | None:
    """(keys, subtrees, rebuild) of a node; None for a leaf."""
    kind = type(tree)
    if tree is None:
        return (), (), lambda _: None
    if kind is dict:
        return tuple(tree), tuple(tree.values()), lambda values: dict(zip(tree, values, strict=True))
    if isinstance(tree, dict):
        return tuple(tree), tuple(tree.values()), lambda values: _replaced(tree, values)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return tree._fields, tuple(tree), lambda values: kind(*values)
    if isinstance(tree, (list, tuple)):
        return tuple(range(len(tree))), tuple(tree), kind
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = tuple(field.name for field in dataclasses.fields(tree))
        values = tuple(getattr(tree, name) for name in names)
        return names, values, lambda new: _with_fields(tree, names, new)
    return None


def _with_fields(tree: Any, names: Sequence, values: Sequence) -> Any:
    """Another instance with these fields and nothing else, for what was made of the old ones would be stale."""
    new = object.__new__(type(tree))
    for name, value in zip(names, values, strict=True):
        object.__setattr__(new, name, value)
    return new


def _replaced(tree: dict, values: Sequence) -> dict:
    """A dict of the same kind with other values; copied, for a defaultdict is not made from its items."""
    new = copy.copy(tree)
    for key, value in zip(tree, values, strict=True):
        new[key] = value
    return new


def items(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of every leaf, in order; a path reads like Python: `['w'][0]`."""
    node = children(tree)
    if node is None:
        yield path, tree
    else:
        for key, child in zip(node[0], node[1], strict=True):
            yield from items(child, f"{path}[{key!r}]")


def leaves(tree: Any) -> list:
    """The leaves, in order."""
    return [leaf for _, leaf in items(tree)]


def map(f: Callable, tree: Any, *rest: Any, path: str = "") -> Any:
    """f(leaf, *matching leaves) over trees of one structure; ValueError names the first place where they differ."""
    node = children(tree)
    if node is None:
        return f(tree, *rest)
    keys, values, rebuild = node
    others = [_matching(keys, other, path) for other in rest]
    columns = zip(keys, values, *others, strict=True)
    return rebuild([map(f, value, *more, path=f"{path}[{key!r}]") for key, value, *more in columns])


def spread(prefix: Any, tree: Any, path: str = "") -> list:
    """One entry per leaf of the tree: a leaf of `prefix`, or None in it, stands for all leaves below its place."""
    if prefix is None or children(prefix) is None:
        return [prefix for _ in leaves(tree)]
    keys, values, _ = children(tree) or ((), (), None)
    entries = zip(keys, _matching(keys, prefix, path), values, strict=True)
    return [entry for key, p, value in entries for entry in spread(p, value, f"{path}[{key!r}]")]


def _matching(keys: tuple, other: Any, path: str) -> tuple:
    node = children(other)
    if node is None or set(node[0]) != set(keys):
        found = "a leaf" if node is None else f"keys {list(node[0])}"
        raise ValueError(f"trees differ at {path or 'the root'}: expected keys {list(keys)}, got {found}")
    if node[0] == keys:
        return node[1]
    by_key = dict(zip(node[0], node[1], strict=True))
    return tuple(by_key[key] for key in keys)


def unflatten(like: Any, new_leaves: Any) -> Any:
    """A tree of the structure of `like` with the given leaves; ValueError if their number differs."""
    supply = iter(new_leaves)
    try:
        tree = map(lambda _: next(supply), like)
    except StopIteration:
        raise ValueError(f"unflatten needs {len(leaves(like))} leaves, got fewer") from None
    if next(supply, supply) is not supply:
        raise ValueError(f"unflatten needs {len(leaves(like))} leaves, got more")
    return tree


def ravel(tree: Any) -> tuple[Any, Callable[[Any], Any]]:
    """(vector, back): all leaves in order as one vector, in the dtype that np.concatenate finds for them (float64 if there are
    none), and the function that makes of a vector of this shape a tree like this one, each leaf of its own shape and dtype, a view
    where it can be. JAX's ravel_pytree. TypeError for a leaf that is no number; ValueError, from `back`, for another shape.
    """
    arrays = [_of_numbers(x, path) for path, x in items(tree)]
    ends = [0, *itertools.accumulate(x.size for x in arrays)]
    places = [(slice(*ab), x.shape, x.dtype) for ab, x in zip(itertools.pairwise(ends), arrays, strict=True)]
    like = map(lambda _: 0, tree)  # the structure as it is now, without the arrays

    def back(vector: Any) -> Any:
        vector = as_array(vector)
        if vector.shape != (ends[-1],):
            raise ValueError(
                f"ravel: back was given {describe(vector)}, expected a vector of the {ends[-1]} elements of the tree"
            )
        return unflatten(like, [astype(np.reshape(vector[at], shape), dtype) for at, shape, dtype in places])

    return np.concatenate([np.ravel(x) for x in arrays]) if arrays else np.zeros(0), back


def _of_numbers(x: Any, path: str) -> Any:
    array = as_array(x)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"ravel: {path or 'the tree'} is {describe(x)}, expected an array of numbers")
    return array
