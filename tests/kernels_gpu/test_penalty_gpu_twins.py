"""The GPU twins of tinymeta.kernels.penalty against the reference, on a machine without a GPU.

"cuda" is penalty.cu compiled for this machine (kernels/shim) under the address and undefined-behaviour sanitizers, behind
cuda.py itself. "numba_cuda" runs in Numba's simulator, which must be chosen before Numba is imported: one test runs this
file again in a process that has chosen it.
"""

import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels_gpu.cuda_on_host import COMPILED, ON_HOST, twins_of

from tinymeta.kernels.penalty import cuda, reference

DTYPES = [np.float32, np.float64]
SHAPES = [(), (0,), (1,), (3, 50)]
STEPS = {
    "penalty_grad": lambda f, p, **out: f(p[0], p[2], p[3], 3.0, **out),
    "sgd_step": lambda f, p, **out: f(*p[:4], 3.0, 0.1, **out),
    "proximal_step": lambda f, p, **out: f(*p[:4], 3.0, 0.1, **out),
    "adam_step": lambda f, p, **out: f(*p[:4], 3.0, 0.1, p[4], p[5], 3, 0.8, 0.95, 1e-6, **out),
}
on_host, twin, test_the_other_twin_in_the_simulator = twins_of(cuda)


def point(seed, shape, dtype):
    """theta, grad, anchor, fisher, m, v"""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.normal(size=shape), dtype) for _ in range(6)]
    for k in (3, 5):
        arrays[k] = np.asarray(np.abs(arrays[k]), dtype)
    for array in arrays:
        array.flags.writeable = False
    return arrays


def several(new):
    return new if isinstance(new, tuple) else (new,)


def assert_near(found, expected, dtype):
    for a, b in zip(several(found), several(expected), strict=True):
        assert (np.shape(a), a.dtype) == (np.shape(b), dtype)
        eps = 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(a, b, rtol=eps, atol=eps)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_is_the_references_and_leaves_its_inputs_alone(twin, name, dtype, shape):
    arrays = point(0, shape, dtype)
    assert_near(STEPS[name](getattr(twin, name), arrays), STEPS[name](getattr(reference, name), arrays), dtype)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_moves_parameters_where_they_lie(twin, name):
    arrays = [np.array(array) for array in point(1, (4, 20), np.float32)]
    expected = STEPS[name](getattr(reference, name), arrays)
    out = (arrays[0], arrays[4], arrays[5]) if name == "adam_step" else arrays[0]
    found = STEPS[name](getattr(twin, name), arrays, out=out)
    assert_near(found, expected, np.float32)
    assert all(a is b for a, b in zip(several(found), several(out), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_value_is_the_references(twin, dtype, shape):
    theta, _, anchor, fisher, _, _ = point(2, shape, dtype)
    exact = reference.penalty(*(x.astype(np.float64) for x in (theta, anchor, fisher)), 3.0)
    np.testing.assert_allclose(twin.penalty(theta, anchor, fisher, 3.0), exact, rtol=4 * np.finfo(dtype).eps)


@COMPILED
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(0, 1100), name=st.sampled_from(sorted(STEPS)))
def test_any_size(on_host, size, name):
    twin, arrays = on_host(), point(3, (size,), np.float32)
    assert_near(STEPS[name](getattr(twin, name), arrays), STEPS[name](getattr(reference, name), arrays), np.float32)
    wide = [arrays[k].astype(np.float64) for k in (0, 2, 3)]
    np.testing.assert_allclose(
        twin.penalty(*(arrays[k] for k in (0, 2, 3)), 2.0), reference.penalty(*wide, 2.0), rtol=5e-7
    )


def test_strides_are_free(twin):
    arrays = [array[::2, ::-1] for array in point(4, (6, 20), np.float32)]
    for name, step in STEPS.items():
        assert_near(step(getattr(twin, name), arrays), step(getattr(reference, name), arrays), np.float32)


def test_extreme_values_behave_as_documented(twin):
    anchor, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    poisoned = np.float32([np.nan, 2.0, np.inf])
    np.testing.assert_array_equal(twin.penalty_grad(poisoned, anchor, one, 1.0), poisoned)
    np.testing.assert_array_equal(twin.proximal_step(poisoned, anchor, anchor, one, 1.0, 1.0), poisoned / 2)
    assert np.isnan(twin.penalty(poisoned, anchor, one, 1.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, a, b: k.penalty(a, b, a, 1.0), ValueError, r"anchor has shape \(3,\), expected \(2,\)"),
        (lambda k, a, b: k.sgd_step(a, a, a, a, 1.0, 1.0, out=b), ValueError, r"out_0 has shape \(3,\)"),
        (
            lambda k, a, b: k.sgd_step(a, a, a, a, 1.0, 1.0, out=np.ones(4)[::2]),
            ValueError,
            "C-contiguous array to write",
        ),
        (lambda k, a, b: k.adam_step(a, a, a, a, 1.0, 1.0, a, a, 0), ValueError, "t is 0, expected the step's number"),
        (lambda k, a, b: k.penalty_grad(*[a.astype(np.float16)] * 3, 1.0), TypeError, "float16, expected float32"),
        (lambda k, a, b: k.penalty(*[a.astype(np.float16)] * 3, 1.0), TypeError, "float16, expected float32"),
    ],
)
def test_what_does_not_fit_is_refused(twin, call, error, message):
    with pytest.raises(error, match=message):
        call(twin, np.ones(2), np.ones(3))


@ON_HOST
def test_arrays_of_another_library_are_refused(on_host):
    twin = on_host()
    sys.modules["cupy"].ndarray = type("ndarray", (), {})
    with pytest.raises(TypeError, match=r"an array is a numpy.ndarray, expected a cupy.ndarray; use cupy.asarray"):
        twin.penalty(*point(5, (3,), np.float32)[:3], 1.0)
