"""The learned optimizer in optax's protocol, and its file format."""

from __future__ import annotations

import io
import json
import math
import numbers
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..engine import trees
from ..engine.batched import raw
from ..engine.tensor import OPEN, Tensor, describe, examine
from ..kernels.lstm import Weights
from ..kernels.lstm.blocks import from_blocks, hidden_sizes, zero_blocks
from . import fused
from .network import init_weights
from .sampling import Sample

FORMAT = 1
TREE = 0xFFFFFFFF
"""The bits of `LSTMState.tree` that stand for the parameters; those above stand for the layers."""


class LSTMState(NamedTuple):
    """The hidden state of n coordinates in the kernels' layout, (tiles, R, 64): see `tinymeta.kernels.lstm.blocks`.

    `tree` is a checksum of the parameters' names and shapes and of the optimizer's layers; None, in a state made by hand,
    fits every tree of n coordinates, and layers of as many units.
    """

    blocks: Any
    n: int
    tree: int | None = None


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
        """An untrained optimizer with layers of the given sizes, in float32; ValueError for settings that make none."""
        return _checked(cls(init_weights(rng, 1 if p is None else 2, hidden), scale, p))

    @classmethod
    def pretrained(cls, name: str) -> LSTMOptimizer:
        """A trained optimizer that is shipped with the package, such as "mnist-mlp"; ValueError names those there are."""
        from .pretrained import pretrained  # which needs this module

        return pretrained(name)

    def init(self, params: Any) -> LSTMState:
        """The state before the first step: h = c = 0 for each of the n coordinates of the tree `params`."""
        n = sum(int(np.size(x)) for x in trees.leaves(params))
        return LSTMState(zero_blocks(self.weights, n), n, _checksum(params, self.weights))

    def update(self, grads: Any, state: LSTMState, params: Any = None, in_place: bool = False) -> tuple[Any, LSTMState]:
        """(updates like grads, next state): θ_{t+1} = θ_t + g_t. Plain arrays go through one fused kernel, leaves where they lie.

        `in_place` overwrites `state` with the next one, which saves its memory, where no derivative, vmap or capture is running.
        ValueError if the state is for other parameters or layers, TypeError if a gradient is not of the weights' dtype,
        FloatingPointError, before anything is changed, if one holds inf or NaN: it names the leaf, inside tm.grad, tm.vmap and
        tm.compile too.
        """
        leaves = checked_leaves(self.weights, grads, state)
        _check_finite(grads)
        if OPEN or any(type(x) is Tensor for x in (*leaves, *trees.leaves((state, self.weights)))):
            return self._traced(grads, leaves, state)
        updates, after = fused.advance(self.weights, state.blocks, leaves, float(self.scale), self.p, in_place)
        return trees.unflatten(grads, updates), state._replace(blocks=after)

    def _traced(self, grads: Any, leaves: list, state: LSTMState) -> tuple[Any, LSTMState]:
        flat = ops.concatenate([ops.reshape(x, (-1,)) for x in leaves])
        arrays = trees.leaves(self.weights)
        proposal, blocks = fused.lstm_step(flat, state.blocks, *arrays, scale=float(self.scale), p=self.p)
        return trees.unflatten(grads, fused.cut(proposal, leaves)), state._replace(blocks=blocks)

    def weights_gradient(
        self,
        state: LSTMState,
        gradients: Sequence[Any],
        d_updates: Sequence[Any],
        sample: Sample | None = None,
        memory: int | None = None,
    ) -> Weights:
        """dL/dφ of the unroll that starts in `state`, with ∂∇_t/∂φ = 0: from the trees ∇_t that it reads and the dL/dg_t.

        Truncated backpropagation through time in one kernel, which recomputes the forward pass; on all coordinates, or
        estimated from a sample of them. At most `memory` bytes of activations are held at a time, as far as a step allows:
        with less than an unroll's, its segments run forward twice. None: what is fastest, a few MB for each thread.
        ValueError for trees that differ in names or shapes from each other or from what the state is for.
        """
        if not 0 < len(gradients) == len(d_updates):
            raise ValueError(
                f"LSTMOptimizer.weights_gradient: {len(gradients)} gradients and {len(d_updates)} d_updates, expected one of each "
                "for every step, and at least one step"
            )
        blocks, leaves = state.blocks, checked_leaves(self.weights, gradients[0], state)
        read, d_read = (
            _rows(name, gradients[0], steps) for name, steps in (("gradients", gradients), ("d_updates", d_updates))
        )
        if sample is not None:
            blocks, read, d_read = sample.of([int(np.size(x)) for x in leaves], blocks, read, d_read)
        return fused.weights_gradient(self.weights, blocks, read, d_read, self.scale, self.p, memory)

    def hidden(self, state: LSTMState) -> tuple[tuple[Any, Any], ...]:
        """The (h, c) of each layer, (n, H), for study."""
        _check_layers(self.weights, state)
        return from_blocks(state.blocks, hidden_sizes(self.weights), state.n)

    def with_weights(self, weights: Weights) -> LSTMOptimizer:
        """The same architecture with other weights φ."""
        return replace(self, weights=weights)

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write weights, settings and `notes` (JSON-able: seed, config, result) to `path`, an .npz file without pickle."""
        _checked(self)  # which load does too: a file of it would be refused
        p = None if self.p is None else float(self.p)
        header = {"format": FORMAT, "scale": float(self.scale), "p": p, "layers": len(self.weights.layers)}
        arrays = {f"array{i}": x for i, x in enumerate(trees.leaves(self.weights))}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, header=np.array(json.dumps(header | {"notes": notes})), **arrays)
        temporary = Path(f"{path}.tmp")  # the old file stays whole until the new one is
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> LSTMOptimizer:
        """The optimizer that `save` wrote; ValueError if the file is none, damaged, or of another format."""
        raw = Path(path).read_bytes()
        try:
            # not by np.load, which would take what is no archive for a pickle and advise to trust it
            with np.lib.npyio.NpzFile(io.BytesIO(raw)) as archive:
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
        raise ValueError(f"scale is {optimizer.scale!r}, expected a finite number")
    if optimizer.p is not None and not (_is_number(optimizer.p) and 0 < optimizer.p < largest):
        raise ValueError(f"p is {optimizer.p!r}, expected 0 < p < {largest:.4g}, or None for no preprocessing")
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
    return isinstance(x, numbers.Real) and not isinstance(x, bool) and math.isfinite(x)


def checked_leaves(weights: Weights, grads: Any, state: LSTMState) -> list:
    """The gradients' arrays, if of the weights' dtype, and if the state is for them and for these weights."""
    leaves, dtype = trees.leaves(grads), weights.W_out.dtype
    if not leaves:
        raise ValueError("LSTMOptimizer: the gradients are an empty tree")
    for path, x in trees.items(grads):
        if getattr(x, "dtype", None) != dtype:
            raise TypeError(
                f"LSTMOptimizer: the gradient {path or 'given'} is {describe(x)}, expected an array of {dtype}, as the optimizer's "
                f"weights are: use .astype(np.{dtype})"
            )
    n = sum(int(np.prod(x.shape)) for x in leaves)
    if n != state.n:
        raise ValueError(
            f"LSTMOptimizer: gradients have {n} coordinates, the state is for {state.n}; "
            "call init(params) with the parameters that these are gradients of"
        )
    if state.tree is not None and state.tree & TREE != _checksum(grads, weights) & TREE:
        raise ValueError(
            f"LSTMOptimizer: the state is for parameters of other names or shapes than these gradients ({_outline(grads)}), "
            "if of as many coordinates; call init(params) with the parameters that these are gradients of"
        )
    _check_layers(weights, state)
    return leaves


def _check_layers(weights: Weights, state: LSTMState) -> None:
    sizes, rows = hidden_sizes(weights), state.blocks.shape[1]
    if rows != 2 * sum(sizes):
        raise ValueError(
            f"LSTMOptimizer: the state has {rows} numbers for each coordinate, an optimizer with layers of "
            f"{sizes} has {2 * sum(sizes)}: it is that of another optimizer, so call init(params) of this one"
        )
    if state.tree is not None and state.tree >> 32 not in (0, _layers_checksum(weights)):
        raise ValueError(
            f"LSTMOptimizer: the state has {rows} numbers for each coordinate, as layers of {sizes} have, but is that of an "
            "optimizer with other layers, so call init(params) of this one"
        )


def _outline(tree: Any) -> str:
    """The path and shape of every leaf."""
    return ", ".join(f"{path}[{','.join(map(str, np.shape(x)))}]" for path, x in trees.items(tree))


def _checksum(tree: Any, weights: Weights) -> int:
    """Of the tree's names and shapes, in the bits of TREE, and of the layers above them, where states of old checkpoints have 0."""
    return zlib.crc32(_outline(tree).encode()) | _layers_checksum(weights) << 32


