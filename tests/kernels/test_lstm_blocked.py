"""The backends of kernels.lstm in plain NumPy on the blocked state, `tiled` and `portable`, against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinymeta.kernels.lstm import Weights, blocks, portable, reference, tiled
from tinymeta.kernels.lstm.blocks import LANES, flat_weights, from_blocks, to_blocks

seeds = st.integers(0, 2**32 - 1)
nets = st.sampled_from([(), (3,), (2, 4)])
counts = st.sampled_from([0, 1, 64, 65, 200])
constants = st.sampled_from([None, 2.0, 10.0])  # p
backends = pytest.mark.parametrize("backend", [tiled, portable], ids=["tiled", "portable"])
SCALE = 0.3


def case(seed, hidden, p, n, T, dtype=np.float64):
    """(weights, state, gradients, d_updates, d_state)"""
    rng, widths = np.random.default_rng(seed), [1 if p is None else 2, *hidden]

    def normal(*shape):
        return np.asarray(rng.normal(size=shape), dtype)

    layers = [(0.5 * normal(d + H, 4 * H), normal(4 * H)) for d, H in zip(widths, hidden, strict=False)]
    weights = Weights(tuple((W.astype(dtype), b) for W, b in layers), normal(widths[-1]), normal())
    state, d_state = (tuple((normal(n, H), normal(n, H)) for H in hidden) for _ in range(2))
    gradients = rng.choice([-1, 1], (T, n)) * rng.choice([1e-6, 0.05, 0.5, 30], (T, n))
    return weights, state, gradients.astype(dtype), normal(T, n), d_state


def assert_near(found, expected, tolerance=1e-12):
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


def parts(state):
    return [part for layer in state for part in layer]


@backends
@settings(max_examples=20)
@given(seed=seeds, hidden=nets, p=constants, n=counts)
def test_a_step_is_the_references(backend, seed, hidden, p, n):
    weights, state, gradients, *_ = case(seed, hidden, p, n, 1)
    blocks = to_blocks(state, n, gradients.dtype)
    update, after = backend.step(weights, blocks, gradients[0], SCALE, p)
    expected, state_after = reference.step(weights, state, gradients[0], SCALE, p)
    assert_near([update, *parts(from_blocks(after, hidden, n))], [expected, *parts(state_after)])


@backends
@pytest.mark.parametrize("add", [False, True])
def test_leaves_become_the_update_or_are_moved_by_it(backend, add):
    weights, state, gradients, *_ = case(0, (3,), 10.0, 75, 1)
    blocks, leaves = to_blocks(state, 75, gradients.dtype), [gradients[0, :5], gradients[0, 5:].reshape(7, 10)]
    update, expected_after = backend.step(weights, blocks, gradients[0], SCALE, 10.0)
    targets = [np.ones_like(x) for x in leaves]
    backend.advance(weights, blocks, blocks, leaves, targets, SCALE, 10.0, add)
    np.testing.assert_array_equal(blocks, expected_after)
    np.testing.assert_array_equal(np.concatenate([x.ravel() for x in targets]), update + add)


@backends
@settings(max_examples=20)
@given(seed=seeds, hidden=nets, p=constants, n=counts, T=st.integers(0, 3))
def test_the_backward_of_an_unroll_is_the_references(backend, seed, hidden, p, n, T):
    weights, state, gradients, d_updates, d_state = case(seed, hidden, p, n, T)
    blocks, d_blocks = (to_blocks(x, n, gradients.dtype) for x in (state, d_state))
    found = backend.unroll_backward(weights, blocks, gradients, d_updates, d_blocks, SCALE, p, wrt_gradients=True)
    expected = reference.unroll_backward(weights, state, gradients, d_updates, d_state, SCALE, p, wrt_gradients=True)
    d_before = parts(from_blocks(found[1], hidden, n))
    assert_near(
        [*flat_weights(found[0]), *d_before, found[2]], [*flat_weights(expected[0]), *parts(expected[1]), expected[2]]
    )
    assert backend.unroll_backward(weights, blocks, gradients, d_updates, d_blocks, SCALE, p)[2] is None


@backends
@settings(max_examples=20)
@given(seed=seeds, hidden=nets, p=constants, n=counts, T=st.integers(0, 3))
def test_an_unroll_is_the_references(backend, seed, hidden, p, n, T):
    weights, state, gradients, *_ = case(seed, hidden, p, n, T)
    blocks = to_blocks(state, n, gradients.dtype)
    kept = blocks.copy()
    updates, after = backend.unroll_forward(weights, blocks, gradients, SCALE, p)
    expected, state_after = reference.unroll_forward(weights, state, gradients, SCALE, p)
    assert_near([updates, *parts(from_blocks(after, hidden, n))], [expected, *parts(state_after)])
    np.testing.assert_array_equal(blocks, kept)


@backends
@pytest.mark.parametrize("p", [None, 10.0])
def test_a_scale_of_numpys_leaves_float32(backend, p):
    weights, state, gradients, d_updates, d_state = case(5, (3,), p, 70, 2, np.float32)
    blocks, d_blocks = (to_blocks(x, 70, gradients.dtype) for x in (state, d_state))
    found, expected = [], []
    for arrays, scale in ((found, np.float64(0.1)), (expected, 0.1)):
        arrays += backend.unroll_forward(weights, blocks, gradients, scale, p)
        backward = backend.unroll_backward(
            weights, blocks, gradients, d_updates, d_blocks, scale, p, wrt_gradients=True
        )
        arrays += [*flat_weights(backward[0]), *backward[1:]]
    assert {x.dtype for x in found} == {np.dtype(np.float32)}
    assert_near(found, expected, tolerance=0)


@backends
def test_an_unroll_that_does_not_fit_is_refused(backend):
    weights, state, gradients, *_ = case(3, (3,), 10.0, 5, 2)
    blocks = to_blocks(state, 5, gradients.dtype)
    with pytest.raises(ValueError, match="gradients has shape"):
        backend.unroll_forward(weights, blocks, gradients[0], SCALE, 10.0)


@pytest.mark.parametrize("memory", [0, 1])
def test_a_small_memory_gives_the_same_result_tile_by_tile(monkeypatch, memory):
    weights, state, gradients, d_updates, d_state = case(2, (3,), 10.0, 4 * LANES, 3)
    blocks, d_blocks = (to_blocks(x, 4 * LANES, gradients.dtype) for x in (state, d_state))
    arguments = weights, blocks, gradients, d_updates, d_blocks, SCALE, 10.0
    whole, backward, sizes = tiled.unroll_backward(*arguments), tiled._backward, []

    def counted(weights, blocks, *rest):
        sizes.append(len(blocks))
        return backward(weights, blocks, *rest)

    monkeypatch.setattr(tiled, "_backward", counted)
    by_tile = tiled.unroll_backward(*arguments, memory=memory)
    assert sizes == [1, 1, 1, 1]
    assert_near([*flat_weights(by_tile[0]), by_tile[1]], [*flat_weights(whole[0]), whole[1]])


@backends
def test_cotangents_that_do_not_fit_are_refused(backend):
    weights, state, gradients, d_updates, d_state = case(3, (3,), 10.0, 5, 2)
    blocks, d_blocks = (to_blocks(x, 5, gradients.dtype) for x in (state, d_state))
    with pytest.raises(ValueError, match="d_updates has shape"):
        backend.unroll_backward(weights, blocks, gradients, d_updates[:1], d_blocks, SCALE, 10.0)


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_the_blocks_of_some_coordinates_hold_their_state(n, seed):
    rng = np.random.default_rng(seed)
    state = tuple((rng.normal(size=(n, h)), rng.normal(size=(n, h))) for h in (3, 2))
    chosen = np.flatnonzero(rng.random(n) < 0.4)
    taken = blocks.take(to_blocks(state, n, np.dtype(float)), chosen)
    expected = tuple((h[chosen], c[chosen]) for h, c in state)
    np.testing.assert_array_equal(taken, to_blocks(expected, len(chosen), np.dtype(float)))


@backends
def test_what_is_written_must_fit_what_is_read(backend):
    weights, state, gradients, _, _ = case(0, (3,), 10.0, 5, 1)
    before = to_blocks(state, 5, gradients.dtype)
    wrong = {"target": (before.copy(), np.zeros(3)), "after": (np.zeros((3, *before.shape[1:])), np.zeros(5))}
    for name, (after, target) in wrong.items():
        kept = after.copy()
        with pytest.raises(ValueError, match=f"step: .*{name}"):
            backend.advance(weights, before, after, [gradients[0]], [target], SCALE, 10.0, add=False)
        np.testing.assert_array_equal(after, kept)
