"""engine.backend: what TINYMETA_BACKEND asks for is refused wherever it is looked at, as `tm.backend` refuses its own."""

import numpy as np
import pytest

import tinymeta as tm
from tinymeta.engine import backend

X = np.arange(3.0)


def refusals(monkeypatch, name, error):
    """The sentences with which the variable and the block refuse a name."""
    monkeypatch.setenv("TINYMETA_BACKEND", name)
    with pytest.raises(error) as of_variable:
        tm.compile(np.sin)(X)
    with pytest.raises(error) as of_block, tm.backend(name):
        raise AssertionError("the block must not run")
    return str(of_variable.value), str(of_block.value)


def test_a_compiled_function_refuses_what_the_block_refuses(monkeypatch):
    variable, block = refusals(monkeypatch, "Numba", ValueError)
    assert variable == f"TINYMETA_BACKEND: {block}"
    monkeypatch.setattr(backend, "_installed", lambda name: name == "numpy")
    variable, block = refusals(monkeypatch, "cuda", ImportError)
    assert variable == f"TINYMETA_BACKEND: {block}"


def test_a_program_that_was_compiled_before_is_not_run_under_a_wrong_name(monkeypatch):
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    f = tm.compile(np.sin)
    f(X)
    monkeypatch.setenv("TINYMETA_BACKEND", "tpu")
    with pytest.raises(ValueError, match="TINYMETA_BACKEND: backend 'tpu' is unknown"):
        f(X)


def test_within_a_block_the_variable_is_not_looked_at(monkeypatch):
    monkeypatch.setenv("TINYMETA_BACKEND", "tpu")
    with tm.backend("numpy"):
        assert backend.chosen() == "numpy"
        np.testing.assert_allclose(tm.compile(np.sin)(X), np.sin(X))
