"""Random small programs of smooth ops on square matrices: compositions for the chain rule to be right on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from .. import ops

UNARY = {
    "tanh": ops.tanh,
    "sin": ops.sin,
    "sigmoid": ops.sigmoid,
    "softplus": ops.softplus,
    "square_tanh": lambda a: ops.square(ops.tanh(a)),
    "transpose": ops.transpose,
    "flip": lambda a: ops.flip(a, 0),
    "gather": lambda a: a[[0] + list(range(len(a) - 1))],
    "centre": lambda a: a - ops.mean(a, axis=1, keepdims=True),
    "softmax": ops.softmax,
    "log_softmax": lambda a: ops.log_softmax(a, axis=0),
    "mean_cumsum": lambda a: ops.cumsum(a, axis=1) / len(a),
}
BINARY = {
    "add": ops.add,
    "subtract": ops.subtract,
    "multiply_tanh": lambda a, b: a * ops.tanh(b),
    "divide_softplus": lambda a, b: a / (1 + ops.softplus(b)),
    "logaddexp": ops.logaddexp,
    "matmul_tanh": lambda a, b: a @ ops.tanh(b) / len(a),
    "einsum_tanh": lambda a, b: ops.einsum("ij,kj->ki", ops.tanh(a), b) / len(a),
    "mean_of_stack": lambda a, b: ops.mean(ops.stack([a, b], axis=1), axis=1),
    "concatenate": lambda a, b: ops.concatenate([a, b], axis=1)[:, 1 : len(a) + 1],
}


@dataclass(frozen=True)
class Program:
    """A scalar function of an (n, n) matrix; step k makes value k + 1 from earlier values, and value 0 is the input."""

    steps: tuple[tuple[str, tuple[int, ...]], ...]

    def __call__(self, x: Any) -> Any:
        values = [x]
        for name, operands in self.steps:
            values.append((UNARY | BINARY)[name](*(values[i] for i in operands)))
        return ops.sum(ops.sin(values[-1]))

    def __repr__(self) -> str:
        lines = [f"v{k + 1}={name}({','.join(f'v{i}' for i in at)})" for k, (name, at) in enumerate(self.steps)]
        return f"Program({'; '.join(lines)})"


@st.composite
def compositions(draw: st.DrawFn, max_steps: int = 6) -> Program:
    """Programs of up to `max_steps` ops that reuse earlier values; smooth everywhere and of moderate size."""
    steps: list[tuple[str, tuple[int, ...]]] = []
    for count in range(1, draw(st.integers(1, max_steps)) + 1):
        name = draw(st.sampled_from([*UNARY, *BINARY]))
        earlier = st.integers(0, count - 1)
        steps.append((name, (draw(earlier),) if name in UNARY else (draw(earlier), draw(earlier))))
    return Program(tuple(steps))
