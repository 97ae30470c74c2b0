"""Compiled programs on CuPy arrays and a real GPU: `make gpu`. Elsewhere tests/compiler/test_compile_cupy.py runs their kernels."""

from __future__ import annotations

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import maml, nets, ops, optim

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")


def mse(params, data):
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x) - y), axis=(-2, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sine_meta_step_is_that_of_numpy(dtype):
    rng, adam = np.random.default_rng(0), optim.adam(1e-3)
    params = nets.init_mlp(rng, (1, 40, 40, 1), dtype=dtype)
    state = adam.init(params)._replace(step=np.asarray(0))
    waves = tm.data.sine_tasks(rng, 25)
    draw = lambda: tm.trees.map(lambda x: x.astype(dtype), tm.data.sine_points(waves, rng, 10))
    on_gpu = lambda tree: tm.trees.map(lambda x: cupy.asarray(x) if isinstance(x, np.ndarray) else x, tree)

    def step(params, state, support, query):
        value, gradient = tm.value_and_grad(lambda p: maml.meta_loss(mse, p, support, query, 0.01, 1))(params)
        updates, state = adam.update(gradient, state)
        return optim.apply_updates(params, updates), state, value

    compiled, there = tm.compile(step), on_gpu((params, state))
    for _ in range(5):
        data = draw(), draw()
        params, state, value = step(params, state, *data)
        *there, found = compiled(*there, *on_gpu(data))
        for a, b in zip(tm.trees.leaves((there[0], found)), tm.trees.leaves((params, value)), strict=True):
            assert isinstance(a, cupy.ndarray)
            assert a.dtype == b.dtype
            tolerance = 1e-3 if dtype == np.float32 else 1e-9  # Adam's first steps magnify what rounds
            np.testing.assert_allclose(cupy.asnumpy(a), b, rtol=tolerance, atol=tolerance)
    assert compiled.backend == "cuda"
    assert "fused0 = kernel(" in compiled.source
    assert compiled.worst_difference < (1e-4 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tower_of_every_kind_of_op(dtype):
    x, y = np.random.default_rng(1).normal(size=(2, 3, 1, 5)).astype(dtype)
    y = np.swapaxes(y, 0, 1)

    def f(x, y):
        z = ops.sigmoid(x * y) + ops.softplus(ops.maximum(x, 0.1) - ops.abs(y) ** 1.5) * ops.where(
            x > y, ops.tanh(x), 2
        )
        return ops.sum(z, axis=0), (ops.relu(z) > 0.5) & ops.isfinite(z), ops.astype(z > 0, np.int64) * 3 - 1

    compiled = tm.compile(f)
    for _ in range(2):
        for a, b in zip(compiled(cupy.asarray(x), cupy.asarray(y)), f(x, y), strict=True):
            assert a.dtype == b.dtype
            tolerance = 1e-5 if dtype == np.float32 else 1e-13
            np.testing.assert_allclose(cupy.asnumpy(a), b, rtol=tolerance, atol=tolerance)
