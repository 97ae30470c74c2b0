"""l2l.lstm_step, the optimizer's step as one op on the blocked state: every backend against the composition, to second order."""

import contextlib
import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_engine.compare import assert_close, normals, normals_like

import tinymeta as tm
from tinymeta import l2l, ops, trees
from tinymeta.engine import backend
from tinymeta.kernels.lstm.blocks import zero_blocks
from tinymeta.l2l.fused import lstm_step_composed

seeds = st.integers(0, 2**32 - 1)
nets = st.sampled_from([(), (3,), (4, 2)])  # hidden sizes
constants = st.sampled_from([None, 2.0, 10.0])  # p
counts = st.sampled_from([0, 1, 3, 63, 64, 65, 130])
SCALE = 0.3
BACKENDS = [("numpy", np.float64), ("numpy", np.float32)]
if importlib.util.find_spec("numba"):
    BACKENDS.append(("numba", np.float32))
backends = pytest.mark.parametrize(("name", "dtype"), BACKENDS, ids=lambda x: getattr(x, "__name__", x))


def case(seed, hidden, p, n, dtype):
    """(rng, inputs of the op: gradient, blocks and the arrays of the weights)"""
    rng = np.random.default_rng(seed)
    weights = l2l.init_weights(rng, 1 if p is None else 2, hidden, dtype)
    weights = weights._replace(b_out=np.asarray(rng.normal(), dtype))
    blocks = normals_like(rng, zero_blocks(weights, n))
    return rng, (normals(rng, (n,), dtype=dtype)[0], blocks, *trees.leaves(weights))


def on(name):
    """NumPy by name; Numba, where it is installed, runs unasked what it has a kernel for, and leaves the rest to NumPy."""
    return backend.use(name) if name == "numpy" else contextlib.nullcontext()


def op(p):
    return lambda *inputs: l2l.lstm_step(*inputs, scale=SCALE, p=p)


def composed(p):
    return lambda *inputs: lstm_step_composed(*inputs, scale=SCALE, p=p)


@backends
@settings(max_examples=20)
@given(seed=seeds, hidden=nets, p=constants, n=counts)
def test_value_and_vjp_are_those_of_the_composition(name, dtype, seed, hidden, p, n):
    rng, inputs = case(seed, hidden, p, n, dtype)
    expected, pull = tm.vjp(composed(p), *inputs)
    cotangents = normals_like(rng, expected)
    with on(name):
        found, pull_kernel = tm.vjp(op(p), *inputs)
        assert_close(found, expected, ulps=128)
        assert_close(pull_kernel(cotangents), pull(cotangents), ulps=512)


@backends
@settings(max_examples=6)
@given(seed=seeds, hidden=nets, p=constants)
def test_the_second_derivative_is_that_of_the_composition(name, dtype, seed, hidden, p):
    rng, inputs = case(seed, hidden, p, 3, dtype)
    v = normals_like(rng, inputs)

    def energy(f):
        return lambda inputs: sum((ops.sum(ops.square(y)) for y in f(*inputs)), start=0.0)

    expected = tm.hvp(energy(composed(p)), inputs, v)
    with on(name):
        for mode in ("forward-over-reverse", "reverse-over-reverse"):
            assert_close(tm.hvp(energy(op(p)), inputs, v, mode), expected, ulps=2048)


def test_float64_runs_on_numpy_unless_numba_is_asked_for():
    _, inputs = case(0, (3,), 10.0, 5, np.float64)
    update, _ = op(10.0)(*inputs)
    assert update.dtype == np.float64
    if importlib.util.find_spec("numba"):
        with backend.use("numba"), pytest.raises(TypeError, match="float64"):
            op(10.0)(*inputs)
