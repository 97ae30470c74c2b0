"""What tests of the L2L experiments share: tiny settings, and runs of them."""

from __future__ import annotations

import json
from dataclasses import replace

from tinymeta import experiments
from tinymeta.lab import configure, execute

SMALL = {
    "meta_epochs": "2", "meta_batch": "1", "steps": "4", "unroll_length": "2", "validate_every": "1",
    "validation_problems": "2", "test_problems": "2", "hidden_units": "3",
}  # fmt: skip
SMALL_MNIST = SMALL | {"images": "subset", "pool": "14", "batch_size": "8", "hidden": "2"}
TINY = {
    "l2l-quadratic": SMALL | {"meta_epochs": "4", "meta_batch": "3", "validate_every": "2", "validation_problems": "4"},
    "l2l-mnist": SMALL_MNIST | {"horizons": "4,6"},
    "l2l-mnist-sweep": SMALL_MNIST | {"layers": "1,2", "units": "2,3"},
}


def tiny(name, preset="quick", **changes):
    return configure(experiments.load(name), preset, TINY[name] | changes)


def undrawn(name):
    """The experiment without its figures, which take longer than all the rest here."""
    return replace(experiments.load(name), draw=lambda outcome: {})


def finished(name, tmp_path, **changes):
    folder = execute(undrawn(name), tiny(name, **changes), root=tmp_path)
    return folder, result_of(folder)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())
