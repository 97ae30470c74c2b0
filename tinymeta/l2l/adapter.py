"""What the adapters for other frameworks share: which learned optimizer is meant, and the choices that they offer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from .optimizer import LSTMOptimizer
from .pretrained import pretrained

LARGEST_P = math.log(np.finfo(np.float32).max)  # e^p is a factor in float32


def open_optimizer(optimizer: LSTMOptimizer | str | Path) -> LSTMOptimizer:
    """The optimizer itself, or the one in a file (a Path, or a string that ends in .npz), or else the shipped one of that name."""
    if isinstance(optimizer, str):
        opened = LSTMOptimizer.load(optimizer) if optimizer.endswith(".npz") else pretrained(optimizer)
    elif isinstance(optimizer, Path):
        opened = LSTMOptimizer.load(optimizer)
    elif isinstance(optimizer, LSTMOptimizer):
        opened = optimizer
    else:
        raise TypeError(
            f"the learned optimizer is of type {type(optimizer).__name__}, expected an LSTMOptimizer of tinymeta.l2l, "
            "the path of a file that it saved, or the name of a shipped one"
        )
    if opened.p is not None and not 0 < opened.p < LARGEST_P:
        raise ValueError(
            f"the optimizer's p is {opened.p}, expected 0 < p < {LARGEST_P:.4g}, so that e^p fits in float32"
        )
    return opened


def check_nonfinite(choice: str, choices: tuple[str, ...]) -> str:
    """The choice, if it is one of those; ValueError otherwise."""
    if choice not in choices:
        raise ValueError(f"nonfinite is {choice!r}, expected {' or '.join(map(repr, choices))}")
    return choice
