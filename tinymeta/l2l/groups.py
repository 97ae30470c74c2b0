"""Several LSTMs at once, each for its own parameters, as for CIFAR-10 (1606.04474, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..engine import trees
from ..kernels.lstm import Weights
from .optimizer import LSTMOptimizer, LSTMState, _check_finite, checked_leaves
from .sampling import Sample

Label = Callable[[str], str]


@dataclass(frozen=True)
class Grouped:
    """An optimizer like `LSTMOptimizer`, in which `label(path)` names the one of `optimizers` that updates the parameter there.

    A path is that of `trees.items`: "['conv'][0]['w']". Weights and states are dicts by name, and `meta_step` trains all at once.
    """

    optimizers: Mapping[str, LSTMOptimizer]
    label: Label

    @property
    def weights(self) -> dict[str, Weights]:
        """φ of each optimizer."""
        return {name: optimizer.weights for name, optimizer in self.optimizers.items()}

    def with_weights(self, weights: Mapping[str, Weights]) -> Grouped:
        """The same optimizers with other weights φ."""
        return replace(self, optimizers={k: o.with_weights(weights[k]) for k, o in self.optimizers.items()})

    def init(self, params: Any) -> dict[str, LSTMState]:
        """The states before the first step; ValueError for a parameter with an unknown label or an optimizer without any."""
        return {name: self.optimizers[name].init(group) for name, group in self._split(params).items()}

    def update(
        self, grads: Any, state: Mapping[str, LSTMState], params: Any = None, in_place: bool = False
    ) -> tuple[Any, dict[str, LSTMState]]:
        """(updates like grads, next states), as `LSTMOptimizer.update`."""
        groups = self._split(grads)
        if in_place:  # all are checked before the state of the first is overwritten
            _check_finite(grads)
            for name, group in groups.items():
                checked_leaves(self.optimizers[name].weights, group, state[name])
        updates: dict[str, Any] = {}
        after: dict[str, LSTMState] = {}
        for name, group in groups.items():
            part, after[name] = self.optimizers[name].update(group, state[name], in_place=in_place)
            updates |= part
        return trees.unflatten(grads, [updates[path] for path, _ in trees.items(grads)]), after

    def weights_gradient(
        self,
        state: Mapping[str, LSTMState],
        gradients: Sequence[Any],
        d_updates: Sequence[Any],
        sample: Sample | None = None,
        memory: int | None = None,
    ) -> dict[str, Weights]:
        """dL/dφ of each optimizer, as `LSTMOptimizer.weights_gradient`: given the updates, none depends on another's φ."""
        read, d_read = [self._split(tree) for tree in gradients], [self._split(tree) for tree in d_updates]
        return {
            name: optimizer.weights_gradient(
                state[name], [g[name] for g in read], [d[name] for d in d_read], sample, memory
            )
            for name, optimizer in self.optimizers.items()
        }

    def save(self, path: str | Path, **notes: Any) -> None:
        """Write each optimizer to a file of its own, NAME into `path` before its ending: optimizer.npz -> optimizer.conv.npz."""
        for name, optimizer in self.optimizers.items():
            optimizer.save(_beside(path, name), **notes)

    @classmethod
    def load(cls, path: str | Path, names: Sequence[str], label: Label) -> Grouped:
        """The optimizers of these names that `save(path)` wrote."""
        return cls({name: LSTMOptimizer.load(_beside(path, name)) for name in names}, label)

    def _split(self, tree: Any) -> dict[str, dict[str, Any]]:
        """By optimizer, its leaves by path."""
        groups: dict[str, dict[str, Any]] = {name: {} for name in self.optimizers}
        for path, leaf in trees.items(tree):
            name = self.label(path)
            if name not in groups:
                raise ValueError(f"the parameter {path} is labelled {name!r}, expected one of {list(groups)}")
            groups[name][path] = leaf
        for name, group in groups.items():
            if not group:
                raise ValueError(f"no parameter is labelled {name!r}; leave that optimizer out, or mend the labels")
        return groups


def _beside(path: str | Path, name: str) -> Path:
    path = Path(path)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")
