"""Programs of arrays that are not NumPy's call their library, op by op, and never move an array to the host."""

from __future__ import annotations

import numpy as np
import pytest
from duck import Duck

import tinymeta as tm
from tinymeta import ops


def loss(w, x):
    return ops.mean(ops.square(ops.tanh(x @ w) - ops.sum(x, axis=1, keepdims=True)))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_program_of_ducks(order):
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 2)), rng.normal(size=(4, 3))
    f = [loss, tm.value_and_grad(loss), lambda w, x: tm.hvp(lambda w: loss(w, x), w, w)][order]
    compiled, expected = tm.compile(f), tm.trees.leaves(f(w, x))
    for _ in range(2):
        for found, value in zip(tm.trees.leaves(compiled(Duck(w), Duck(x))), expected, strict=True):
            assert type(found) is Duck
            np.testing.assert_allclose(found.inner, value, rtol=1e-12)
    assert compiled.backend == "cuda"
    assert compiled.why_not_compiled == "the arrays are not NumPy's"


def test_a_branch_on_a_duck_is_refused():
    with pytest.raises(TypeError, match="captured value"):
        tm.compile(lambda x: x if x.sum() > 0 else -x)(Duck(np.ones(3)))
