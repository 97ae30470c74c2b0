"""Hypothesis strategies that know the ops: their domains, kinks, broadcasting and index rules.

`arrays_for("conv2d")` gives (args, kwargs) for an op of tinymeta.ops at which it has a derivative; `as_function(op, args, kwargs)`
makes of them a function and its float arrays, which every check takes:

    @given(strategies.arrays_for("matmul"))
    def test_my_matmul(case):
        f, xs = strategies.as_function(my_matmul, *case)
        tm.check.gradients(f, *xs)

Hypothesis's deadline of 200 ms is for the whole check: `@settings(deadline=None)` lifts it.
"""

from __future__ import annotations

try:
    import hypothesis as _  # noqa: F401
except ImportError as error:
    raise ImportError('tinymeta.check.strategies needs Hypothesis: pip install "tinymeta[check]"') from error

from .arrays import (
    NONZERO,
    POSITIVE,
    REAL,
    axes,
    broadcastable_pairs,
    distinct_arrays,
    float_arrays,
    one_axis,
    shapes,
    trees,
    unequal_arrays,
)
from .cases import arrays_for
from .programs import Program, compositions
from .subject import as_function

__all__ = [
    "NONZERO", "POSITIVE", "REAL", "Program", "arrays_for", "as_function", "axes", "broadcastable_pairs", "compositions",
    "distinct_arrays", "float_arrays", "one_axis", "shapes", "trees", "unequal_arrays",
]  # fmt: skip
