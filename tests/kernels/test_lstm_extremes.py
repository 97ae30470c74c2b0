"""A step of kernels.lstm where backends may differ: huge, tiny and bad numbers, and arrays that are not contiguous."""

import importlib

import numpy as np
import pytest

from tinymeta.kernels.lstm import Weights, portable, reference, tiled
from tinymeta.kernels.lstm.blocks import as_weights, flat_weights, from_blocks, hidden_sizes, to_blocks

SEAM = np.exp(-10)
FINITE = np.float32(
    [0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1.1e-38, 1e-30, -1e-30, SEAM, -SEAM, 1e30, -1e30, 3.4e38, -3.4e38]
)
BAD = np.float32([np.nan, np.inf, -np.inf])
SCALE, N = 0.3, 200  # more than three tiles, the last not full
nets = pytest.mark.parametrize("hidden", [(), (3,), (20, 20)], ids=str)
constants = pytest.mark.parametrize("p", [None, 2.0, 10.0, 87.0])  # e^87 makes subnormal gradients count


@pytest.fixture(params=["tiled", "portable", "cpu"])
def backend(request):
    if request.param == "cpu":
        pytest.importorskip("numba")
    return importlib.import_module(f"tinymeta.kernels.lstm.{request.param}")


def case(hidden, p):
    """(weights, state, gradient) in float32, for N coordinates."""
    rng, widths = np.random.default_rng(0), [1 if p is None else 2, *hidden]

    def normal(*shape, scale=1.0):
        return np.asarray(scale * rng.normal(size=shape), np.float32)

    layers = tuple(
        (normal(d + H, 4 * H, scale=(d + H) ** -0.5), normal(4 * H)) for d, H in zip(widths, hidden, strict=False)
    )
    weights = Weights(layers, normal(widths[-1], scale=widths[-1] ** -0.5), normal())
    return weights, tuple((normal(N, H), normal(N, H)) for H in hidden), normal(N)


def results(backend, weights, state, gradient, p):
    """The update and each h and c after a step."""
    update, after = backend.step(weights, to_blocks(state, N, gradient.dtype), gradient, SCALE, p)
    return [update, *parts(from_blocks(after, hidden_sizes(weights), N))]


def parts(state):
    return [part for layer in state for part in layer]


