"""Machine code gives what eager execution gives, up to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")


@pytest.fixture(autouse=True)
def _free(monkeypatch):
    monkeypatch.delenv("TINYMETA_BACKEND", raising=False)


def check_compiled(f, *args, rtol=1e-12):
    compiled = tm.compile(f)
    for _ in range(2):
        found, expected = compiled(*args), f(*args)
        tm.trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1, np.max(np.abs(b), initial=0))), found, expected)
    assert compiled.backend == "llvm", compiled.why_not_compiled
    return compiled


@given(program=strategies.compositions(), seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2))
@settings(max_examples=100, deadline=None)
def test_random_programs_and_their_derivatives(program, seed, order):
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=(2, 3, 3))
    f = [program, tm.value_and_grad(program), lambda x: tm.hvp(program, x, v)][order]
    compiled, expected = tm.compile(f), f(x)
    for _ in range(2):
        tm.trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-11), compiled(x), expected)
