"""What tests of machine code share: a function compiled to it, against eager execution and against its own source."""

from __future__ import annotations

import numpy as np

import tinymeta as tm


def assert_close(found, expected, factor=64.0):
    """Within so many units in the last place of the largest number of each array."""

    def close(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a, b)
            return
        scale = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * np.finfo(b.dtype).eps * scale)

    tm.trees.map(close, found, expected)


def check(f, *args, factor=64.0, source=True):
    """f compiled to machine code, by its numbers and by its source (whose formulas overflow where the code does not)."""
    compiled, expected = tm.compile(f), f(*args)
    for _ in range(2):
        assert_close(compiled(*args), expected, factor)
    assert compiled.backend == "llvm", compiled.why_not_compiled
    if source:
        assert_close(run_source(compiled, args), compiled(*args), factor)
    return compiled


def run_source(compiled, args):
    from tinymeta.compiler.python_code import NAMES

    program, names = compiled._last(), dict(NAMES)
    exec(compiled.source, names)
    flat = [*tm.trees.leaves(args), *(v.constant for v in program.program.constants)]
    with np.errstate(all="ignore"):
        made = dict(zip(program.code.machine.outputs, names["program"](*map(np.ravel, flat)), strict=True))
    given = dict(zip(program.program.inputs, tm.trees.leaves(args), strict=True))
    arrays = [made[v].reshape(v.shape)[()] if v in made else given[v] for v in program.program.results]
    return program.write(arrays)


def numbers(rng, *shape, dtype=np.float64):
    return rng.normal(size=shape).astype(dtype)
