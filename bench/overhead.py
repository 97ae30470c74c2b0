"""Eager overhead: value and gradient of a chain of 100 ops on 8 numbers, where Python is all that there is to time."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .measure import alternate, median_seconds, summarise, write

X = np.linspace(0.1, 0.9, 8)
OPS = 100
CALLS = {"jax, not jitted": 30}


def chain(x: Any, tanh: Callable) -> Any:
    """x -> tanh(1.01 x) + 0.1 - 0.05, 25 times: 100 ops."""
    for _ in range(OPS // 4):
        x = tanh(x * 1.01) + 0.1 - 0.05
    return x


def tinymeta_contender() -> Callable[[], np.ndarray]:
    import tinymeta as tm

    gradient = tm.grad(lambda x: chain(x, tm.ops.tanh).sum())
    return lambda: gradient(X)


def autograd_contender() -> Callable[[], np.ndarray]:
    import autograd
    import autograd.numpy as anp

    gradient = autograd.grad(lambda x: anp.sum(chain(x, anp.tanh)))
    return lambda: gradient(X)


def torch_contender() -> Callable[[], np.ndarray]:
    import torch

    x = torch.tensor(X, requires_grad=True)
    return lambda: torch.autograd.grad(chain(x, torch.tanh).sum(), x)[0].numpy()


def jax_contender() -> Callable[[], np.ndarray]:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    gradient = jax.grad(lambda x: jnp.sum(chain(x, jnp.tanh)))
    return lambda: np.asarray(gradient(X))


def numpy_contender() -> Callable[[], np.ndarray]:
    """The chain's value alone, in bare NumPy: the floor of any eager NumPy engine, per op."""
    return lambda: chain(X, np.tanh)


CONTENDERS: dict[str, Callable[[], Callable[[], np.ndarray]]] = {
    "tinymeta": tinymeta_contender,
    "PyTorch": torch_contender,
    "HIPS autograd": autograd_contender,
    "jax, not jitted": jax_contender,
    "bare NumPy, value only": numpy_contender,
}


def main() -> None:
    if len(sys.argv) > 1:
        f = CONTENDERS[sys.argv[1]]()
        result = f()
        print(
            json.dumps(
                {"us_per_op": 1e6 * median_seconds(f, CALLS.get(sys.argv[1], 500)) / OPS, "result": result.tolist()}
            )
        )
        return
    rounds = 5
    reports = alternate("bench.overhead", list(CONTENDERS), rounds)
    for name in list(CONTENDERS)[:-1]:
        for report in reports[name]:
            np.testing.assert_allclose(report["result"], reports["tinymeta"][0]["result"], rtol=1e-12)
    write(
        "overhead", "Eager overhead: value and gradient of 100 small ops, per op", "µs", rounds,
        summarise(reports, "us_per_op", "tinymeta"), ["tinymeta", "numpy", "torch", "autograd", "jax"],
        "Gradients agree to 1e-12. float64[8]. The floor is one NumPy call.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
