"""The GPU twins of tinymeta.kernels.gemm against the reference, on a machine without a GPU.

"cuda" is gemm.cu compiled for this machine (kernels/shim) under the address and undefined-behaviour sanitizers, behind
cuda.py itself. "numba_cuda" runs in Numba's simulator, which must be chosen before Numba is imported: one test runs this
file again in a process that has chosen it.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels_gpu.cuda_on_host import COMPILED, ON_HOST, KernelError, thread_sanitizer, twins_of

from tinymeta.kernels.gemm import cuda, reference

ROOT = Path(__file__).resolve().parents[2]
DTYPES = [np.float32, np.float64]
CASES = {  # leading axes of a and b, m, k, n
    "several tiles of the simulator's": ((), (2,), 6, 9, 5),
    "an outer product": ((2,), (2,), 5, 1, 3),
    "a column": ((2,), (2,), 5, 7, 1),
    "one number": ((), (), 1, 1, 1),
    "axes that are not one": ((3, 1, 2), (2, 1), 3, 4, 5),
    "three axes that are not one": ((2, 1, 3, 1), (1, 2, 1, 2), 2, 3, 2),
    "nothing to sum": ((2,), (2,), 3, 0, 4),
    "no rows": ((2,), (2,), 0, 3, 4),
    "no matrices": ((0,), (1,), 2, 3, 4),
}

LARGE = {
    "a layer of MAML": ((3,), (3,), 10, 40, 40),
    "several tiles and none full": ((), (2,), 67, 33, 70),
}
on_host, twin, test_the_other_twin_in_the_simulator = twins_of(cuda, TILE=4)


def operands(seed, lead_a, lead_b, m, k, n, transposed, dtype):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.normal(size=(*lead, *(shape[::-1] if t else shape))).astype(dtype)
        for lead, shape, t in zip((lead_a, lead_b), ((m, k), (k, n)), transposed, strict=True)
    ]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def assert_near(found, exact, terms):
    """Within the rounding of sums of so many products of a few units."""
    tolerance = 10 * (terms + 1) * np.finfo(exact.dtype).eps
    np.testing.assert_allclose(found, exact, rtol=tolerance, atol=tolerance, strict=True)


def assert_as_the_reference(twin, case, transposed, dtype):
    a, b = operands(0, *case, transposed, dtype)
    expected = reference.matmul(a, b, *transposed)
    assert_near(twin.matmul(a, b, *transposed), expected, a.size)
    d_c = np.random.default_rng(1).normal(size=expected.shape).astype(dtype)
    exact = reference.matmul_vjp(d_c, a, b, *transposed)
    for x, y in zip(twin.matmul_vjp(d_c, a, b, *transposed), exact, strict=True):
        assert_near(x, y, d_c.size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("transposed", [(True, False), (False, True)])
def test_products_and_cotangents_are_the_references(twin, case, transposed, dtype):
    assert_as_the_reference(twin, CASES[case], transposed, dtype)


@COMPILED
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("transposed", [(False, False), (True, True)])
def test_large_products_and_cotangents_are_the_references(on_host, case, transposed, dtype):
    assert_as_the_reference(on_host(), LARGE[case], transposed, dtype)


@COMPILED
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1), sizes=st.tuples(*[st.integers(0, 40)] * 3), flags=st.tuples(*[st.booleans()] * 2)
)
def test_any_sizes(on_host, seed, sizes, flags):
    a, b = operands(seed, (2,), (), *sizes, flags, np.float32)
    assert_near(on_host().matmul(a, b, *flags), reference.matmul(a, b, *flags), sizes[1])


def test_strides_are_free_and_out_is_filled_alone(twin):
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 14, 10))[:, ::2, ::2], rng.normal(size=(6, 5)).T
    around = rng.normal(size=(2, 9, 14))
    before, out = around.copy(), around[:, 1:8, 1:13:2]
    assert twin.matmul(a, b, out=out) is out
    assert_near(out, a @ b, 5)
    before[:, 1:8, 1:13:2] = out
    np.testing.assert_array_equal(around, before)


def test_out_may_overlap_an_input(twin):
    a, b = np.random.default_rng(3).normal(size=(2, 2, 5, 5))
    expected = a @ b
    assert twin.matmul(a, b, out=a) is a
    assert_near(a, expected, 5)


@pytest.mark.filterwarnings("ignore:.*invalid value:RuntimeWarning")  # the simulator's: inf times 0 beyond c, dropped
@pytest.mark.parametrize("value", [0.0, -0.0, 1e30, -1e30, 1e-30, np.inf, np.nan])
def test_an_extreme_entry_reaches_its_own_row_only(twin, value):
    a, b = np.ones((5, 2), np.float32), np.ones((2, 6), np.float32)
    a[4, 0] = value
    expected = np.full((5, 6), 2, np.float32)
    expected[4] = np.float32(value) + 1
    np.testing.assert_array_equal(twin.matmul(a, b), expected)


@pytest.mark.parametrize(
    ("b", "error", "message"),
    [
        (np.ones((3, 3)), ValueError, r"op\(a\) is \(2, 2\) and op\(b\) is \(3, 3\)"),
        (np.ones((2, 2), np.float32), TypeError, "b is float32 but a is float64"),
    ],
)
def test_what_does_not_fit_is_refused(twin, b, error, message):
    with pytest.raises(error, match=message):
        twin.matmul(np.ones((2, 2)), b)
    half = np.ones((2, 2), np.float16)
    with pytest.raises(TypeError, match="a is float16, expected float32 or float64"):
        twin.matmul(half, half)


# ---- CUDA C only ----


@ON_HOST
@pytest.mark.parametrize("sizes", [(16, 32), (16, 64), (32, 64), (64, 32), (64, 64)])
def test_every_tile_takes_several_of_a_grid_that_is_smaller_than_the_work(on_host, monkeypatch, sizes):
    m, n = sizes
    assert cuda.tile_for(m, n) == sizes
    monkeypatch.setattr(cuda, "BLOCKS_PER_MULTIPROCESSOR", 1)
    twin = on_host(MultiProcessorCount=2)
    a, b = operands(4, (3,), (), m + (m == 64), 3, n + (n == 64), (False, False), np.float32)
    assert_near(twin.matmul(a, b), a @ b, 3)


@ON_HOST
def test_arrays_of_another_library_are_refused(on_host):
    twin = on_host()
    sys.modules["cupy"].ndarray = type("ndarray", (), {})
    with pytest.raises(TypeError, match=r"a is a numpy.ndarray, expected a cupy.ndarray; use cupy.asarray"):
        twin.matmul(np.ones((2, 2)), np.ones((2, 2)))


@ON_HOST
def test_no_thread_races_with_another_and_a_missing_barrier_is_seen(on_host, monkeypatch, tmp_path):
    sanitized = thread_sanitizer(tmp_path)
    a, b = operands(5, (2,), (2,), 10, 70, 40, (False, False), np.float32)
    assert_near(on_host(**sanitized).matmul(a, b), a @ b, 70)

    whole = cuda.source
    last = "        __syncthreads();\n    }\n"
    assert whole(cuda.Tile(16, 64), a.dtype).count(last) == 1
    monkeypatch.setattr(cuda, "source", lambda tile, dtype: whole(tile, dtype).replace(last, "    }\n"))
    with pytest.raises(KernelError, match="data race"):
        on_host(**sanitized).matmul(a, b)


def test_the_host_counts_tiles_as_the_kernel_does():
    text = (ROOT / "kernels/gemm/gemm.cu").read_text()
    assert f"#define TILE_K {cuda.TILE_K}\n" in text
    tuned = cuda.tile_for(10, 40)
    assert f"#define TILE_M {tuned.rows}\n#define TILE_N {tuned.columns}\n" in text
    assert cuda.Tile(64, 64).shared_bytes(8) <= 48 << 10
