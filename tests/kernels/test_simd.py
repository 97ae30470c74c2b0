"""kernels.simd: the functions of vectors against float64 on dense sweeps, in units in the last place, and their special values;
work in several threads."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels import simd
from tinymeta.kernels.simd import threads

SWEEP = np.unique(np.concatenate([np.geomspace(1e-30, 100, 200_001), np.linspace(0, 12, 400_001)]).astype(np.float32))
BOTH_SIGNS = np.concatenate([-SWEEP, SWEEP])
INF, NAN = np.inf, np.nan


def on_arrays(function):
    """The function, of one vector, as a function of float32 arrays."""

    @simd.vector_code(simd.types.void, simd.types.int64, simd.types.int64, simd.types.int64)
    def emit(s, source, target, vectors):
        source, target = s.at(source), s.at(target)
        with s.loop(vectors) as k:
            lane = s.times(k, s.lanes)
            s.store(function(s, s.load(source, lane)), target, lane)

    @simd.njit
    def run(source, target, vectors):
        emit(source.ctypes.data, target.ctypes.data, vectors)

    def call(x):
        lanes = 16  # a multiple of every processor's
        source = np.resize(np.asarray(x, np.float32), -(-len(x) // lanes) * lanes)
        target = np.empty_like(source)
        run(source, target, len(source) // LANES)
        return target[: len(x)]

    return call


@simd.vector_code(simd.types.int64)
def _lanes(s):
    return s.i64(s.lanes)


@simd.njit
def _count():
    return _lanes()


LANES = _count()
tanh = on_arrays(lambda s, x: s.div(*simd.tanh_ratio(s, x)))
sigmoid = on_arrays(lambda s, x: s.div(s.const(1), simd.sigmoid_denominator(s, s.mul(x, s.const(simd.SIGMOID)))))
exp2 = on_arrays(simd.exp2)
log = on_arrays(simd.log)


def ulps(found, exact):
    """The largest error, in units in the last place of the exact value."""
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(float)))


def test_tanh_is_within_10_ulp_and_odd_and_at_most_an_ulp_beyond_1():
    found = tanh(BOTH_SIGNS)
    assert ulps(found, np.tanh(BOTH_SIGNS.astype(float))) <= 10
    np.testing.assert_array_equal(found, -tanh(-BOTH_SIGNS))
    assert np.max(np.abs(found)) <= np.nextafter(np.float32(1), np.float32(2))
    assert tanh(np.float32([8, 1e30])).tolist() == [1, 1]


def test_the_logistic_function_is_within_1e6_of_its_value_down_to_its_cut():
    x = BOTH_SIGNS[np.abs(BOTH_SIGNS) < 27]
    exact = 1 / (1 + np.exp(-x.astype(float)))
    np.testing.assert_allclose(sigmoid(x), exact, rtol=2e-6)  # x SIGMOID is rounded, which 2^x magnifies by |x|
    np.testing.assert_allclose(sigmoid(x), exact, rtol=0, atol=2e-7)


def test_a_power_of_2_is_within_4_ulp():
    x = BOTH_SIGNS[np.abs(BOTH_SIGNS) <= 40]
    assert ulps(exp2(x), np.exp2(x.astype(float))) <= 4
    np.testing.assert_array_equal(exp2(np.arange(-40.0, 41)), 2.0 ** np.arange(-40, 41))


def test_the_logarithm_is_within_2_ulp_also_of_subnormals():
    x = np.concatenate([SWEEP[SWEEP > 0], np.float32([1e-45, 1e-40, 1.1e-38, 1e30, 3.4e38])])
    assert ulps(log(x), np.log(x.astype(float))) <= 2
    assert log(np.float32([1]))[0] == 0


def test_the_total_of_a_vector_is_the_sum_of_its_lanes():
    x = np.arange(64, dtype=np.float32)
    found = on_arrays(lambda s, x: s.splat(s.total(x)))(x)
    np.testing.assert_array_equal(found, np.repeat(x.reshape(-1, LANES).sum(axis=1), LANES))


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        (tanh, [INF, -INF, NAN, 0.0, 1e-45], [1, -1, NAN, 0, 1e-45]),
        (sigmoid, [INF, -INF, NAN, 0.0], [1, 2.0**-40, NAN, 0.5]),
        (exp2, [NAN, 1000.0, -1000.0, 0.0], [NAN, 2.0**40, 2.0**-40, 1]),
        (log, [0.0, -0.0, INF, -1.0, -INF, NAN], [-INF, -INF, INF, NAN, NAN, NAN]),
    ],
    ids=["tanh", "sigmoid", "exp2", "log"],
)
def test_special_values(function, x, expected):
    np.testing.assert_allclose(function(np.float32(x)), np.float32(expected), rtol=3e-7, atol=0)


@given(
    bits=st.lists(st.integers(1, 0x7FFFFF) | st.integers(0, 22).map(lambda k: 1 << k), min_size=1), sign=st.booleans()
)
def test_of_nan_each_is_nan_whatever_its_bits_are(bits, sign):
    x = (np.uint32(bits) | np.uint32(0xFF800000 if sign else 0x7F800000)).view(np.float32)
    for function in (tanh, sigmoid, exp2, log):
        assert np.isnan(function(x)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_transposed_tile_and_masked_lanes(dtype):
    """As many rows as lanes become columns; a mask of the first lanes reads and writes no other; `total` sums all."""
    count, zero = LANES * 4 // np.dtype(dtype).itemsize, dtype(0)

    @simd.vector_code(simd.types.void, *[simd.types.int64] * 3, like=True)
    def emit(s, source, target, some):
        source, target = s.at(source), s.at(target)
        columns = s.transpose([s.load(source, row * s.lanes) for row in range(s.lanes)])
        for k, column in enumerate(columns):
            s.store_where(s.first(some), column, target, k * s.lanes)
        part = s.load_where(s.first(some), source, 0)
        s.store(s.splat(s.total(part)), target, s.lanes * s.lanes)

    @simd.njit
    def run(source, target, some):
        emit(source.ctypes.data, target.ctypes.data, some, zero)

    source = np.random.default_rng(0).normal(size=(count, count)).astype(dtype)
    for some in range(count + 1):
        target = np.full((count + 1, count), np.nan, dtype)
        run(source, target, some)
        np.testing.assert_array_equal(target[:count, :some], source.T[:, :some])
        assert np.isnan(target[:count, some:]).all()
        np.testing.assert_allclose(target[count], source[0, :some].sum(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fails", [0, 1])
def test_what_a_thread_raises_comes_out_when_no_other_works_any_more(monkeypatch, fails):
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        begun, done = threading.Barrier(3), []

        def work(k):
            begun.wait()
            if k == fails:
                raise ZeroDivisionError
            time.sleep(0.1 * k)
            done.append(k)

        with pytest.raises(ZeroDivisionError):
            simd.together(work, 3)
        assert sorted(done) == [k for k in range(3) if k != fails]


def test_threads_that_have_not_begun_are_not_waited_for(monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        free, done = threading.Event(), []
        pool.submit(free.wait)
        simd.together(done.append, 3)
        free.set()
    assert done == [0]


def test_an_interrupt_waits_for_those_that_write(monkeypatch):
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(threads, "_pool", lambda: pool)
        begun, done = threading.Barrier(2), []

        def work(k):
            begun.wait()
            if k:
                time.sleep(0.3)
                done.append(k)
            else:
                threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
        try:
            with pytest.raises(KeyboardInterrupt):
                simd.together(work, 2)
        finally:
            signal.signal(signal.SIGINT, before)
        assert done == [1]
