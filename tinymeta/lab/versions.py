"""What a run ran on: versions, processor, BLAS and commit; no name of the machine or its user, no absolute path."""

from __future__ import annotations

import os
import platform
import subprocess
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

DISTRIBUTIONS = (
    "tinymeta", "numpy", "numba", "cupy-cuda13x", "cupy-cuda12x", "numba-cuda", "matplotlib", "gymnasium", "mujoco",
)  # fmt: skip
SETTINGS = ("TINYMETA_BACKEND", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def versions() -> dict[str, Any]:
    """A JSON-able record; nothing heavy is imported for it."""
    return {
        "python": platform.python_version(),
        **{name: found for name in DISTRIBUTIONS if (found := _version(name))},
        "commit": _commit(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "blas": _blas(),
        **{name: os.environ[name] for name in SETTINGS if name in os.environ},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, with "-dirty-" and a hash of what is changed in its tracked files; None
    for an installed copy."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None

    def git(*command: str) -> bytes:
        return subprocess.run(["git", *command], cwd=checkout, capture_output=True, check=True).stdout

    try:
        commit = git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40").decode().strip()
        return f"{commit}-{sha256(git('diff', 'HEAD')).hexdigest()[:8]}" if commit.endswith("-dirty") else commit
    except (OSError, subprocess.CalledProcessError):  # git is missing, or nothing is committed yet
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown"


def _blas() -> str:
    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
