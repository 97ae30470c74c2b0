"""check.contract on hand-written kernels: right ones pass, each way of being wrong is named."""

import numpy as np
import pytest

from tinymeta import check
from tinymeta.kernels.gemm import reference as gemm

RNG = np.random.default_rng(9)
A, B = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2))


class Matmul:
    """A right kernel on plain arrays; the tests break one part of it at a time."""

    forward = staticmethod(lambda a, b: a @ b)
    vjp = staticmethod(lambda g, a, b: (g @ b.T, a.T @ g))
    jvp = staticmethod(lambda v, a, b: v[0] @ b + a @ v[1])


def run(forward=Matmul.forward, vjp=Matmul.vjp, jvp=Matmul.jvp, args=(A, B), **options):
    return check.contract(forward=forward, vjp=vjp, jvp=jvp, args=args, name="matmul", **options)


def broken(match, error=check.CheckError, **parts):
    with pytest.raises(error, match=match) as caught:
        run(**parts)
    assert "\n" not in str(caught.value)


def test_a_right_kernel_passes_every_clause():
    report = run()
    assert set(report.errors) == {"VJP", "JVP", "adjoint", "linearity of VJP", "linearity of JVP"}
    assert report.worst < 1e-9
    assert set(run(jvp=None).errors) == {"VJP", "linearity of VJP"}


def test_float32_kernels_are_checked_in_float32():
    assert run(args=(A.astype(np.float32), B.astype(np.float32))).worst < 1e-3


def test_several_outputs_and_an_integer_argument():
    index = np.array([2, 0, 2])

    def vjp(cotangents, x, index):
        g = np.zeros_like(x)
        np.add.at(g, index, cotangents[0])
        return g + 2 * x * cotangents[1], None

    check.contract(
        forward=lambda x, index: (x[index], np.sum(x**2)),
        vjp=vjp,
        jvp=lambda v, x, index: (v[0][index], np.sum(2 * x * v[0])),
        args=(RNG.normal(size=3), index),
    )


def test_wrong_numbers_are_caught_by_name():
    broken(
        r"VJP of matmul, argument 1, float64\[4,2\]: numeric .* got",
        vjp=lambda g, a, b: (g @ b.T, 2 * a.T @ g),
        jvp=None,
    )
    broken(r"JVP of matmul, argument 0.*|adjoint of matmul, argument 0", jvp=lambda v, a, b: 2 * v[0] @ b + a @ v[1])
    broken(r"adjoint of matmul, argument 1", vjp=lambda g, a, b: (g @ b.T, 1.01 * a.T @ g))


def test_both_wrong_in_the_same_way_is_caught_by_differences():
    """Adjoint to each other and linear, but not the derivative."""
    broken(
        r"VJP of matmul, argument 0, float64\[3,4\]: numeric",
        vjp=lambda g, a, b: (2 * g @ b.T, a.T @ g),
        jvp=lambda v, a, b: 2 * v[0] @ b + a @ v[1],
    )


def test_a_transposed_cotangent_of_square_matrices_is_caught():
    square = RNG.normal(size=(3, 3))
    broken("VJP of matmul, argument 0", vjp=lambda g, a, b: (g @ b, a.T @ g), jvp=None, args=(square, square + 1))


def test_shapes_and_dtypes():
    broken(
        r"vjp of matmul, argument 0: got float64\[4,3\], expected float64\[3,4\]",
        vjp=lambda g, a, b: ((g @ b.T).T, a.T @ g),
    )
    broken(
        r"vjp of matmul, argument 1: got float32\[4,2\]", vjp=lambda g, a, b: (g @ b.T, (a.T @ g).astype(np.float32))
    )
    broken(r"vjp of matmul, argument 0: got NoneType, expected float64\[3,4\]", vjp=lambda g, a, b: (None, a.T @ g))
    broken(r"jvp of matmul, output 0: got float64\[3\]", jvp=lambda v, a, b: (v[0] @ b + a @ v[1])[:, 0])
    broken(r"jvp of matmul returned tuple, expected a NumPy array", jvp=lambda v, a, b: (v[0] @ b + a @ v[1],))


def test_the_number_of_results():
    broken(
        "vjp of matmul returned a tuple of 1, expected a tuple of 2, one per argument", vjp=lambda g, a, b: (g @ b.T,)
    )
    broken(r"vjp of matmul returned list, expected a tuple of 2", vjp=lambda g, a, b: [g @ b.T, a.T @ g])
    pair = {"forward": lambda a, b: (a @ b, a), "vjp": lambda g, a, b: (g[0] @ b.T + g[1], a.T @ g[0])}
    run(**pair, jvp=lambda v, a, b: (v[0] @ b + a @ v[1], v[0]))
    broken(r"jvp of matmul returned float64\[3,2\], expected a tuple of 2 as forward", **pair)


def test_forward_must_return_arrays_of_floats():
    broken(r"forward of matmul returned list", forward=lambda a, b: (a @ b).tolist())
    broken(r"forward of matmul returned int64\[3,2\]", forward=lambda a, b: np.rint(a @ b).astype(np.int64))
    broken("no argument of floats", error=TypeError, forward=lambda a: a * 1.0, args=(np.arange(3),))


def in_place(f, which):
    def changed(*arrays):
        result = f(*arrays)
        target = arrays[which][0] if isinstance(arrays[which], tuple) else arrays[which]
        target += 1
        return result

    return changed


def test_inputs_must_be_left_alone():
    broken("forward of matmul changed one of its inputs in place", forward=in_place(Matmul.forward, 1))
    broken("vjp of matmul changed one of its inputs in place", vjp=in_place(Matmul.vjp, 0))
    broken("jvp of matmul changed one of its inputs in place", jvp=in_place(Matmul.jvp, 0))


def test_the_same_inputs_give_the_same_result():
    noise = np.random.default_rng(0)
    broken(
        "forward of matmul gave another result when it was called again",
        forward=lambda a, b: a @ b + 1e-12 * noise.normal(),
    )
    broken(
        "vjp of matmul gave another result when it was called again",
        vjp=lambda g, a, b: (g @ b.T + 1e-12 * noise.normal(), a.T @ g),
    )


def flat_memory(x):
    """What a kernel sees that takes the pointer and ignores the strides."""
    return np.lib.stride_tricks.as_strided(x, x.shape, np.empty(x.shape).strides)


def test_strided_inputs_are_respected():
    broken(
        "forward of matmul gave another result for inputs that are not contig", forward=lambda a, b: flat_memory(a) @ b
    )
    broken("vjp of matmul gave another result for inputs", vjp=lambda g, a, b: (flat_memory(g) @ b.T, a.T @ g))


def test_the_callers_arrays_are_copied():
    a, b = A.copy(), B.copy()
    with pytest.raises(check.CheckError):
        run(forward=in_place(Matmul.forward, 0), args=(a, b))
    np.testing.assert_array_equal(a, A)
    np.testing.assert_array_equal(b, B)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_kernel_of_our_own_keeps_the_contract(dtype):
    a, b = RNG.normal(size=(2, 3, 4)).astype(dtype), RNG.normal(size=(1, 4, 5)).astype(dtype)
    check.contract(forward=gemm.matmul, vjp=gemm.matmul_vjp, args=(a, b))


def test_an_argument_that_is_no_array_is_refused():
    with pytest.raises(TypeError, match="argument 1 of <lambda> is no array or number: hold it fixed by a lambda"):
        check.contract(lambda x, m: x if m is None else 2 * x, lambda g, x, m: (g, None), args=(A, None))
