"""tinymeta.kernels.gemm: products and cotangents against loops, differences and identities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.kernels.gemm import matmul, matmul_vjp

quick = settings(max_examples=40, deadline=None)
size = st.integers(0, 4)
seeds = st.integers(0, 2**32 - 1)
flag = st.booleans()
leading = st.sampled_from(
    [((), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,)), ((1,), (4,)), ((0,), (1,)), ((2, 3), (1, 3))]
)


def operands(rng, normal, m, k, n, leads, transpose_a, transpose_b):
    a = normal(rng, *leads[0], *((k, m) if transpose_a else (m, k)))
    b = normal(rng, *leads[1], *((n, k) if transpose_b else (k, n)))
    return a, b


@quick
@given(seed=seeds, m=size, k=size, n=size, leads=leading, ta=flag, tb=flag)
def test_every_entry_is_its_dot_product(normal, seed, m, k, n, leads, ta, tb):
    a, b = operands(np.random.default_rng(seed), normal, m, k, n, leads, ta, tb)
    c = matmul(a, b, ta, tb)
    lead = np.broadcast_shapes(*leads)
    assert c.shape == (*lead, m, n)
    A, B = np.broadcast_to(a, (*lead, *a.shape[-2:])), np.broadcast_to(b, (*lead, *b.shape[-2:]))
    for index in np.ndindex(*c.shape):
        *batch, r, s = index
        left = [A[(*batch, q, r)] if ta else A[(*batch, r, q)] for q in range(k)]
        right = [B[(*batch, s, q)] if tb else B[(*batch, q, s)] for q in range(k)]
        assert c[index] == pytest.approx(sum(x * y for x, y in zip(left, right, strict=True)), rel=1e-12, abs=1e-12)


@quick
@given(seed=seeds, m=size, k=size, n=size, leads=leading, ta=flag, tb=flag)
def test_the_vjp_is_the_transposed_derivative(normal, check_vjp, seed, m, k, n, leads, ta, tb):
    rng = np.random.default_rng(seed)
    inputs = operands(rng, normal, m, k, n, leads, ta, tb)
    check_vjp(lambda a, b: (matmul(a, b, ta, tb),), lambda d, a, b: matmul_vjp(d, a, b, ta, tb), inputs, rng)


def test_bilinear_adjoint_identity_holds_to_rounding(normal):
    rng = np.random.default_rng(0)
    a, b, d = normal(rng, 5, 3, 4), normal(rng, 4, 6), normal(rng, 5, 3, 6)
    d_a, d_b = matmul_vjp(d, a, b)
    np.testing.assert_allclose([np.sum(d_a * a), np.sum(d_b * b)], np.sum(d * matmul(a, b)), rtol=1e-12)


def test_out_is_filled_and_returned_and_may_overlap_an_input():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 3, 3)), rng.normal(size=(3, 3))
    expected = matmul(a, b)
    assert matmul(a, b, out=a) is a
    np.testing.assert_array_equal(a, expected)


def test_float32_stays_float32_and_strides_are_free(normal):
    rng = np.random.default_rng(2)
    a, b = normal(rng, 8, 5, dtype=np.float32)[::2], normal(rng, 5, 6, dtype=np.float32)[::-1, ::3]
    c = matmul(a, b)
    assert c.dtype == np.float32
    np.testing.assert_allclose(c, matmul(a.astype(np.float64), b.astype(np.float64)), rtol=1e-5, atol=1e-6)
    assert {d.dtype for d in matmul_vjp(c, a, b)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("value", [1e30, -1e30, 1e-30, np.inf, np.nan])
def test_an_extreme_entry_reaches_its_own_row_only(value):
    a, b = np.ones((3, 2)), np.array([[1.0], [2.0]])
    a[1, 0] = value
    np.testing.assert_array_equal(matmul(a, b), [[3.0], [value + 2.0], [3.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: matmul(np.ones((2, 3)), np.ones((2, 3))), ValueError, r"op\(a\) is \(2, 3\) and op\(b\) is \(2, 3\)"),
        (lambda: matmul(np.ones(3), np.ones((3, 3)), True), ValueError, r"op\(a\) is \(3,\)"),
        (lambda: matmul(np.ones((2, 3, 3)), np.ones((4, 3, 3))), ValueError, "do not broadcast"),
        (lambda: matmul(np.ones((2, 2)), np.ones((2, 2), np.float32)), TypeError, "b is float32 but a is float64"),
        (lambda: matmul(np.ones((2, 2)), np.ones((2, 2)), out=np.ones((2, 3))), ValueError, r"out has shape \(2, 3\)"),
        (lambda: matmul_vjp(np.ones((1, 2)), np.ones((2, 2)), np.ones((2, 2))), ValueError, r"d_c has shape \(1, 2\)"),
    ],
)
def test_wrong_arguments_give_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call()
