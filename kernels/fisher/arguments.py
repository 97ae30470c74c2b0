"""What every backend checks of labels, uniforms and a network, on any array type."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .. import agree

ACTIVATIONS, KINDS = ("relu", "tanh"), ("exact", "sampled", "empirical", "batched")


def check_logits(operation: str, logits: Any) -> tuple[int, int]:
    """(N, C), C > 0."""
    sizes = agree(operation, logits=(logits, "N C"))
    if sizes["C"] == 0:
        raise ValueError(f"{operation}: logits has shape {logits.shape}, expected at least one class")
    return sizes["N"], sizes["C"]


def check_labels(labels: Any, N: int, C: int) -> None:
    if not hasattr(labels, "dtype") or labels.dtype.kind not in "iu":
        raise TypeError(f"label_scores: labels is {_kind(labels)}, expected integers of shape ({N},)")
    if labels.shape != (N,) or not ((labels >= 0) & (labels < C)).all():
        raise ValueError(f"label_scores: labels has shape {labels.shape}, expected ({N},) values in 0..{C - 1}")


def check_uniforms(uniforms: Any, N: int) -> None:
    if not hasattr(uniforms, "dtype") or uniforms.dtype.kind != "f":
        raise TypeError(
            f"sample_labels: uniforms is {_kind(uniforms)}, expected floats of shape (N,); draw rng.random(N)"
        )
    if uniforms.shape != (N,) or not ((uniforms >= 0) & (uniforms < 1)).all():
        raise ValueError(f"sample_labels: uniforms has shape {uniforms.shape}, expected {(N,)} values in [0, 1)")


def check_network(
    params: Sequence[tuple[Any, Any]], x: Any, labels: Any, activation: str, kind: str, uniforms: Any, batch_size: int
) -> list[int]:
    """The sizes of the inputs of each layer and, last, of the classes; the arguments are those of mlp_fisher."""
    _check_name("activation", activation, ACTIVATIONS)
    _check_name("kind", kind, KINDS)
    if batch_size < 1:
        raise ValueError(f"mlp_fisher: batch_size is {batch_size}, expected 1 or more")
    if not params:
        raise ValueError("mlp_fisher: params is empty, expected (W, b) of one layer or more")
    inputs, sizes = x, []
    for k, (W, b) in enumerate(params):
        layer = agree(f"mlp_fisher, layer {k}", x=(inputs, "N I"), W=(W, "I O"), b=(b, "O"))
        sizes.append(layer["I"])
        inputs = np.broadcast_to(np.zeros((), x.dtype), (layer["N"], layer["O"]))
    N, C = check_logits("mlp_fisher", inputs)
    if kind in ("empirical", "batched"):
        check_labels(labels, N, C)
    if kind == "sampled":
        check_uniforms(uniforms, N)
    return [*sizes, C]


def _check_name(argument: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"mlp_fisher: {argument} is {name!r}, expected one of {', '.join(map(repr, known))}")


def _kind(value: object) -> str:
    return str(getattr(value, "dtype", type(value).__name__))
