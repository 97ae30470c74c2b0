"""What the comparisons of kernels with the engine share: random trees of arrays, and closeness in units of rounding."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinymeta import trees

DTYPES = (np.float64, np.float32)


def normals(rng: np.random.Generator, *shapes: tuple[int, ...], dtype: Any = np.float64, scale: float = 1.0) -> list:
    return [np.asarray(scale * rng.normal(size=shape), dtype) for shape in shapes]


def normals_like(rng: np.random.Generator, tree: Any) -> Any:
    return trees.map(lambda x: np.asarray(rng.normal(size=x.shape), x.dtype), tree)


def assert_close(found: Any, expected: Any, ulps: float = 64) -> None:
    """Trees of one shape and dtype each, equal to `ulps` rounding errors of their largest entry (and of 1): 64 of them are
    1.4e-14 in float64, 7.6e-6 in float32."""
    pairs = list(zip(trees.items(found), trees.items(expected), strict=True))
    assert pairs
    for (path, a), (_, b) in pairs:
        assert (np.shape(a), a.dtype) == (np.shape(b), b.dtype), path
        size = max(1.0, float(np.max(np.abs(b), initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=ulps * np.finfo(b.dtype).eps * size, err_msg=path)
