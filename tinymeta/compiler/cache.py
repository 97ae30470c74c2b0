"""Machine code kept on disk between processes, under a name made of the text it was compiled from and the processor."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

KEPT = 200  # files; older ones go


def folder() -> Path:
    """$TINYMETA_CACHE, or the platform's place for a user's caches; RuntimeError for a user without a home."""
    if given := os.environ.get("TINYMETA_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "tinymeta"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/tinymeta"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinymeta"


def cached(text: str, make: Callable[[], bytes]) -> bytes:
    """What make() made of this text: from disk if it is there whole, else made now and kept. One that cannot be written is none."""
    try:
        path = folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.o"
    except RuntimeError:
        return make()
    with contextlib.suppress(OSError):
        stored = path.read_bytes()
        if hashlib.sha256(stored[32:]).digest() == stored[:32]:
            with contextlib.suppress(OSError):
                path.touch()  # it was used, and is young again
            return stored[32:]
    made = make()
    with contextlib.suppress(OSError):
        _write(path, hashlib.sha256(made).digest() + made)
    return made


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whoever else writes the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError:  # a full disk, say, which what was written would fill further
        Path(name).unlink(missing_ok=True)
        raise
    oldest = sorted(path.parent.glob("*.o"), key=lambda p: p.stat().st_mtime)
    for stale in oldest[:-KEPT]:
        stale.unlink(missing_ok=True)
