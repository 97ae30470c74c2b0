"""kernels.gemm.cpu, the compiled products: against the reference, and `product` as compiled code calls it."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels import simd
from tinymeta.kernels.gemm import cpu, reference
from tinymeta.kernels.gemm.batch import loops
from tinymeta.kernels.gemm.cpu_product import DEPTH, address, product

DTYPES = [np.float32, np.float64]
seeds = st.integers(0, 2**32 - 1)
small = st.integers(0, 5)
sizes = st.sampled_from([0, 1, 2, 5, 6, 7, 13, 16, 17, 40, 64, 65, 131])  # about rows, vectors, panels and DEPTH
flag = st.booleans()
leading = st.sampled_from(
    [((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,)), ((0,), (1,)), ((2, 3, 4), (2, 1, 4)), ((4, 1, 3), (1, 5, 1))]
)
layouts = st.sampled_from(["C", "F", "every second", "backwards", "one entry"])


def laid_out(rng, rows, columns, layout, dtype):
    """Random numbers in one of the layouts."""
    whole = rng.normal(size=(2 * rows + 1, 2 * columns + 1)).astype(dtype)
    return {
        "C": whole[:rows, :columns],
        "F": rng.normal(size=(columns, rows)).astype(dtype).T,
        "every second": whole[1::2, 1::2],
        "backwards": whole[rows:0:-1, columns:0:-1],
        "one entry": np.broadcast_to(whole[0, 0], (rows, columns)),
    }[layout]


def bound(a, b, c=0.0):
    """Of the rounding of |a| |b| + |c| over k terms, k + 1 units."""
    wide = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) + np.abs(c)
    return (a.shape[-1] + 1) * np.finfo(a.dtype).eps * wide


def assert_product(found, a, b, c=0.0):
    exact = a.astype(np.float64) @ b.astype(np.float64) + c
    assert found.dtype == a.dtype
    assert (np.abs(found - exact) <= bound(a, b, c)).all()


@simd.njit
def call(gemm, m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, add):
    product(gemm, m, k, n, a, a_row, a_col, b, b_row, b_col, c, c_row, add)


def multiply(a, b, c, add):
    size = a.itemsize
    steps = [(x.ctypes.data, *(step // size for step in x.strides)) for x in (a, b)]
    call(address(a.dtype), *a.shape, b.shape[1], *steps[0], *steps[1], c.ctypes.data, c.strides[0] // size, add)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=150, deadline=None)
@given(seed=seeds, m=sizes, k=sizes, n=sizes, of_a=layouts, of_b=layouts, add=flag)
@example(seed=0, m=1, k=DEPTH + 1, n=7, of_a="C", of_b="F", add=True)
@example(seed=1, m=7, k=DEPTH + 1, n=1, of_a="every second", of_b="backwards", add=True)
@example(seed=2, m=7, k=0, n=3, of_a="C", of_b="C", add=False)
def test_a_product_of_any_layout_is_the_references_and_writes_nothing_else(dtype, seed, m, k, n, of_a, of_b, add):
    rng = np.random.default_rng(seed)
    a, b = laid_out(rng, m, k, of_a, dtype), laid_out(rng, k, n, of_b, dtype)
    around = rng.normal(size=(m + 2, n + 3)).astype(dtype)
    before, inside = around.copy(), (slice(1, m + 1), slice(1, n + 1))
    multiply(a, b, around[inside], add)
    assert_product(around[inside], a, b, before[inside] if add else 0.0)
    before[inside] = around[inside]
    np.testing.assert_array_equal(around, before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_of_c_that_does_not_lie_side_by_side_is_one_too(dtype):
    rng = np.random.default_rng(3)
    for layout in ("C", "F", "every second"):
        a, b, c = laid_out(rng, 9, 21, layout, dtype), laid_out(rng, 21, 1, "C", dtype), np.zeros((9, 4), dtype)
        multiply(a, b, c[:, 1:2], False)
        assert_product(c[:, 1:2], a, b)
        assert not c[:, [0, 2, 3]].any()


@pytest.mark.parametrize("value", [0.0, -0.0, 1e30, -1e30, 1e-30, np.inf, np.nan])
@pytest.mark.parametrize(("m", "n"), [(7, 5), (7, 1), (1, 5)])
def test_an_extreme_entry_reaches_its_own_row_or_column_only(value, m, n):
    for transpose_b in (False, True):
        a, b = np.ones((m, 3), np.float32), np.ones((n, 3) if transpose_b else (3, n), np.float32)
        a[-1, 0] = value
        expected = np.full((m, n), 3, np.float32)
        expected[-1] = np.float32(value) + 2
        np.testing.assert_array_equal(cpu.matmul(a, b, False, transpose_b), expected)
        a[-1, 0] = 1
        b[(-1, 1) if transpose_b else (1, -1)] = value
        expected = np.full((m, n), 3, np.float32)
        expected[:, -1] = np.float32(value) + 2
        np.testing.assert_array_equal(cpu.matmul(a, b, False, transpose_b), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60, deadline=None)
@given(seed=seeds, m=small, k=small, n=small, leads=leading, ta=flag, tb=flag)
def test_products_and_cotangents_of_broadcast_matrices_are_the_references(dtype, seed, m, k, n, leads, ta, tb):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(*leads[0], *((k, m) if ta else (m, k)))).astype(dtype)
    b = rng.normal(size=(*leads[1], *((n, k) if tb else (k, n)))).astype(dtype)
    tolerance = 300 * np.finfo(dtype).eps  # sums of up to 100 products of a few units
    expected = reference.matmul(a, b, ta, tb)
    found = cpu.matmul(a, b, ta, tb)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, strict=True)
    d_c = rng.normal(size=expected.shape).astype(dtype)
    cotangents = cpu.matmul_vjp(d_c, a, b, ta, tb), reference.matmul_vjp(d_c, a, b, ta, tb)
    for x, y in zip(*cotangents, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, strict=True)


def test_many_products_share_the_threads():
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(700, 1, 10, 40)).astype(np.float32), rng.normal(size=(3, 40, 40)).astype(np.float32)
    assert 2 * cpu.FLOPS_PER_THREAD < 2 * 2100 * 10 * 40 * 40
    np.testing.assert_allclose(cpu.matmul(a, b), reference.matmul(a, b), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [
    lambda c: c, np.asfortranarray, lambda c: np.repeat(c, 2, axis=-1)[..., ::2], lambda c: c[::-1, ::-1],
    lambda c: c.swapaxes(0, 2).copy().swapaxes(0, 2),
])  # fmt: skip
def test_out_is_filled_and_returned_in_any_layout(make):
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 3, 6))
    out = make(np.zeros((4, 5, 6)))
    assert cpu.matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, a @ b, rtol=1e-13, atol=1e-13)


def test_a_parallel_loop_of_compiled_code_calls_the_product():
    prange = pytest.importorskip("numba").prange

    @simd.njit(parallel=True)
    def all_products(gemm, a, b, c):
        for t in prange(len(a)):
            product(gemm, 10, 40, 40, a[t].ctypes.data, 40, 1, b[t].ctypes.data, 40, 1, c[t].ctypes.data, 40, False)

    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(25, 10, 40)), rng.normal(size=(25, 40, 40))
    c = np.empty_like(a)
    all_products(address(np.float64), a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-11, atol=1e-11)


def test_out_may_overlap_an_input():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(4, 3, 3)), rng.normal(size=(3, 3))
    expected = a @ b
    assert cpu.matmul(a, b, out=a) is a
    np.testing.assert_allclose(a, expected, rtol=1e-13, atol=1e-13)


def test_bytes_that_no_vector_reads_are_copied_first():
    rng = np.random.default_rng(7)
    a, b = rng.normal(size=(4, 3)), rng.normal(size=(3, 5))
    records = np.zeros((4, 3), np.dtype([("skip", "i1"), ("x", "f8")]))  # entries 9 bytes apart
    records["x"] = a
    for x in (records["x"], a.astype(">f8")):
        np.testing.assert_allclose(cpu.matmul(x, x, True), a.T @ a, rtol=1e-13)
    out = np.zeros((4, 5), np.dtype([("skip", "i1"), ("x", "f8")]))
    cpu.matmul(a, b, out=out["x"])
    np.testing.assert_allclose(out["x"], a @ b, rtol=1e-13)


def test_what_does_not_fit_is_refused():
    a = np.ones((2, 2), np.float32)
    with pytest.raises(TypeError, match="takes float32 or float64, not float16"):
        cpu.matmul(a.astype(np.float16), a.astype(np.float16))
    with pytest.raises(TypeError, match="b is float64 but a is float32"):
        cpu.matmul(a, a.astype(np.float64))
    with pytest.raises(ValueError, match=r"op\(b\) is \(3, 2\)"):
        cpu.matmul(a, np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"out has shape \(2, 3\)"):
        cpu.matmul(a, a, out=np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="out is read-only"):
        cpu.matmul(a, a, out=np.broadcast_to(a, (2, 2)))
    with pytest.raises(ValueError, match=r"d_c has shape \(1, 2\)"):
        cpu.matmul_vjp(a[:1], a, a)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_result_whose_columns_lie_apart_is_the_product(dtype):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-9, 9, shape).astype(dtype) for shape in ((5, 7), (7, 3)))
    out = np.full((3, 5), np.nan, dtype).T
    assert cpu.matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, a @ b)


@settings(deadline=None)
@given(leads=leading, order=st.permutations([0, 1, 2]), seed=seeds)
def test_loops_visit_every_matrix_where_it_lies(leads, order, seed):
    """Also where axes are permuted, so that they cannot be one loop."""
    a, b = (np.arange(2 + np.prod(lead, dtype=int) * 2).astype(float)[2:].reshape(*lead, 1, 2) for lead in leads)
    if a.ndim == 5:
        a = np.ascontiguousarray(a.transpose(*order, 3, 4)).transpose(*np.argsort(order), 3, 4)
    lead = np.broadcast_shapes(*leads)
    visited = []
    for part in loops(a, b):
        for i, j in np.ndindex(part.outer, part.inner):
            steps = zip(part.first, part.outer_steps, part.inner_steps, strict=True)
            visited.append(tuple(first + i * outer + j * inner for first, outer, inner in steps))
    a, b = (np.broadcast_to(x, (*lead, 1, 2)) for x in (a, b))
    where = [(x.__array_interface__["data"][0], x.strides[:-2]) for x in (a, b)]
    offsets = [tuple(int(np.dot(index, steps)) // 8 for _, steps in where) for index in np.ndindex(*lead)]
    assert visited == offsets


def test_the_compiled_product_comes_from_disk_in_the_next_process():
    program = (
        "import numpy as np; from tinymeta.kernels.gemm import cpu_product as p; p.address(np.float32)\n"
        "print(p._entry(np.dtype(np.float32), p.SOURCES).cache_hits)"
    )
    with tempfile.TemporaryDirectory() as folder:
        hits = [
            subprocess.run(
                [sys.executable, "-c", program], env=os.environ | {"NUMBA_CACHE_DIR": folder, "NUMBA_DISABLE_JIT": "0"},
                capture_output=True, text=True, check=True,
            ).stdout.strip()
            for _ in range(2)
        ]  # fmt: skip
    assert hits == ["0", "1"]
