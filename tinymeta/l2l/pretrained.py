"""The learned optimizers that are shipped with the package, each an .npz file with the config, seeds and result that made it."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np

from .optimizer import LSTMOptimizer

FOLDER = Path(__file__).with_name("trained")


def names() -> tuple[str, ...]:
    """What `pretrained` and `notes` accept, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.npz")))


def pretrained(name: str) -> LSTMOptimizer:
    """The shipped optimizer of this name, in float32; ValueError, with the names that come close, if there is none."""
    return LSTMOptimizer.load(_path(name))


def notes(name: str) -> dict[str, Any]:
    """What made this optimizer: its experiment, config, seed, result and the versions of the software, as they were saved."""
    with np.load(_path(name), allow_pickle=False) as archive:
        return json.loads(str(archive["header"]))["notes"]


def _path(name: str) -> Path:
    if name in names():
        return FOLDER / f"{name}.npz"
    close = difflib.get_close_matches(name, names(), n=3)
    there_is = (
        f"did you mean {' or '.join(map(repr, close))}?" if close else f"there are: {', '.join(names()) or 'none'}"
    )
    raise ValueError(f"no learned optimizer is shipped under the name {name!r}; {there_is}")