def assert_the_references(found, weights, state, gradient, p):
    """Within 1e-6 of float64's result, as rounded; inf and NaN where it has them."""
    wide = as_weights([x.astype(float) for x in flat_weights(weights)])
    state = tuple((h.astype(float), c.astype(float)) for h, c in state)
    with np.errstate(invalid="ignore", over="ignore"):  # of inf in a product, as the family's page says
        update, after = reference.step(wide, state, gradient.astype(float), SCALE, p)
        expected = [x.astype(np.float32) for x in (update, *parts(after))]
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@nets
@constants
def test_extreme_gradients_are_the_references_and_bad_ones_stay_in_their_row(backend, hidden, p):
    weights, state, gradient = case(hidden, p)
    with np.errstate(invalid="ignore", over="ignore"):
        usual = results(backend, weights, state, gradient, p)
        gradient = gradient.copy()
        gradient[::10] = np.resize([*FINITE, *BAD], N // 10)
        found = results(backend, weights, state, gradient, p)
    assert_the_references(found, weights, state, gradient, p)
    others = np.arange(N) % 10 != 0
    for a, b in zip(found, usual, strict=True):
        np.testing.assert_array_equal(a[others], b[others])
    assert np.isnan(found[0][np.isnan(gradient)]).all()


@pytest.mark.parametrize("part", [0, 1], ids=["h", "c"])
@pytest.mark.parametrize("hidden", [(3,), (20, 20)], ids=str)
def test_extreme_states_are_the_references_and_bad_ones_stay_in_their_row(backend, hidden, part):
    """c up to 1e30: it grows by 1 at most in a step."""
    weights, state, gradient = case(hidden, 10.0)
    with np.errstate(invalid="ignore", over="ignore"):
        usual = results(backend, weights, state, gradient, 10.0)
        for layer in state:
            layer[part][::10, 1] = np.resize([*FINITE[np.abs(FINITE) <= 1e30], *BAD], N // 10)
        found = results(backend, weights, state, gradient, 10.0)
    assert_the_references(found, weights, state, gradient, 10.0)
    others = np.arange(N) % 10 != 0
    for a, b in zip(found, usual, strict=True):
        np.testing.assert_array_equal(a[others], b[others])


def strided(x):
    """The same numbers at every other place of a larger array, backwards, and read-only."""
    larger = np.full([2 * size for size in x.shape], np.nan, x.dtype)
    view = larger[tuple(slice(None, None, -2) for _ in x.shape)]
    view[...] = x
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("change", [strided, np.asfortranarray], ids=["strided", "Fortran's order"])
@pytest.mark.parametrize("p", [None, 10.0])
def test_the_strides_of_what_is_read_do_not_matter(backend, change, p):
    weights, state, gradient = case((4, 3), p)
    blocks = to_blocks(state, N, np.float32)
    update, after = backend.step(weights, blocks, gradient, SCALE, p)
    given = [*flat_weights(weights), blocks, gradient]
    turned = [change(x) if x.ndim else x for x in given]
    found, found_after = backend.step(as_weights(turned[:-2]), *turned[-2:], SCALE, p)
    np.testing.assert_allclose(found, update, rtol=0, atol=1e-6)  # BLAS has another order of sums for other strides
    np.testing.assert_allclose(found_after, after, rtol=0, atol=1e-6)
    for x, y in zip(turned, given, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("kernels", [tiled, portable], ids=["tiled", "portable"])
@pytest.mark.parametrize("add", [False, True])
def test_numpys_step_writes_to_strided_arrays_too(kernels, add):
    """The compiled one refuses them, see test_lstm_cpu."""
    weights, state, gradient = case((4, 3), 10.0)
    blocks, leaves = to_blocks(state, N, np.float32), [gradient[:80].reshape(8, 10), gradient[80:]]
    update, expected = kernels.step(weights, blocks, gradient, SCALE, 10.0)
    around = [np.full((*x.shape, 3), 2, np.float32) for x in (blocks, *leaves)]
    after, *targets = (x[..., 1] for x in around)
    kernels.advance(weights, blocks, after, [strided(x) for x in leaves], targets, SCALE, 10.0, add)
    np.testing.assert_array_equal(after, expected)
    np.testing.assert_array_equal(np.concatenate([x.ravel() for x in targets]), update + 2 * add)
    assert all((x[..., ::2] == 2).all() for x in around)


@pytest.mark.parametrize("kernels", [tiled, portable], ids=["tiled", "portable"])
def test_numpys_backward_takes_extreme_gradients_and_any_strides(kernels):
    """The compiled one has these tests in test_lstm_cpu_unroll."""
    weights, state, gradient = case((4, 3), 10.0)
    gradient[::10] = np.resize(FINITE[np.abs(FINITE) != np.float32(SEAM)], N // 10)  # at the seam it has two slopes
    gradients, blocks = np.stack([gradient, gradient[::-1]]), to_blocks(state, N, np.float32)
    given = [*flat_weights(weights), blocks, gradients, np.ones_like(gradients), blocks]
    turned = [strided(x) if x.ndim else x for x in given]
    d_weights, d_before, d_gradients = kernels.unroll_backward(as_weights(turned[:-4]), *turned[-4:], SCALE, 10.0, True)
    wide, wide_state = as_weights([x.astype(float) for x in given[:-4]]), from_blocks(blocks.astype(float), (4, 3), N)
    expected = reference.unroll_backward(
        wide, wide_state, gradients.astype(float), np.ones(gradients.shape), wide_state, SCALE, 10.0, True
    )
    found = [*flat_weights(d_weights), *parts(from_blocks(d_before, (4, 3), N)), d_gradients]
    for a, b in zip(found, [*flat_weights(expected[0]), *parts(expected[1]), expected[2]], strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1.0, float(np.abs(b).max())))
