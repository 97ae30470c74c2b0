"""ewc.backends: the kernels that tinymeta.ewc calls are those of the backend chosen, and give what the reference gives."""

import importlib.util

import numpy as np
import pytest

import tinymeta as tm
from tinymeta import nets
from tinymeta.engine.backend import use
from tinymeta.ewc import backends
from tinymeta.kernels import fisher, penalty

NEEDS_NUMBA = pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
BACKENDS = ["numpy", pytest.param("numba", marks=NEEDS_NUMBA)]


def test_every_public_kernel_can_be_called_on_every_backend():
    for family, module in (("fisher", fisher), ("penalty", penalty)):
        for name in module.__all__:
            assert getattr(getattr(backends, family), name).__doc__ == getattr(module, name).__doc__
            assert set(backends.table(family, name)) == {"numpy", "numba", "cuda"}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical"])
def test_the_fisher_of_a_network_is_that_of_the_whole_network_kernel(backend, kind):
    rng = np.random.default_rng(0)
    params = nets.init_mlp(rng, [7, 20, 9, 4], dtype=np.float32)
    x, y = rng.normal(size=(90, 7)).astype(np.float32), rng.integers(4, size=90)
    layers = [(layer.w, layer.b) for layer in params]
    with use(backend):
        found = tm.ewc.fisher_diagonal(nets.mlp, params, x, y, kind=kind, rng=np.random.default_rng(1), batch_size=40)
        whole = backends.fisher.mlp_fisher(layers, x, y, "relu", kind, np.random.default_rng(1).random(90))
    for layer, (F_W, F_b) in zip(found, whole, strict=True):
        np.testing.assert_allclose(layer.w, F_W, rtol=1e-4, atol=1e-6 * F_W.max())
        np.testing.assert_allclose(layer.b, F_b, rtol=1e-4, atol=1e-6 * F_b.max())


@NEEDS_NUMBA
def test_float32_is_compiled_and_float64_is_not(monkeypatch):
    from tinymeta.kernels.fisher import chunked, cpu

    called = []
    for module in (chunked, cpu):
        monkeypatch.setattr(module, "linear", lambda A, D, name=module.__name__: called.append(name))
    for dtype in (np.float32, np.float64):
        backends.fisher.linear(np.ones((3, 2), dtype), np.ones((3, 2), dtype))
    assert [name.rpartition(".")[2] for name in called] == ["cpu", "chunked"]


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, ">f4", ">f8"])
def test_penalties_of_floats_that_numba_lacks_are_numpys(dtype):
    theta, anchor, F = (np.asarray(x, dtype) for x in ([1.0, 2.0], [0.5, -1.0], [2.0, 3.0]))
    for name in ("penalty", "penalty_grad"):
        found, expected = (getattr(module, name)(theta, anchor, F, 3.0) for module in (backends.penalty, penalty))
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    optimizer, params = tm.ewc.penalised_adam(0.1, tm.ewc.Penalty(3.0), eps=1e-4), {"w": theta}
    after, state = optimizer.step(params, {"w": anchor}, optimizer.init(params))
    zero = np.zeros_like(theta)
    moved = penalty.adam_step(theta, anchor, theta, zero, 3.0, 0.1, zero, zero, 1, eps=1e-4)
    for found, expected in zip((after, state.m, state.v), moved, strict=True):
        np.testing.assert_array_equal(found["w"], expected)


def test_inside_a_derivative_the_reference_is_differentiated():
    F, anchor = np.array([2.0, 3.0]), np.array([0.5, -1.0])
    gradient = tm.grad(lambda x: (backends.penalty.penalty_grad(x, anchor, F, 10.0) * x).sum())
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(gradient(x), 10 * F * (2 * x - anchor))
