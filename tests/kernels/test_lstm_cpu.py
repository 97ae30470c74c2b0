"""kernels.lstm.cpu, the compiled step: against the reference in float64, in place and not, on trees of leaves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels.lstm import Weights, cpu, reference
from tinymeta.kernels.lstm.blocks import from_blocks, hidden_sizes, zero_blocks

seeds = st.integers(0, 2**32 - 1)
nets = st.sampled_from([(), (1,), (3,), (20, 20), (4, 2, 5), (33,)])
counts = st.sampled_from([0, 1, 63, 64, 65, 200, 1100])
constants = st.sampled_from([None, 2.0, 10.0])  # p
shapes = st.sampled_from([[(5,)], [(), (3, 4)], [(64,), (0, 3), (70,)], [(2, 3), (200,), (), (1,)]])
SCALE = 0.3


def normals(rng, *shape, scale=1.0):
    return np.asarray(scale * rng.normal(size=shape), np.float32)


def case(seed, hidden, p, n):
    """(rng, weights, a state in blocks, a gradient on both branches of the preprocessing)"""
    rng, widths = np.random.default_rng(seed), [1 if p is None else 2, *hidden]
    layers = [
        (normals(rng, d + H, 4 * H, scale=(d + H) ** -0.5), normals(rng, 4 * H))
        for d, H in zip(widths, hidden, strict=False)
    ]
    weights = Weights(tuple(layers), normals(rng, widths[-1], scale=widths[-1] ** -0.5), normals(rng))
    blocks = normals(rng, *zero_blocks(weights, n).shape)
    return rng, weights, blocks, normals(rng, n) * rng.choice(np.float32([1e-6, 1, 30]), n)


def float64(x):
    return x.astype(float)


def exact(weights, blocks, gradient, p):
    """(update, state) of the reference in float64."""
    wide = Weights(
        tuple(tuple(x.astype(float) for x in layer) for layer in weights.layers),
        weights.W_out.astype(float),
        weights.b_out.astype(float),
    )
    state = from_blocks(blocks.astype(float), hidden_sizes(weights), gradient.size)
    return reference.step(wide, state, gradient.astype(float), SCALE, p)


@settings(max_examples=60)
@given(seed=seeds, hidden=nets, p=constants, n=counts)
def test_a_step_is_within_1e6_of_the_references(seed, hidden, p, n):
    _, weights, blocks, gradient = case(seed, hidden, p, n)
    kept = blocks.copy()
    update, after = cpu.step(weights, blocks, gradient, SCALE, p)
    expected, state = exact(weights, blocks, gradient, p)
    assert update.dtype == after.dtype == np.float32
    size = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(update, expected, rtol=0, atol=1e-6 * size)
    for found, wanted in zip(from_blocks(after, hidden_sizes(weights), n), state, strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(np.abs(b).max(initial=0))))
    np.testing.assert_array_equal(blocks, kept)


@settings(max_examples=30)
@given(seed=seeds, hidden=nets, shapes=shapes, add=st.booleans(), in_place=st.booleans())
def test_the_leaves_of_a_tree_are_read_and_written_where_they_lie(seed, hidden, shapes, add, in_place):
    sizes = [int(np.prod(shape)) for shape in shapes]
    rng, weights, blocks, flat = case(seed, hidden, 10.0, sum(sizes))
    leaves = [x.reshape(shape) for x, shape in zip(np.split(flat, np.cumsum(sizes)[:-1]), shapes, strict=True)]
    targets = [normals(rng, *shape) for shape in shapes]
    before = [x.copy() for x in targets]
    update, expected_after = cpu.step(weights, blocks, flat, SCALE, 10.0)
    after = blocks if in_place else np.empty_like(blocks)
    cpu.advance(weights, blocks, after, leaves, targets, SCALE, 10.0, add)
    np.testing.assert_array_equal(after, expected_after)
    pieces = np.split(update, np.cumsum(sizes)[:-1])
    for target, old, piece in zip(targets, before, pieces, strict=True):
        np.testing.assert_array_equal(target, (old if add else 0) + piece.reshape(target.shape))


def test_what_does_not_fit_is_refused():
    _, weights, blocks, gradient = case(2, (3,), 10.0, 5)
    with pytest.raises(TypeError, match="float64"):
        cpu.step(weights, blocks.astype(float), gradient.astype(float))
    with pytest.raises(ValueError, match="blocks has shape"):
        cpu.step(weights, blocks[:, 1:], gradient)
    with pytest.raises(ValueError, match="W has shape"):
        cpu.step(weights, blocks, gradient, p=None)
    with pytest.raises(ValueError, match="p is 100"):
        cpu.step(weights, blocks, gradient, p=100.0)


def test_what_cannot_be_written_is_refused():
    _, weights, blocks, gradient = case(2, (3,), 10.0, 5)

    def advance(after, targets):
        cpu.advance(weights, blocks, after, [gradient], targets, SCALE, 10.0, add=False)

    after, target = np.empty_like(blocks), np.empty(5, np.float32)
    with pytest.raises(ValueError, match="there are 2 targets, expected 1"):
        advance(after, [target, target])
    with pytest.raises(ValueError, match=r"targets\[0\] has shape \(6,\), expected \(5,\)"):
        advance(after, [np.empty(6, np.float32)])
    with pytest.raises(ValueError, match="after is read-only"):
        advance(np.broadcast_to(after[:1], after.shape), [target])
    with pytest.raises(ValueError, match=r"targets\[0\] of shape \(5,\) has strides \(8,\)"):
        advance(after, [np.empty(10, np.float32)[::2]])
    wide = Weights(tuple((W.astype(float), b.astype(float)) for W, b in weights.layers), *map(float64, weights[1:]))
    with pytest.raises(TypeError, match="takes float32"):
        cpu.step(wide, blocks.astype(float), gradient.astype(float))


def test_a_scalar_has_no_memory_to_read():
    _, weights, blocks, gradient = case(2, (3,), 10.0, 1)
    with pytest.raises(
        TypeError, match=r"advance: gradients\[0\] is a float32, expected an array, whose memory is read"
    ):
        cpu.advance(weights, blocks, blocks.copy(), [gradient[0]], [np.zeros((), np.float32)], SCALE, 10.0, add=False)
