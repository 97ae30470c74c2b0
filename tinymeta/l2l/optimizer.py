"""The learned optimizer in optax's protocol, and its file format."""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.tensor import describe
from ..kernels.lstm import State, Weights, zero_state
from .network import init_weights, propose

FORMAT = 1


@dataclass(frozen=True)
class LSTMOptimizer:
    """Andrychowicz et al. 2016, section 2.1: one LSTM with weights φ proposes the update of every coordinate of θ.

    - weights: φ, see `LSTMOptimizer.create`; differentiable, so that training it is `tm.grad` of a function of the weights;
    - scale: factor on the network's output, in the units of θ (0.1 for MNIST in the paper, 1 for quadratics);
    - p: preprocessing constant of appendix A (10 in the paper, 5 in the authors' code); None feeds the raw gradient.
    """

    weights: Weights
    scale: float = 0.1
    p: float | None = 10.0

    @classmethod
    def create(
        cls, rng: np.random.Generator, hidden: tuple[int, ...] = (20, 20), scale: float = 0.1, p: float | None = 10.0
    ) -> LSTMOptimizer:
        """An untrained optimizer with layers of the given sizes, in float32."""
        return cls(init_weights(rng, 1 if p is None else 2, hidden), scale, p)

    def init(self, params: Any) -> State:
        """The state before the first step: h = c = 0 for each of the n coordinates of the tree `params`."""
        return zero_state(self.weights, sum(int(np.size(x)) for x in trees.leaves(params)))

    def update(self, grads: Any, state: State, params: Any = None) -> tuple[Any, State]:
        """(updates like grads, next state): θ_{t+1} = θ_t + g_t. ValueError if the state is for another number of coordinates."""
        flat = _flatten(grads)
        if state and state[0][0].shape[0] != flat.shape[0]:
            raise ValueError(
                f"LSTMOptimizer.update: gradients have {flat.shape[0]} coordinates, the state is for {state[0][0].shape[0]}; "
                "call init(params) with the parameters that these are gradients of"
            )
        proposal, state = propose(self.weights, state, flat, self.scale, self.p)
        return _unflatten(grads, proposal), state

    def with_weights(self, weights: Weights) -> LSTMOptimizer:
        """The same architecture with other weights φ."""
        return replace(self, weights=weights)

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write weights, settings and `notes` (JSON-able: seed, config, result) to `path`, an .npz file without pickle."""
        header = {"format": FORMAT, "scale": float(self.scale), "p": self.p, "layers": len(self.weights.layers)}
        arrays = {f"array{i}": x for i, x in enumerate(trees.leaves(self.weights))}
        buffer = io.BytesIO()
        np.savez(buffer, header=np.array(json.dumps(header | {"notes": notes})), **arrays)
        temporary = Path(f"{path}.tmp")  # the old file stays whole until the new one is
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> LSTMOptimizer:
        """The optimizer that `save` wrote; ValueError if the file is none, damaged, or of another format."""
        raw = Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(raw), allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                arrays = [archive[f"array{i}"] for i in range(len(archive.files) - 1)]
            known = header["format"] == FORMAT
            loaded = _checked(cls(_weights(arrays, header["layers"]), header["scale"], header["p"])) if known else None
        except Exception as error:  # a damaged archive raises a dozen kinds
            found = " ".join(str(error).split())  # the text of a damaged file may be part of it
            raise ValueError(
                f"{path} is not a saved LSTMOptimizer, or it is damaged ({found}); save it again"
            ) from error
        if loaded is None:
            raise ValueError(
                f"{path} has format {header['format']}, this tinymeta reads {FORMAT}; save it with this version"
            )
        return loaded


def _weights(arrays: list[np.ndarray], layers: int) -> Weights:
    pairs = tuple((arrays[2 * i], arrays[2 * i + 1]) for i in range(layers))
    return Weights(pairs, *arrays[2 * layers :])


def _checked(optimizer: LSTMOptimizer) -> LSTMOptimizer:
    """The optimizer, if its settings are numbers and its arrays fit together; ValueError otherwise."""
    weights, width = optimizer.weights, 1 if optimizer.p is None else 2
    kinds = {x.dtype for x in trees.leaves(weights)}
    if len(kinds) != 1 or kinds.pop().kind != "f":
        raise ValueError(f"its arrays are of {', '.join(sorted({str(x.dtype) for x in trees.leaves(weights)}))}")
    largest = float(np.log(np.finfo(weights.W_out.dtype).max))
    if not _is_number(optimizer.scale):
        raise ValueError(f"its scale is {optimizer.scale!r}")
    if optimizer.p is not None and not (_is_number(optimizer.p) and 0 < optimizer.p < largest):
        raise ValueError(f"its p is {optimizer.p!r}")
    for w, b in weights.layers:
        size = b.size // 4
        if b.shape != (4 * size,) or w.shape != (width + size, 4 * size):
            raise ValueError(f"a layer has weights {describe(w)} and biases {describe(b)} for {width} inputs")
        width = size
    if weights.W_out.shape != (width,) or weights.b_out.shape != ():
        raise ValueError(
            f"its output layer is {describe(weights.W_out)} and {describe(weights.b_out)} for {width} inputs"
        )
    return optimizer


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and bool(np.isfinite(x))


def _flatten(tree: Any) -> Any:
    leaves = trees.leaves(tree)
    if not leaves:
        raise ValueError("LSTMOptimizer.update: the gradients are an empty tree")
    kinds = {x.dtype for x in leaves}
    if len(kinds) > 1:
        raise TypeError(
            f"LSTMOptimizer.update: gradients of several dtypes ({', '.join(map(describe, leaves))}), expected one"
        )
    flat = [ops.reshape(x, (-1,)) for x in leaves]
    return flat[0] if len(flat) == 1 else ops.concatenate(flat)


def _unflatten(like: Any, flat: Any) -> Any:
    shapes = [x.shape for x in trees.leaves(like)]
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes]).tolist()
    pieces = ops.split(flat, ends[:-1])
    return trees.unflatten(like, [ops.reshape(piece, shape) for piece, shape in zip(pieces, shapes, strict=True)])
