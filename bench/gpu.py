"""Eager overhead on a GPU: the chain of `bench.overhead` on CuPy arrays, against bare CuPy. Run by `make gpu`."""

from __future__ import annotations

from collections.abc import Callable

import cupy
import numpy as np

import tinymeta as tm

from .measure import median_seconds, write
from .overhead import OPS, X, chain

SIZES = {"8 numbers": 8, "1,000,000 numbers": 1_000_000}


def synchronized(f: Callable[[], object]) -> Callable[[], None]:
    """f, and a wait until the GPU is done."""

    def run() -> None:
        f()
        cupy.cuda.Device().synchronize()

    return run


def main() -> None:
    gradient = tm.grad(lambda x: chain(x, tm.ops.tanh).sum())
    np.testing.assert_allclose(cupy.asnumpy(gradient(cupy.asarray(X))), gradient(X), rtol=1e-12)
    rows = []
    for label, n in SIZES.items():
        x = cupy.asarray(np.resize(X, n))
        ours = 1e6 * median_seconds(synchronized(lambda x=x: gradient(x)), 200) / OPS
        bare = 1e6 * median_seconds(synchronized(lambda x=x: chain(x, cupy.tanh)), 200) / OPS
        for name, us in (("tinymeta, value and gradient", ours), ("bare CuPy, value only", bare)):
            rows.append({"name": f"{name}, {label}", "median": round(us, 3), "ratio": round(us / ours, 3)})
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    note = (
        f"{properties['name'].decode()}, CuPy {cupy.__version__}; equal to the CPU's gradient to 1e-12 before timing."
    )
    write("gpu", "Eager overhead on a GPU, per op", "µs", 1, rows, ["numpy"], note)


if __name__ == "__main__":
    main()
