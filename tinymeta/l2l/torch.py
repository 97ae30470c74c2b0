"""The learned optimizer for PyTorch: θ_{t+1} = θ_t + g_t, [g_t, h_{t+1}] = m(∇_t, h_t, φ) (1606.04474, section 2.1).

    optimizer = LSTMOptimizer(model.parameters(), "my_optimizer.npz")
    loss.backward()
    optimizer.step()

It takes the place of `torch.optim.Adam` and its like; there is no learning rate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..engine import trees
from .adapter import check_nonfinite, open_optimizer
from .optimizer import LSTMOptimizer as Learned

try:
    import torch
except ImportError as error:
    raise ImportError("tinymeta.l2l.torch needs PyTorch: pip install torch", name="torch") from error

CPU_ROWS = 4096  # at a time: their gates stay in the cache
GPU_ROWS = 2**20  # at a time: they fill the device, and their gates not its memory


class LSTMOptimizer(torch.optim.Optimizer):
    """The updates of `tinymeta.l2l.LSTMOptimizer`, to rounding, for parameters in float32 or float64.

    - params: as for any torch optimizer; a group may have its own `scale` and `nonfinite`;
    - optimizer: a tinymeta LSTMOptimizer, the path of a file that it saved, or the name of a shipped one;
    - nonfinite: "raise" refuses a step with NaN or infinite gradients by a FloatingPointError, before anything is changed;
      "zero" takes such entries for 0, without waiting for the device.

    State: `state[p]` has h0, c0, h1, c1, ..., a pair per layer of the shape of p and H, its units, in the dtype of p in which
    all is computed. TypeError for parameters of other dtypes (half precision would lose the state) and for sparse gradients.
    """

    def __init__(self, params: Any, optimizer: Learned | str | Path, nonfinite: str = "raise") -> None:
        self.learned = open_optimizer(optimizer)
        self._tensors: dict[tuple[torch.dtype, torch.device], Weights] = {}
        defaults = {"scale": float(self.learned.scale), "nonfinite": nonfinite, "learned": _fingerprint(self.learned)}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; refuses parameters and settings that `step` would refuse."""
        super().add_param_group(param_group)
        group = self.param_groups.pop()  # torch has completed it
        check_nonfinite(group["nonfinite"], ("raise", "zero"))
        if not math.isfinite(group["scale"]):
            raise ValueError(f"LSTMOptimizer: scale is {group['scale']}, expected a finite number")
        for index, p in enumerate(group["params"]):
            _check_dtype(_name(group, index, len(self.param_groups)), p)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; returns what `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for p, gradient, scale in list(self._checked_work()):
            self._update(p, gradient, scale)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch; ValueError, and nothing is changed, if the state is of other weights or of parameters of other shapes."""
        for number, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            if saved.get("learned") != group["learned"]:
                raise ValueError(
                    "LSTMOptimizer.load_state_dict: the state is that of an optimizer with other weights, or of another kind; "
                    "build this one from the file that the other was built from"
                )
            for index, (p, key) in enumerate(zip(group["params"], saved["params"], strict=False)):
                _check_shape(_name(group, index, number), p, state_dict["state"].get(key, {}))
        super().load_state_dict(state_dict)  # refuses another number of groups or parameters

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"learned": self.learned, "_tensors": {}}  # for copy.deepcopy and pickle

    def _checked_work(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
        """(parameter, gradient, scale) of all that have a gradient; the first that cannot be updated is refused by name."""
        for number, group in enumerate(self.param_groups):
            for index, p in enumerate(group["params"]):
                if p.grad is not None:
                    name = _name(group, index, number)
                    _check_dtype(name, p)
                    _check_state(name, p, self.state.get(p, {}))
                    yield p, _usable(name, p.grad, group["nonfinite"]), group["scale"]

    def _update(self, p: torch.Tensor, gradient: torch.Tensor, scale: float) -> None:
        weights, state = self._weights(p), self.state[p]
        if not state:
            for i, (_, w_state, _) in enumerate(weights.layers):
                state[f"h{i}"], state[f"c{i}"] = (p.new_zeros(*p.shape, len(w_state)) for _ in "hc")
        flat, by_entry = gradient.reshape(-1), {name: x.view(-1, x.shape[-1]) for name, x in state.items()}
        proposal, rows = torch.empty_like(flat), CPU_ROWS if p.device.type == "cpu" else GPU_ROWS
        for start in range(0, p.numel(), rows):
            tile = slice(start, start + rows)
            hidden = [(by_entry[f"h{i}"][tile], by_entry[f"c{i}"][tile]) for i in range(len(weights.layers))]
            proposal[tile] = _propose(weights, hidden, flat[tile], self.learned.p)
        p.add_(proposal.view(p.shape), alpha=scale)

    def _weights(self, p: torch.Tensor) -> Weights:
        place = p.dtype, p.device
        if place not in self._tensors:
            self._tensors[place] = _weights_like(self.learned, p)
        return self._tensors[place]


class Weights(NamedTuple):
    """φ as tensors: per layer the rows of W that meet the input (d, 4H) and the state (H, 4H), and b (4H,); W_out, b_out."""

    layers: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], ...]
    w_out: torch.Tensor
    b_out: torch.Tensor


def _weights_like(learned: Learned, p: torch.Tensor) -> Weights:
    tensor = lambda x: torch.tensor(x, dtype=p.dtype, device=p.device)
    inputs = lambda w, b: len(w) - len(b) // 4
    return Weights(
        tuple((tensor(w[: inputs(w, b)]), tensor(w[inputs(w, b) :]), tensor(b)) for w, b in learned.weights.layers),
        tensor(learned.weights.W_out),
        tensor(learned.weights.b_out),
    )


# ---- the network, numbered as in tinymeta.kernels.lstm ----


def _propose(
    weights: Weights, state: list[tuple[torch.Tensor, torch.Tensor]], g: torch.Tensor, p: float | None
) -> torch.Tensor:
    """The update (n,), before its scale, for the gradient (n,); the (h, c) of each layer, (n, H), are overwritten."""
    x = g[:, None] if p is None else _log_and_sign(g, p)
    for layer, (h, c) in zip(weights.layers, state, strict=True):
        x = _cell(x, h, c, *layer)
    return x @ weights.w_out + weights.b_out


def _log_and_sign(g: torch.Tensor, p: float) -> torch.Tensor:
    """(log|∇| / p, sgn ∇) where |∇| ≥ e^-p, else (-1, e^p ∇) (appendix A): (n,) -> (n, 2)."""
    large = g.abs() >= math.exp(-p)
    first = torch.where(large, g.abs().log() / p, -1.0)
    second = torch.where(large, g.sign(), math.exp(p) * g)
    return torch.stack([first, second], dim=1)


def _cell(
    x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, w_input: torch.Tensor, w_state: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    z = torch.addmm(b, x, w_input).addmm_(h, w_state)  # 2
    i, f, g, o = z.chunk(4, dim=1)
    for gate in (z[:, : 2 * h.shape[1]], o):  # 3: i and f at once
        gate.sigmoid_()
    g.tanh_()
    c.mul_(f).addcmul_(i, g)  # 4
    return torch.mul(o, c.tanh(), out=h)  # 5 and 6


# ---- refusals ----


def _usable(name: str, gradient: torch.Tensor, nonfinite: str) -> torch.Tensor:
    if gradient.layout != torch.strided:
        raise TypeError(f"LSTMOptimizer: the gradient of {name} is sparse ({gradient.layout}), expected a dense one")
    if nonfinite == "zero":
        return gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    finite = torch.isfinite(gradient)
    if not finite.all():
        raise FloatingPointError(
            f"LSTMOptimizer: {int((~finite).sum())} of the {finite.numel()} entries of the gradient of {name} are NaN or infinite; "
            'nothing was changed: leave this step out, or set nonfinite="zero"'
        )
    return gradient


def _check_dtype(name: str, p: torch.Tensor) -> None:
    if p.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"LSTMOptimizer: {name} is {_describe(p)}, expected float32 or float64; optimize a float32 copy of it"
        )


def _check_state(name: str, p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    _check_shape(name, p, state)
    for x in state.values():
        if (x.dtype, x.device) != (p.dtype, p.device):
            raise ValueError(
                f"LSTMOptimizer: {name} is {_describe(p)} on {p.device}, its state {_describe(x)} on {x.device}; "
                "convert the model first, then load the state_dict, which converts the state"
            )


def _check_shape(name: str, p: torch.Tensor, state: dict[str, torch.Tensor]) -> None:
    for x in state.values():
        if x.shape[:-1] != p.shape:
            raise ValueError(
                f"LSTMOptimizer: {name} is {_describe(p)}, its state is for one of shape {list(x.shape[:-1])}; "
                "expected the state of an optimizer of the same parameters in the same order"
            )


def _name(group: dict[str, Any], index: int, number: int) -> str:
    if "param_names" in group:
        return f"parameter {group['param_names'][index]!r}"
    return f"parameter {index} of group {number}"


def _describe(x: torch.Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')}[{','.join(map(str, x.shape))}]"


def _fingerprint(learned: Learned) -> str:
    """Equal for equal weights and p: the states of different networks are not interchangeable."""
    arrays = b"".join(x.tobytes() for x in trees.leaves(learned.weights))
    p = None if learned.p is None else float(learned.p)
    return hashlib.sha256(repr(p).encode() + arrays).hexdigest()[:16]
