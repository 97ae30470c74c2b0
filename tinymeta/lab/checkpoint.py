"""A tree in one .npz file: arrays under keys, and a JSON text for structure, format version and owner. No pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tinymeta.lab.errors import UserError, one_line
from tinymeta.lab.files import atomic_write, file_errors

FORMAT = 1
Tree = Any  # dict, list, tuple or NamedTuple of trees; NumPy array or scalar, int, float, str, bool or None
_PLAIN = (int, float, str, bool, type(None))
_HELD = "dict (with text as keys), list, tuple, NumPy arrays and scalars, int, float, str, bool and None"


class Undressed(NamedTuple):
    """A NamedTuple as a file gives it back: a file cannot hold its class, only the name of it."""

    kind: str
    fields: list[Tree]
    names: list[str] | None = None  # of the fields; older files have none


def named_tuples(tree: Tree) -> dict[str, type]:
    """The NamedTuple classes that occur in `tree`, by name."""
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    found = {_name(type(tree)): type(tree)} if isinstance(tree, tuple) and hasattr(tree, "_fields") else {}
    for child in children:
        found |= named_tuples(child)
    return found


def settle(tree: Tree, known: Mapping[str, type], where: str = "state") -> Tree:
    """`tree` as a checkpoint would give it back: every array C-contiguous. TypeError that names what it cannot hold.

    A run settles its state after every step, so that BLAS sees the same memory layout whether or not it was resumed.
    A NamedTuple must be of a `known` class, else it could not be given back.
    """
    kind: Any = type(tree)
    if kind is np.ndarray and not tree.dtype.hasobject:
        return np.asarray(tree, order="C")
    if kind in _PLAIN or isinstance(tree, np.generic):
        return tree
    if kind is dict:
        return {_text(key, where): settle(child, known, f"{where}[{key!r}]") for key, child in tree.items()}
    if kind is list or kind is tuple:
        return kind(settle(child, known, f"{where}[{i}]") for i, child in enumerate(tree))
    if _name(kind) in known:
        return kind(*(settle(child, known, f"{where}.{name}") for name, child in zip(kind._fields, tree, strict=True)))
    described = f"an array of {tree.dtype}" if kind is np.ndarray else f"of type {kind.__name__}"
    raise TypeError(f"{where} is {described}; a checkpoint holds {_HELD}, and NamedTuples that are in the first state")


def dress(tree: Tree, known: Mapping[str, type]) -> Tree:
    """A loaded tree with its NamedTuples again; UserError if one is not of a `known` class, field by field."""
    if type(tree) is Undressed:
        kind: Any = known.get(tree.kind)
        names = getattr(kind, "_fields", ())
        if kind is None or len(names) != len(tree.fields) or tree.names not in (None, list(names)):
            raise UserError(f"the checkpoint has {tree.kind} in a form that this version has not; start a new run")
        return kind(*(dress(child, known) for child in tree.fields))
    if type(tree) is dict:
        return {key: dress(child, known) for key, child in tree.items()}
    return type(tree)(dress(child, known) for child in tree) if type(tree) in (list, tuple) else tree


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _text(key: Any, where: str) -> str:
    if type(key) is not str:
        raise TypeError(f"{where} has the key {key!r}; a checkpoint holds {_HELD}")
    return key


def save(path: Path, tree: Tree, owner: Mapping[str, str]) -> None:
    """Write a settled tree atomically; `owner` says what it belongs to and must be given again to load it."""
    arrays: dict[str, Any] = {}
    header = {"format": FORMAT, "owner": dict(owner), "tree": _encode(tree, arrays)}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with atomic_write(path) as file:
        np.savez(file, header=text, **arrays)


def load(path: Path, owner: Mapping[str, str]) -> Tree:
    """The tree in `path`, bit for bit, its NamedTuples undressed; UserError if it is damaged or not of this owner."""
    with file_errors("read", path), open(path, "rb") as file, _damage(path):
        header, arrays = _read(file)
        version, owned = header["format"], dict(header["owner"])
    if version != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {version}, this tinymeta reads {FORMAT}; "
            "resume it with the version that wrote it or start a new run"
        )
    for key, value in owner.items():
        if owned.get(key) != value:
            raise UserError(
                f"{path} belongs to {key} {owned.get(key)}, expected {key} {value}; start a new run for that"
            )
    with _damage(path):
        return _decode(header["tree"], arrays)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """One sentence for whatever a broken file makes zipfile, zlib, struct, tokenize and NumPy raise."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} is damaged or truncated ({type(error).__name__}: {one_line(error)}); "
            "start a new run, or put back a copy of this file and resume"
        ) from error


def _read(file: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(header, arrays); checksums first, so that no header of a damaged file is believed."""
    with zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged!r}")
    file.seek(0)
    with np.load(file, allow_pickle=False) as members:
        arrays = {key: members[key] for key in members.files}
    return json.loads(arrays.pop("header").tobytes()), arrays


def _encode(tree: Tree, arrays: dict[str, np.ndarray]) -> list[Any]:
    """[kind, content] for JSON; arrays and scalars go to `arrays` and leave their key."""
    kind: Any = type(tree)
    if kind is dict:
        return ["dict", [[key, _encode(child, arrays)] for key, child in tree.items()]]
    if kind is list or kind is tuple:
        return [kind.__name__, [_encode(child, arrays) for child in tree]]
    if isinstance(tree, tuple):
        name, fields, names = tree if kind is Undressed else (_name(kind), tree, list(kind._fields))
        return ["named", [name, [_encode(child, arrays) for child in fields], names]]
    if isinstance(tree, (np.ndarray, np.generic)):
        key = f"array{len(arrays)}"
        arrays[key] = np.asarray(tree)
        return ["array" if kind is np.ndarray else "scalar", key]
    return ["float", tree.hex()] if kind is float else ["plain", tree]


def _decode(node: list[Any], arrays: Mapping[str, np.ndarray]) -> Tree:
    kind, content = node
    return _DECODERS[kind](content, arrays)


_DECODERS = {
    "dict": lambda pairs, arrays: {key: _decode(child, arrays) for key, child in pairs},
    "list": lambda children, arrays: [_decode(child, arrays) for child in children],
    "tuple": lambda children, arrays: tuple(_decode(child, arrays) for child in children),
    "named": lambda parts, arrays: Undressed(parts[0], [_decode(x, arrays) for x in parts[1]], *parts[2:]),
    "array": lambda key, arrays: arrays[key],
    "scalar": lambda key, arrays: arrays[key][()],
    "float": lambda text, _: float.fromhex(text),
    "plain": lambda value, _: value,
}
