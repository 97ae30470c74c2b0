"""Download a published file once, verify it, keep it in the user's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tinymeta.data.errors import DataError


def cache_folder(name: str) -> Path:
    """The folder of this data set in tinymeta's part of the user's cache; ImportError without pooch."""
    return Path(_import_pooch().os_cache("tinymeta")) / name


def fetch(file: str, sha256: str, mirrors: Sequence[str], folder: Path) -> None:
    """Download `file` into `folder` unless it is there with this SHA-256.

    The first mirror that gives the right bytes is taken; DataError if none does, ImportError without pooch.
    """
    pooch = _import_pooch()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found = f"no folder to write to ({error.strerror})"
        raise DataError(str(folder), found, "one in the user's cache", "make it, or set TINYMETA_DATA") from error
    failures = []
    for mirror in mirrors:
        try:
            pooch.retrieve(mirror + file, known_hash=f"sha256:{sha256}", fname=file, path=folder)
            return
        except (OSError, ValueError) as error:  # every failure of requests is an OSError, a wrong hash a ValueError
            failures.append(f"{mirror} ({_reason(error)})")
    remedy = "check the network and try again, or set TINYMETA_DATA to a folder that holds the file"
    found = f"no right copy at {' or '.join(failures)}"
    raise DataError(str(folder / file), found, f"a download with SHA-256 {sha256}", remedy)


def _reason(error: OSError | ValueError) -> str:
    """In a few words: requests and urllib3 tell the whole chain of their exceptions."""
    if not isinstance(error, OSError):
        return "another SHA-256"
    response = getattr(error, "response", None)
    return error.strerror or type(error).__name__ if response is None else f"HTTP {response.status_code}"


def _import_pooch() -> ModuleType:
    try:
        import pooch
    except ImportError as error:
        message = 'fetching a data set needs pooch: pip install "tinymeta[lab]", or set TINYMETA_DATA to its folder'
        raise ImportError(message, name="pooch") from error
    return pooch
