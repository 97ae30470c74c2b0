"""Files that are either old or new and never half: atomic writes, JSON with clear errors, one writer at a time."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinymeta.lab.errors import UserError, one_line

NEW_RUN = "move its folder away and start a new run"  # the remedy for a file that nothing else can give back

NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # of a folder, on some network drives


@contextmanager
def file_errors(action: str, path: Path, remedy: str = "mend that or choose another folder") -> Iterator[None]:
    """Turn an OSError into one sentence: `cannot ACTION PATH: reason; remedy`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot {action} {path}: {reason}; {remedy}") from error


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success it is flushed to disk and takes the name, else it is removed.

    The temporary name is fixed, so what a killed process leaves behind is overwritten by the next write.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with file_errors("write", path):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut (POSIX only: elsewhere a folder cannot be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in NO_FSYNC:
                raise
        finally:
            os.close(handle)


def make_folder(path: Path, exist_ok: bool = True) -> Path:
    """Make `path` and its parents; UserError if that cannot be, FileExistsError if it must be new and is not."""
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.is_dir():
            raise
        with file_errors("make the folder", path):
            raise
    return path


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of plain values and NumPy arrays and scalars; floats come back bit for bit, NaN and Infinity included."""
    return json.dumps(value, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.char != "g":  # of which no Python float has all bits
        return value.tolist()
    raise TypeError(f"type {type(value).__name__} cannot be written as JSON; use numbers, text, lists, dicts or arrays")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, to_json(value, indent=1) + "\n")


def read_json(path: Path, remedy: str = NEW_RUN) -> dict[str, Any]:
    """The JSON object in `path`; UserError, with this remedy if it is damaged, if it cannot be read or is not one."""
    with file_errors("read", path):
        data = path.read_bytes()
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({one_line(error)}); {remedy}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}, expected an object; {remedy}")
    return value


def open_locked(path: Path) -> BinaryIO:
    """Open `path` for appending and hold it for this process; UserError while another process holds it."""
    with file_errors("write", path):
        file = open(path, "ab")  # noqa: SIM115 (the caller closes it)
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UserError(f"another process is writing {path}; wait until it has ended or start a new run") from error
    except (ImportError, OSError):  # Windows and some network drives have no flock: the run works, only unguarded
        pass
    return file