def _layers_checksum(weights: Weights) -> int:
    """31 bits, so that the whole is an int64."""
    return zlib.crc32(repr(hidden_sizes(weights)).encode()) >> 1


def _check_finite(grads: Any) -> None:
    """A coordinate that has seen NaN once would never recover, and one that has seen inf only slowly: its state remembers."""
    for path, leaf in trees.items(grads):
        examine(partial(_refuse_unless_finite, path), raw(leaf))


def _refuse_unless_finite(path: str, gradient: Any) -> None:
    if not np.isfinite(gradient).all():
        bad = int(np.size(gradient) - np.isfinite(gradient).sum())
        raise FloatingPointError(
            f"LSTMOptimizer.update: the gradient {path or 'given'}, {describe(gradient)}, holds {bad} values that are inf or NaN; "
            "state and parameters are unchanged: skip this step, or lower the scale of the updates"
        )


def _rows(name: str, like: Any, steps: Sequence[Any]) -> Any:
    """(T, n): the coordinates of a tree for each step, in the order of the keys of `like`; ValueError for another tree."""
    rows, shapes = [], [np.shape(x) for x in trees.leaves(like)]
    for tree in steps:
        ordered = trees.map(lambda _, x: x, like, tree)
        if [np.shape(x) for x in trees.leaves(ordered)] != shapes:
            raise ValueError(
                f"LSTMOptimizer.weights_gradient: {name} has ({_outline(ordered)}), the gradient of the first step is "
                f"({_outline(like)}); expected the same shapes"
            )
        rows.append(trees.ravel(ordered)[0])
    return np.stack(rows)
