"""Ship the learned optimizer of a finished run with the package: python -m tools.ship_optimizer runs/l2l-mnist/STAMP mnist-mlp

The file tinymeta/l2l/trained/NAME.npz is the run's optimizer.npz, in which experiment, preset, seed, config, versions and result of
the run stand beside the weights.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np

from tinymeta import trees
from tinymeta.l2l import LSTMOptimizer, pretrained
from tinymeta.lab.files import atomic_write

MADE_BY = ("experiment", "preset", "seed", "config", "versions", "result")
MAX_BYTES = 40_000


def ship(run: Path, name: str) -> Path:
    """The file written; SystemExit, with nothing written, if the run has no optimizer that can be shipped under this name."""
    source = run / "optimizer.npz"
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise SystemExit(f"the name {name!r} is not of the form mnist-mlp: small letters, digits and single hyphens")
    if not (run / "result.json").is_file() or not source.is_file():
        raise SystemExit(f"{run} has no result.json or no optimizer.npz: give the folder of a finished run of one LSTM")
    kinds = {x.dtype for x in trees.leaves(LSTMOptimizer.load(source).weights)}
    with np.load(source, allow_pickle=False) as archive:
        notes = json.loads(str(archive["header"]))["notes"]
    missing = [key for key in MADE_BY if key not in notes]
    content = source.read_bytes()
    if missing or kinds != {np.dtype(np.float32)} or len(content) > MAX_BYTES:
        raise SystemExit(
            f"{source} lacks {missing}, is of {kinds}, {len(content)} bytes; expected all notes, float32, {MAX_BYTES} at most"
        )
    target = pretrained.FOLDER / f"{name}.npz"
    target.parent.mkdir(exist_ok=True)
    with atomic_write(target) as file:
        file.write(content)
    return target


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    print(ship(Path(sys.argv[1]), sys.argv[2]))


if __name__ == "__main__":
    main()
