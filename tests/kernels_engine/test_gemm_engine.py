"""kernels.gemm: the product and its VJP against the engine's matmul, and to second order by their own closure."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernels_engine.compare import DTYPES, assert_close, normals, normals_like

import tinymeta as tm
from tinymeta import ops
from tinymeta.kernels import gemm

seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))  # m, k, n
leading = st.sampled_from([((), ()), ((2,), (2,)), ((2,), ()), ((), (3, 2)), ((3, 1), (2,)), ((1, 2), (3, 1))])
transposes = st.tuples(st.booleans(), st.booleans())


def composed(transposed):
    def product(a, b):
        a, b = (ops.swapaxes(x, -1, -2) if t else x for x, t in zip((a, b), transposed, strict=True))
        return ops.matmul(a, b)

    return product


def case(seed, size, lead, transposed, dtype=np.float64):
    """(rng, a, b)"""
    m, k, n = size
    rng = np.random.default_rng(seed)
    a, b = ((k, m) if transposed[0] else (m, k)), ((n, k) if transposed[1] else (k, n))
    return rng, *normals(rng, (*lead[0], *a), (*lead[1], *b), dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(seed=seeds, size=sizes, lead=leading, transposed=transposes)
@example(seed=0, size=(2, 0, 3), lead=((2,), ()), transposed=(False, False))
def test_the_product_and_its_backward_are_the_engines(dtype, seed, size, lead, transposed):
    rng, a, b = case(seed, size, lead, transposed, dtype)
    c, pull = tm.vjp(composed(transposed), a, b)
    assert_close(gemm.matmul(a, b, *transposed), c)
    d_c = normals_like(rng, c)
    assert_close(gemm.matmul_vjp(d_c, a, b, *transposed), pull(d_c))


@given(seed=seeds, size=sizes, transposed=transposes)
def test_the_double_backward_is_the_backward_of_the_two_products_in_the_backward(seed, size, transposed):
    """d_a and d_b are products too, so matmul_vjp of each gives the cotangents of (d_c, a, b), to any order."""
    rng, a, b = case(seed, size, ((2,), (2,)), transposed)
    t_a, t_b = transposed
    (d_c,) = normals(rng, (2, size[0], size[2]))
    of_a = ((b, d_c), (t_b, True)) if t_a else ((d_c, b), (False, not t_b))
    of_b = ((d_c, a), (True, t_a)) if t_b else ((a, d_c), (not t_a, False))
    backward = gemm.matmul_vjp(d_c, a, b, *transposed)
    assert_close(tuple(gemm.matmul(*xs, *t) for xs, t in (of_a, of_b)), backward)

    dd_a, dd_b = normals_like(rng, backward)
    expected = tm.vjp(lambda d_c, a, b: tm.vjp(composed(transposed), a, b)[1](d_c), d_c, a, b)[1]((dd_a, dd_b))
    in_a = dict(zip("bc" if t_a else "cb", gemm.matmul_vjp(dd_a, *of_a[0], *of_a[1]), strict=True))
    in_b = dict(zip("ca" if t_b else "ac", gemm.matmul_vjp(dd_b, *of_b[0], *of_b[1]), strict=True))
    assert_close((in_a["c"] + in_b["c"], in_b["a"], in_a["b"]), expected)
