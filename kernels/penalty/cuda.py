"""The penalty and its steps in CUDA C (penalty.cu) through CuPy: float32 or float64 CuPy arrays, on the current stream.

``out`` is where a step writes, C-contiguous: another array, or theta itself (m, v). Sums are in float64, in a fixed order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import gpu
from .reference import _compilable, fold

__all__ = ["adam_step", "fold", "penalty", "penalty_grad", "proximal_step", "sgd_step"]
Array = Any  # cupy.ndarray
OPTIONS = ("-std=c++17",)
REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
THREADS, BLOCKS_PER_MULTIPROCESSOR = 256, 8


def penalty(theta: Array, anchor: Array, fisher: Array, lam: float) -> Array:
    """lam/2 sum F (theta - anchor)^2 (1), an array of no axes, of the arrays' dtype."""
    _compilable("penalty", theta=theta, anchor=anchor, fisher=fisher)
    _check_kind("penalty", [theta, anchor, fisher])
    function, most = _prepare("squares", theta.dtype, _device())
    blocks = max(1, min(-(-theta.size // THREADS), most))
    sums = np.zeros_like(theta, shape=blocks, dtype=np.float64)
    if theta.size:
        arguments = (*map(_contiguous, (theta, anchor, fisher)), sums, np.int64(theta.size))
        function((blocks,), (THREADS,), arguments, shared_mem=8 * THREADS)
    return (float(lam) / 2 * sums.sum()).astype(theta.dtype)


def _run(kernel: str, arrays: list[Array], new: list[Array], numbers: list[float]) -> None:
    _check_kind(kernel, [*arrays, *new])
    dtype, size = new[0].dtype, new[0].size
    function, most = _prepare(kernel, dtype, _device())
    arguments = (*map(_contiguous, arrays), *new, np.int64(size), *map(dtype.type, numbers))
    function((min(-(-size // THREADS), most),), (THREADS,), arguments)


penalty_grad, sgd_step, proximal_step, adam_step = gpu.functions(_run)


def _check_kind(operation: str, arrays: list[Any]) -> None:
    import cupy

    for array in arrays:
        if not isinstance(array, cupy.ndarray):
            kind = f"{type(array).__module__}.{type(array).__name__}"
            raise TypeError(f"{operation}: an array is a {kind}, expected a cupy.ndarray; use cupy.asarray")


def _contiguous(array: Array) -> Array:
    return array if array.flags.c_contiguous else array.copy(order="C")


def _device() -> int:
    import cupy

    return cupy.cuda.runtime.getDevice()


@cache
def _prepare(kernel: str, dtype: np.dtype, device: int) -> tuple[Any, int]:
    """(the kernel, the most blocks of a launch)"""
    import cupy

    module = cupy.RawModule(code=source(dtype), options=OPTIONS)
    return module.get_function(kernel), BLOCKS_PER_MULTIPROCESSOR * cupy.cuda.Device(device).attributes[
        "MultiProcessorCount"
    ]


def source(dtype: np.dtype) -> str:
    """penalty.cu for this dtype."""
    return f"#define REAL {REAL[dtype]}\n" + Path(__file__).with_name("penalty.cu").read_text()


def tuned() -> dict[str, tuple[int, int]]:
    """(threads, bytes of dynamic shared memory) of a block of each kernel, as the .cu compiles without options."""
    steps = dict.fromkeys(("gradients", "sgd", "proximal", "adam"), (THREADS, 0))
    return steps | {"squares": (THREADS, 8 * THREADS)}
