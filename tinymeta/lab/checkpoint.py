"""A tree in one .npz file: arrays under keys, and a JSON text for structure, format version and owner. No pickle."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinymeta.lab.errors import UserError
from tinymeta.lab.files import atomic_write, file_errors

FORMAT = 1
Tree = Any  # dict, list or tuple of trees; NumPy array or scalar, int, float, str, bool or None


def settle(tree: Tree, where: str = "state") -> Tree:
    """`tree` as a checkpoint would give it back: every array C-contiguous. TypeError that names what it cannot hold.

    A run settles its state after every step, so that BLAS sees the same memory layout whether or not it was resumed.
    """
    kind = type(tree)
    if kind is dict:
        return {_text(key, where): settle(child, f"{where}[{key!r}]") for key, child in tree.items()}
    if kind is list or kind is tuple:
        return kind(settle(child, f"{where}[{i}]") for i, child in enumerate(tree))
    if kind is np.ndarray and not tree.dtype.hasobject:
        return np.asarray(tree, order="C")
    if kind in _PLAIN or isinstance(tree, np.generic):
        return tree
    described = f"an array of {tree.dtype}" if kind is np.ndarray else f"a {kind.__name__}"
    raise TypeError(f"{where} is {described}; a checkpoint holds {_HELD}")


_PLAIN = (int, float, str, bool, type(None))
_HELD = "dict (with text as keys), list, tuple, NumPy arrays and scalars, int, float, str, bool and None"


def _text(key: Any, where: str) -> str:
    if type(key) is not str:
        raise TypeError(f"{where} has the key {key!r}; a checkpoint holds {_HELD}")
    return key


def save(path: Path, tree: Tree, owner: Mapping[str, str]) -> None:
    """Write a settled tree atomically; `owner` says what it belongs to and must be given again to load it."""
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, "owner": dict(owner), "tree": _encode(tree, arrays)}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, header=text, **arrays)  # type: ignore[arg-type]


def load(path: Path, owner: Mapping[str, str]) -> Tree:
    """The tree in `path`, bit for bit; UserError if the file is damaged, of another format, or not of this owner."""
    header, arrays = _read(path)
    if header.get("format") != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {header.get('format')}, this tinymeta reads {FORMAT}; "
            "resume it with the version that wrote it or start a new run"
        )
    for key, value in owner.items():
        if header["owner"].get(key) != value:
            found = header["owner"].get(key)
            raise UserError(f"{path} belongs to {key} {found}, expected {key} {value}; start a new run for that")
    return _decode(header["tree"], arrays)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with file_errors("read", path), open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()  # checksums first: no header of a damaged file is believed
            if damaged is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            return json.loads(arrays.pop("header").tobytes()), arrays
        except OSError:
            raise
        except Exception as error:  # zipfile, zlib, struct, tokenize and NumPy raise a dozen kinds on a broken file
            raise UserError(
                f"{path} is damaged or truncated ({type(error).__name__}: {error}); "
                "start a new run, or put back a copy of this file and resume"
            ) from error


def _encode(tree: Tree, arrays: dict[str, np.ndarray]) -> list[Any]:
    """[kind, content] for JSON; arrays and scalars go to `arrays` and leave their key."""
    kind = type(tree)
    if kind is dict:
        return ["dict", [[key, _encode(child, arrays)] for key, child in tree.items()]]
    if kind is list or kind is tuple:
        return [kind.__name__, [_encode(child, arrays) for child in tree]]
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
    "array": lambda key, arrays: arrays[key],
    "scalar": lambda key, arrays: arrays[key][()],
    "float": lambda text, _: float.fromhex(text),
    "plain": lambda value, _: value,
}
