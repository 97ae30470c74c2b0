"""kernels.penalty.cpu: the reference's arithmetic bit for bit, in place and not, and its sum in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels.penalty import cpu, reference

shapes = st.sampled_from([(), (0,), (1,), (17,), (3, 4), (2, 0, 3), (130, 300)])  # the last one is several pieces
dtypes = st.sampled_from([np.float32, np.float64])
STEPS = {
    "penalty_grad": lambda f, p, lam, lr, **out: f(p[0], p[2], p[3], lam, **out),
    "sgd_step": lambda f, p, lam, lr, **out: f(*p[:4], lam, lr, **out),
    "proximal_step": lambda f, p, lam, lr, **out: f(*p[:4], lam, lr, **out),
    "adam_step": lambda f, p, lam, lr, **out: f(*p[:4], lam, lr, p[4], p[5], 3, 0.8, 0.95, 1e-6, **out),
}


def point(seed, shape, dtype):
    """theta, grad, anchor, fisher, m, v"""
    rng = np.random.default_rng(seed)
    normal = [np.asarray(rng.normal(size=shape), dtype) for _ in range(6)]
    normal[3] = np.asarray(np.abs(normal[3]) * (rng.random(shape) > 0.25), dtype)
    normal[5] = np.asarray(np.abs(normal[5]))
    return normal


def several(new):
    return new if isinstance(new, tuple) else (new,)


def assert_equal(found, expected):
    for a, b in zip(several(found), several(expected), strict=True):
        assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), shape=shapes, dtype=dtypes, lam=st.sampled_from([0.0, 0.3, 40.0]))
def test_a_step_is_the_references_bit_for_bit_and_leaves_its_inputs_alone(name, seed, shape, dtype, lam):
    arrays = point(seed, shape, dtype)
    for array in arrays:
        array.flags.writeable = False
    step = STEPS[name]
    assert_equal(step(getattr(cpu, name), arrays, lam, 0.1), step(getattr(reference, name), arrays, lam, 0.1))


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_step_writes_where_it_is_told(name, in_place):
    arrays = point(0, (90, 500), np.float32)
    expected = STEPS[name](getattr(reference, name), arrays, 2.0, 0.1)
    places = [arrays[0], arrays[4], arrays[5]] if in_place else [np.empty_like(arrays[0]) for _ in range(3)]
    out = tuple(places) if name == "adam_step" else places[0]
    found = STEPS[name](getattr(cpu, name), arrays, 2.0, 0.1, out=out)
    assert_equal(found, expected)
    assert all(a is b for a, b in zip(several(found), several(out), strict=True))


@pytest.mark.parametrize("name", STEPS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), size=st.sampled_from([1, 5, 40_000]), place=st.integers(0, 2), data=st.data())
def test_whatever_out_overlaps_a_step_is_that_of_the_arrays_as_they_were(name, seed, size, place, data):
    """As with NumPy's ufuncs: out may be another input, or lie across some of them."""
    memory = np.abs(np.concatenate(point(seed, 2 * size, np.float64)))  # any of it may be a second moment
    start = st.sampled_from(range(0, memory.size, 2 * size)) | st.integers(0, memory.size - size)
    *arrays, out = (memory[k : k + size] for k in data.draw(st.lists(start, min_size=7, max_size=7)))
    if name == "adam_step":
        out = tuple(out if k == place else np.empty(size) for k in range(3))
    expected = STEPS[name](getattr(reference, name), arrays, 2.0, 0.1)
    found = STEPS[name](getattr(cpu, name), arrays, 2.0, 0.1, out=out)
    assert_equal(found, expected)
    assert all(a is b for a, b in zip(several(found), several(out), strict=True))


def test_moments_may_change_places():
    arrays = point(0, (90, 500), np.float32)
    expected = STEPS["adam_step"](reference.adam_step, arrays, 2.0, 0.1)
    found = STEPS["adam_step"](cpu.adam_step, arrays, 2.0, 0.1, out=(arrays[0], arrays[5], arrays[4]))
    assert_equal(found, expected)


def test_strides_are_free():
    arrays = [array[::2, ::-1] for array in point(1, (300, 200), np.float32)]
    for name, step in STEPS.items():
        assert_equal(step(getattr(cpu, name), arrays, 2.0, 0.1), step(getattr(reference, name), arrays, 2.0, 0.1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), shape=shapes, dtype=dtypes, lam=st.sampled_from([0.0, 0.3, 40.0]))
def test_the_value_is_summed_in_float64(seed, shape, dtype, lam):
    theta, _, anchor, fisher, _, _ = point(seed, shape, dtype)
    found = cpu.penalty(theta, anchor, fisher, lam)
    exact = reference.penalty(*(x.astype(np.float64) for x in (theta, anchor, fisher)), lam)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, exact, rtol=4 * np.finfo(dtype).eps)


def test_a_small_term_is_not_lost_in_a_large_sum():
    theta = np.full(1 << 20, 0.1, np.float32)
    zero, one = np.zeros_like(theta), np.ones_like(theta)
    square = np.float64(np.float32(0.1) * np.float32(0.1))
    assert cpu.penalty(theta, zero, one, 2.0) == pytest.approx(theta.size * square, rel=1e-7)


def test_extreme_values_behave_as_documented():
    anchor, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    theta, fisher = np.float32([1e30, -1e-30, 1.0]), np.float32([1e-30, 1e30, 0.0])
    assert cpu.penalty(theta, anchor, fisher, 2.0) == pytest.approx(1e30)
    np.testing.assert_allclose(cpu.penalty_grad(theta, anchor, fisher, 1.0), [1, -1, 0])
    poisoned = np.float32([np.nan, 2.0, np.inf])
    np.testing.assert_array_equal(cpu.penalty_grad(poisoned, anchor, one, 1.0), poisoned)
    np.testing.assert_array_equal(cpu.proximal_step(poisoned, anchor, anchor, one, 1.0, 1.0), poisoned / 2)
    assert np.isnan(cpu.penalty(poisoned, anchor, one, 1.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: cpu.penalty(a, b, a, 1.0), ValueError, r"anchor has shape \(3,\), expected \(2,\)"),
        (lambda a, b: cpu.sgd_step(a, a.astype(np.float32), a, a, 1.0, 1.0), TypeError, "grad is float32 but theta"),
        (lambda a, b: cpu.sgd_step(a, a, a, a, 1.0, 1.0, out=b), ValueError, r"out has shape \(3,\)"),
        (
            lambda a, b: cpu.sgd_step(a, a, a, a, 1.0, 1.0, out=np.ones(4)[::2]),
            ValueError,
            "C-contiguous array to write",
        ),
        (lambda a, b: cpu.penalty(*[a.astype(np.float16)] * 3, 1.0), TypeError, "float16, expected float32 or float64"),
        (lambda a, b: cpu.sgd_step(*[a.astype(">f4")] * 4, 1.0, 1.0), TypeError, ">f4, expected float32 or float64"),
        (lambda a, b: cpu.adam_step(a, a, a, a, 1.0, 1.0, a, a, 0), ValueError, "t is 0, expected the step's number"),
    ],
)
def test_wrong_arguments_give_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones(2), np.ones(3))
