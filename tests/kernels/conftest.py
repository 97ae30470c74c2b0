"""What the kernel tests share: read-only random arrays, and the comparison of a vjp with central differences."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

Array = np.ndarray


def frozen(array: Array) -> Array:
    """Read-only, so that a kernel that writes into its input fails."""
    array.flags.writeable = False
    return array


@pytest.fixture(scope="session")
def normal() -> Callable[..., Array]:
    """normal(rng, *shape, dtype=float64, scale=1): a read-only array of normal numbers."""

    def draw(rng: np.random.Generator, *shape: int, dtype: type = np.float64, scale: float = 1.0) -> Array:
        return frozen(np.asarray(scale * rng.normal(size=shape), dtype))

    return draw


@pytest.fixture(scope="session")
def check_vjp() -> Callable[..., None]:
    """Assert <u, df(x)[v]> = <vjp(u, x), v> for random u and v, df by central differences in float64.

    f(*inputs) and vjp(*cotangents, *inputs) return one tuple of arrays each.
    """

    def check(f: Callable, vjp: Callable, inputs: Sequence[Array], rng: np.random.Generator) -> None:
        epsilon = 1e-6
        v = [rng.normal(size=np.shape(x)) for x in inputs]
        ahead = f(*(x + epsilon * dx for x, dx in zip(inputs, v, strict=True)))
        behind = f(*(x - epsilon * dx for x, dx in zip(inputs, v, strict=True)))
        u = [rng.normal(size=np.shape(y)) for y in ahead]
        cotangents = vjp(*u, *inputs)
        assert [np.shape(dx) for dx in cotangents] == [np.shape(x) for x in inputs]
        numeric = sum(np.sum(du * (a - b)) / (2 * epsilon) for du, a, b in zip(u, ahead, behind, strict=True))
        exact = [np.sum(dx * direction) for dx, direction in zip(cotangents, v, strict=True)]
        size = sum(np.sum(np.abs(du * y)) for du, y in zip(u, ahead, strict=True)) + np.sum(np.abs(exact))
        assert abs(numeric - sum(exact)) <= 1e-8 * size + 1e-12

    return check
