"""Batches of small matrix products, float32: those of MAML's sinusoid net, forward and backward, and of a small convolution."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .measure import alternate, median_seconds, summarise, write

CASES: dict[str, tuple[int, int, int, int, str]] = {  # matrices, m, k, n, and which operand is stored transposed
    "25 x (10x1)(1x40)": (25, 10, 1, 40, ""),
    "25 x (10x40)(40x40)": (25, 10, 40, 40, ""),
    "25 x (10x40)(40x1)": (25, 10, 40, 1, ""),
    "25 x (10x40)^T(10x40)": (25, 40, 10, 40, "a"),
    "25 x (10x40)(40x40)^T": (25, 10, 40, 40, "b"),
    "1000 x (10x40)(40x40)": (1000, 10, 40, 40, ""),
    "8 x (64x576)(576x196)": (8, 64, 576, 196, ""),
}


def arrays(case: str) -> tuple[np.ndarray, np.ndarray]:
    """op(a) and op(b), views of what is stored."""
    T, m, k, n, transposed = CASES[case]
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((T, m, k), (T, k, n)))
    return _stored(a, "a" in transposed), _stored(b, "b" in transposed)


def _stored(x: np.ndarray, transposed: bool) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) if transposed else x


def ours(case: str) -> tuple[Callable[[], Any], int]:
    from tinymeta.kernels.gemm import cpu

    a, b = arrays(case)
    c = np.empty((*a.shape[:2], b.shape[2]), np.float32)
    return lambda: cpu.matmul(a, b, out=c), 1


def compiled(case: str) -> tuple[Callable[[], Any], int]:
    """The same kernel as generated code calls it: in a compiled loop, one thread."""
    from tinymeta.kernels.gemm.cpu_product import address, product
    from tinymeta.kernels.simd import njit

    a, b = arrays(case)
    c, gemm = np.empty((*a.shape[:2], b.shape[2]), np.float32), address(np.float32)

    calls = max(1, 10_000_000 // flop(case))  # timed together

    @njit
    def loop(gemm, a, b, c):
        (m, k), n = a.shape[1:], b.shape[2]
        a_T, a_row, a_col = a.strides[0], a.strides[1] // 4, a.strides[2] // 4
        b_T, b_row, b_col = b.strides[0], b.strides[1] // 4, b.strides[2] // 4
        for _ in range(calls):
            for t in range(len(a)):
                a_t, b_t, c_t = a.ctypes.data + t * a_T, b.ctypes.data + t * b_T, c.ctypes.data + t * c.strides[0]
                product(gemm, m, k, n, a_t, a_row, a_col, b_t, b_row, b_col, c_t, n, False)
        return c

    return lambda: loop(gemm, a, b, c), calls


def numpy(case: str) -> tuple[Callable[[], Any], int]:
    a, b = arrays(case)
    c = np.empty((*a.shape[:2], b.shape[2]), np.float32)
    return lambda: np.matmul(a, b, out=c), 1


def torch(case: str) -> tuple[Callable[[], Any], int]:
    import torch

    a, b = (torch.from_numpy(x) for x in arrays(case))
    c = torch.empty((*a.shape[:2], b.shape[2]))
    return lambda: torch.bmm(a, b, out=c), 1


def jax(case: str) -> tuple[Callable[[], Any], int]:
    import jax
    import jax.numpy as jnp

    stored = [jax.device_put(x if x.flags.c_contiguous else x.swapaxes(1, 2)) for x in arrays(case)]
    views = [x.flags.c_contiguous for x in arrays(case)]

    @jax.jit
    def product(a: Any, b: Any) -> Any:
        return jnp.matmul(*(x if whole else x.swapaxes(1, 2) for x, whole in zip((a, b), views, strict=True)))

    return lambda: product(*stored).block_until_ready(), 1


CONTENDERS: dict[str, Callable[[str], tuple[Callable[[], Any], int]]] = {
    "tinymeta": ours,
    "tinymeta, in compiled code, 1 thread": compiled,
    "np.matmul": numpy,
    "torch.bmm": torch,
    "jax.jit": jax,
}
TITLE = "Batches of small products, float32"
SGEMM = "sgemm, 512x512, all threads"


def flop(case: str) -> int:
    T, m, k, n, _ = CASES[case]
    return 2 * T * m * k * n


def measured(name: str) -> dict[str, float]:
    """GF/s of each case, its result compared with float64 first."""
    found = {}
    for case in CASES:
        f, calls = CONTENDERS[name](case)
        a, b = (x.astype(np.float64) for x in arrays(case))
        exact = a @ b
        np.testing.assert_allclose(np.asarray(f()), exact, rtol=0, atol=3e-6 * np.abs(exact).max())
        found[case] = 1e-9 * flop(case) * calls / median_seconds(f, max(20, int(2e8 / (calls * (flop(case) + 1e6)))))
    return found


def sgemm() -> dict[str, float]:
    a, b = np.ones((2, 512, 512), np.float32)
    c = np.empty_like(a)
    return {"": 1e-9 * 2 * 512**3 / median_seconds(lambda: np.matmul(a, b, out=c), 30)}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(sgemm() if sys.argv[1] == SGEMM else measured(sys.argv[1])))
        return
    rounds = 3
    reports = alternate("bench.gemm", [*CONTENDERS, SGEMM], rounds)
    rows = []
    for case in CASES:
        of_case = {name: [{"GF/s": report[case]} for report in reports[name]] for name in CONTENDERS}
        rows += [row | {"name": f"{case}: {row['name']}"} for row in summarise(of_case, "GF/s", "tinymeta")]
    ceiling = {SGEMM: [{"GF/s": report[""]} for report in reports[SGEMM]]}
    rows += summarise(ceiling, "GF/s", SGEMM)
    note = (
        "Results within 3e-6 of float64's, relative to the largest entry, before timing. The speed is over tinymeta's in "
        f"the same case. Threads: each library's default on {os.cpu_count()} cores, but where one is said."
    )
    columns = {"ratio": "speed, × tinymeta"}
    write("gemm", TITLE, "GF/s", rounds, rows, ["tinymeta", "numpy", "numba", "torch", "jax"], note, columns)


if __name__ == "__main__":
    main()
