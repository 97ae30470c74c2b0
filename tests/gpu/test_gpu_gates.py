"""The bounds of the gates' errors, on a GPU: `make gpu`. tests/kernels_gpu tests the same functions on the host."""

from __future__ import annotations

from pathlib import Path

import cupy
import numpy as np
from kernels_gpu.test_lstm_gpu_twins import assert_gates_keep_their_bounds

from tinymeta.kernels.lstm import cuda

KERNEL = """
extern "C" __global__ void activations(const float* x, float* sigmoids, float* tangents, long long n) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n) sigmoids[i] = sigmoid(x[i]), tangents[i] = tangent(x[i]);
}
"""


def test_gates_keep_their_bounds_in_units_in_the_last_place() -> None:
    text = Path(cuda.__file__).with_name("activations.cuh").read_text().replace("#pragma once", "")
    kernel = cupy.RawModule(code=text + KERNEL, options=cuda.OPTIONS).get_function("activations")

    def gates(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        given = cupy.asarray(x)
        found = cupy.empty_like(given), cupy.empty_like(given)
        kernel((-(-x.size // 256),), (256,), (given, *found, np.int64(x.size)))
        return cupy.asnumpy(found[0]), cupy.asnumpy(found[1])

    assert_gates_keep_their_bounds(gates, smallest=np.finfo(np.float32).tiny)  # CuPy's compiler takes less for 0
