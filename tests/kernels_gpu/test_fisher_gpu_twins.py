"""The GPU twins of tinymeta.kernels.fisher against the reference in float64, on a machine without a GPU.

"cuda" is fisher.cu compiled for this machine (kernels/shim) under the address and undefined-behaviour sanitizers, behind
cuda.py itself. "numba_cuda" runs in Numba's simulator, which must be chosen before Numba is imported: one test runs this
file again in a process that has chosen it.
"""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels_gpu.cuda_on_host import COMPILED, ON_HOST, thread_sanitizer, twins_of

from tinymeta.kernels.fisher import chunked, cuda, reference

DTYPES = [np.float32, np.float64]
LINEAR = {  # V, N, I, O
    "several tiles of the simulator's": (2, 9, 6, 5),
    "one of everything": (1, 1, 1, 1),
    "no samples": (2, 0, 3, 4),
    "no columns": (0, 3, 2, 4),
    "no inputs, the bias alone": (2, 5, 0, 3),
    "no outputs": (2, 3, 4, 0),
}
POSITIONS = {  # N, L, P, Q
    "several tiles of the simulator's": (2, 9, 6, 5),
    "one of everything": (1, 1, 1, 1),
    "no samples": (0, 3, 2, 4),
    "no positions": (2, 0, 3, 2),
    "no outputs": (2, 3, 4, 0),
}
on_host, twin, test_the_other_twin_in_the_simulator = twins_of(cuda, TILE=4)


def normals(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in shapes]
    for array in arrays:
        array.flags.writeable = False
    return arrays


def assert_as_the_reference(twin, name, *arrays):
    """Within the rounding of the terms, which cancel inside a square: those of the arrays' sizes do not."""
    wide = [array.astype(np.float64) for array in arrays]
    exact, sizes = (getattr(reference, name)(*given) for given in (wide, [np.abs(array) for array in wide]))
    for found, a, size in zip(getattr(twin, name)(*arrays), exact, sizes, strict=True):
        assert (found.shape, found.dtype) == (a.shape, arrays[0].dtype)
        atol = 40 * np.finfo(found.dtype).eps * size.max(initial=0)
        np.testing.assert_allclose(found, a, rtol=0, atol=atol)


def assert_linear(twin, dtype, V, N, I, O):
    A, S = normals(0, dtype, (N, I), (V, N, O))
    assert_as_the_reference(twin, "linear_exact", A, S)
    if V:
        assert_as_the_reference(twin, "linear", A, S[0])


def assert_positions(twin, dtype, N, L, P, Q):
    X, Y = normals(1, dtype, (N, P, L), (N, Q, L))
    assert_as_the_reference(twin, "conv", Y, X)
    assert_as_the_reference(twin, "linear_time", X.swapaxes(1, 2), Y.swapaxes(1, 2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LINEAR)
def test_linear_kinds_are_the_references(twin, case, dtype):
    assert_linear(twin, dtype, *LINEAR[case])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", POSITIONS)
def test_sums_over_time_and_positions_are_the_references(twin, case, dtype):
    assert_positions(twin, dtype, *POSITIONS[case])


@COMPILED
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_full_and_ragged_tiles_are_the_references(on_host, dtype):
    assert_linear(on_host(), dtype, 2, 300, 70, 65)
    assert_positions(on_host(), dtype, 2, 18, 66, 129)


@COMPILED
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.tuples(*[st.integers(0, 5)] * 4), dtype=st.sampled_from(DTYPES))
def test_any_sizes(on_host, sizes, dtype):
    assert_linear(on_host(), dtype, *sizes)
    assert_positions(on_host(), dtype, *sizes)


def test_strides_are_free(twin):
    A, D = normals(2, np.float32, (4, 6, 10), (4, 6, 14))
    for X, Y in ((A[::2, ::-1, ::3], D[1::2, :, ::2]), (A.T[:4].T, D.T[:6].T)):
        assert_as_the_reference(twin, "linear_time", X, Y)
        assert_as_the_reference(twin, "conv", X.swapaxes(1, 2), Y.swapaxes(1, 2))
        assert_as_the_reference(twin, "linear_exact", X[:, 0], Y.swapaxes(0, 1))


@pytest.mark.filterwarnings("ignore:(invalid|overflow):RuntimeWarning")
def test_squares_obey_float32_at_extremes(twin):
    A, D = np.float32([[1e-30, 1, 1e30]]), np.float32([[0.5, 0]])
    with np.errstate(over="ignore", invalid="ignore"):
        F_W, F_b = twin.linear(A, D)
        poisoned, _ = twin.linear(np.float32([[np.nan, 1, np.inf]]), np.float32([[2, 0]]))
    np.testing.assert_array_equal(F_W, np.float32([[0, 0], [0.25, 0], [np.inf, np.nan]]))
    np.testing.assert_array_equal(F_b, np.float32([0.25, 0]))
    np.testing.assert_array_equal(poisoned, np.float32([[np.nan, np.nan], [4, 0], [np.inf, np.nan]]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda twin, z: twin.linear(z, z[:1]), ValueError, r"D has shape \(1, 3\), expected \(N, O\) = \(2, 3\)"),
        (lambda twin, z: twin.conv(z[None], z[None, :, :1]), ValueError, r"expected \(N, O, L\) = \(1, 2, 3\)"),
        (
            lambda twin, z: twin.linear(z.astype(np.float16), z.astype(np.float16)),
            TypeError,
            "float16, expected float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(twin, call, error, message):
    with pytest.raises(error, match=message):
        call(twin, np.ones((2, 3), np.float32))


# ---- CUDA C only ----


@COMPILED
@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
@pytest.mark.parametrize("N", [0, 30])
def test_a_network_is_the_references_in_one_chunk_and_in_several(on_host, monkeypatch, kind, N):
    (x,), rng = normals(3, np.float32, (N, 5)), np.random.default_rng(4)
    params = [tuple(normals(5 + k, np.float32, (i, o), (o,))) for k, (i, o) in enumerate([(5, 7), (7, 4)])]
    given = x, rng.integers(4, size=N), "tanh", kind, rng.random(N), 3
    twin, exact = (
        on_host(),
        reference.mlp_fisher([(W.astype(float), b.astype(float)) for W, b in params], x.astype(float), *given[1:]),
    )
    for memory in (1 << 28, 1000):
        monkeypatch.setattr(cuda, "MEMORY", memory)
        for found, expected in zip(twin.mlp_fisher(params, *given), exact, strict=True):
            for a, b in zip(found, expected, strict=True):
                assert (a.shape, a.dtype) == (b.shape, np.float32)
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * b.max(initial=0))


@ON_HOST
def test_arrays_of_another_library_are_refused(on_host):
    twin = on_host()
    sys.modules["cupy"].ndarray = type("ndarray", (), {})
    with pytest.raises(TypeError, match=r"A is a numpy.ndarray, expected a cupy.ndarray; use cupy.asarray"):
        twin.linear(*normals(6, np.float32, (2, 3), (2, 3)))


@ON_HOST
def test_no_thread_races_with_another(on_host, tmp_path):
    sanitized = thread_sanitizer(tmp_path)
    assert_linear(on_host(**sanitized), np.float32, 2, 20, 5, 6)
    assert_positions(on_host(**sanitized), np.float32, 2, 18, 6, 5)


def test_all_backends_have_the_same_functions():
    for module in (chunked, cuda):
        assert all(callable(getattr(module, name)) for name in cuda.__all__)
