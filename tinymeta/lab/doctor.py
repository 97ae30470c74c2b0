"""What is here and what is missing, in plain words."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tinymeta.engine import backend
from tinymeta.lab.optional import PACKAGES, installed
from tinymeta.lab.table import aligned
from tinymeta.lab.versions import versions


def describe(runs: Path) -> str:
    """Versions, optional packages, backend, data folder, runs folder and GPU, one fact a line."""
    facts = {key: str(value) for key, value in versions().items() if value is not None}
    facts |= {"backend": _backend(), "data": _data(), "runs": _runs(runs), "GPU": _gpu()}
    packages = ((f"  {name}", purpose, _state(name, extra)) for name, (extra, purpose) in PACKAGES.items())
    return "\n".join([*aligned(facts.items()), "", "optional packages:", *aligned(packages)])


def _state(name: str, extra: str) -> str:
    return "installed" if installed(name) else f"missing: pip install 'tinymeta[{extra}]'"


def _backend() -> str:
    try:
        return backend.chosen() or "TINYMETA_BACKEND is not set: chosen by the arrays and by what is installed"
    except (ValueError, ImportError) as error:
        return str(error)


def _data() -> str:
    folder = os.environ.get("TINYMETA_DATA")
    if not folder:
        return "TINYMETA_DATA is not set: embedded data, and full sets fetched on first use"
    if not os.path.isdir(folder):
        return f"TINYMETA_DATA is {folder}, which is no folder: correct or unset it"
    try:
        sets = sorted(path.name for path in Path(folder).iterdir() if os.path.isdir(path))
    except OSError as error:
        return f"TINYMETA_DATA is {folder}, which cannot be read ({error.strerror}): correct or unset it"
    return f"TINYMETA_DATA is {folder} with {', '.join(sets) or 'nothing in it'}"


def _runs(folder: Path) -> str:
    """Judged by the nearest folder that exists: a doctor makes none."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return f"{folder} is writable"
    except OSError:
        return f"{folder} cannot be written: choose another folder by --runs"


def _gpu() -> str:
    if not installed("cupy"):
        driver = Path("/dev/nvidiactl").exists()
        return "an NVIDIA driver but no CuPy: pip install 'tinymeta[cuda]'" if driver else "none seen, and no CuPy"
    try:
        import cupy

        names = [
            cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(cupy.cuda.runtime.getDeviceCount())
        ]
    except Exception as error:  # a broken driver or CUDA library fails in many ways, all of them worth telling
        return f"CuPy cannot use it: {error}"
    return ", ".join(names) or "none seen"
