"""kernels.lstm.cpu_unroll, compiled backpropagation through time: against the reference in float64, and against itself."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels.lstm import Weights, cpu, cpu_unroll, reference
from tinymeta.kernels.lstm.blocks import flat_weights, from_blocks, hidden_sizes, to_blocks, zero_blocks

seeds = st.integers(0, 2**32 - 1)
nets = st.sampled_from([(), (1,), (3,), (20, 20), (4, 2, 5), (33,)])
counts = st.sampled_from([0, 1, 31, 32, 33, 63, 64, 65, 200, 1100])
constants = st.sampled_from([None, 2.0, 10.0])  # p
SCALE = 0.3
EPSILON = float(np.finfo(np.float32).eps)


def normals(rng, *shape, scale=1.0):
    return np.asarray(scale * rng.normal(size=shape), np.float32)


def case(seed, hidden, p, n, T):
    """The arguments of unroll_backward up to d_blocks, read-only; no gradient is near a seam e^-p, and raw ones are not so
    large that they saturate gates, whose slopes s (1 - s) would then have few digits left to sum."""
    rng, widths = np.random.default_rng(seed), [1 if p is None else 2, *hidden]
    layers = [
        (normals(rng, d + H, 4 * H, scale=(d + H) ** -0.5), normals(rng, 4 * H))
        for d, H in zip(widths, hidden, strict=False)
    ]
    weights = Weights(tuple(layers), normals(rng, widths[-1], scale=widths[-1] ** -0.5), normals(rng))
    blocks, d_blocks = (to_blocks(state_of(rng, hidden, n), n, np.float32) for _ in range(2))
    sizes = (0, 1e-3, 0.5, 1) if p is None else (0, 1e-6, 1e-3, 0.5, 30)
    gradients = rng.choice(np.float32([-1, 1]), (T, n)) * rng.choice(np.float32(sizes), (T, n))
    for array in (*flat_weights(weights), blocks, gradients, d_blocks):
        array.flags.writeable = False
    return weights, blocks, gradients, normals(rng, T, n), d_blocks


def state_of(rng, hidden, n):
    return tuple((normals(rng, n, H), normals(rng, n, H)) for H in hidden)


def parts(weights, blocks, n):
    return [part for layer in from_blocks(blocks, hidden_sizes(weights), n) for part in layer]


def flat(result, weights, n):
    """(d_weights, d_blocks, d_gradients) in one list, without the padding."""
    d_weights, d_blocks, d_gradients = result
    return [*flat_weights(d_weights), *parts(weights, d_blocks, n), *([] if d_gradients is None else [d_gradients])]


def wide(weights):
    """In float64."""
    layers = tuple(tuple(x.astype(float) for x in layer) for layer in weights.layers)
    return Weights(layers, weights.W_out.astype(float), weights.b_out.astype(float))


def exact(inputs, p):
    """The same list, of the reference in float64."""
    weights, blocks, gradients, d_updates, d_blocks = inputs
    n, sizes = gradients.shape[1], hidden_sizes(weights)
    state, d_state = (from_blocks(x.astype(float), sizes, n) for x in (blocks, d_blocks))
    d_weights, d_before, d_gradients = reference.unroll_backward(
        wide(weights), state, gradients.astype(float), d_updates.astype(float), d_state, SCALE, p, wrt_gradients=True
    )
    return [*flat_weights(d_weights), *(part for layer in d_before for part in layer), d_gradients]


def assert_near(found, expected, ulps=128):
    """Within so many float32 roundings of the largest number of each array, and of 1."""
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == np.float32
        size = max(1.0, float(np.abs(b).max(initial=0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=ulps * EPSILON * size, err_msg=f"array {k}")


@settings(max_examples=40)
@given(seed=seeds, hidden=nets, p=constants, n=counts, T=st.integers(0, 6))
def test_an_unroll_is_the_references_and_its_steps(seed, hidden, p, n, T):
    weights, blocks, gradients, *_ = case(seed, hidden, p, n, T)
    updates, after = cpu_unroll.unroll_forward(weights, blocks, gradients, SCALE, p)
    state = from_blocks(blocks.astype(float), hidden, n)
    expected, last = reference.unroll_forward(wide(weights), state, gradients.astype(float), SCALE, p)
    assert_near([updates, *parts(weights, after, n)], [expected, *(part for layer in last for part in layer)])
    for gradient, found in zip(gradients, updates, strict=True):
        update, blocks = cpu.step(weights, blocks, gradient, SCALE, p)
        np.testing.assert_array_equal(found, update)
    np.testing.assert_array_equal(after, blocks)


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=60)
@given(seed=seeds, hidden=nets, p=constants, n=counts, T=st.integers(0, 6))
def test_every_derivative_is_the_references(seed, hidden, p, n, T):
    inputs = case(seed, hidden, p, n, T)
    found = flat(cpu_unroll.unroll_backward(*inputs, SCALE, p, wrt_gradients=True), inputs[0], n)
    assert_near(found, exact(inputs, p))


def test_the_papers_optimizer_over_twenty_steps():
    inputs = case(0, (20, 20), 10.0, 700, 20)
    found = flat(cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, wrt_gradients=True), inputs[0], 700)
    assert_near(found, exact(inputs, 10.0))


@settings(max_examples=20)
@given(
    seed=seeds,
    hidden=nets,
    n=st.sampled_from([1, 65, 300]),
    T=st.integers(0, 9),
    memory=st.sampled_from([0, 30_000, 10**5]),
)
def test_recomputed_activations_give_the_same_bits_for_states_and_gradients(seed, hidden, n, T, memory):
    """The weights' gradient is summed in another order."""
    inputs = case(seed, hidden, 10.0, n, T)
    stored = flat(cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, wrt_gradients=True), inputs[0], n)
    recomputed = cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, wrt_gradients=True, memory=memory)
    recomputed, count = flat(recomputed, inputs[0], n), 2 * len(hidden) + 2
    assert_same(recomputed[count:], stored[count:])
    assert_near(recomputed[:count], stored[:count])


@pytest.mark.parametrize("T", [0, 1, 2, 7, 20, 100])
@pytest.mark.parametrize("allowed", [0, 1000, 3000, 10**5])
def test_a_segment_fits_in_the_memory_or_takes_the_least(T, allowed):
    record, state = 245, 80

    def rows(length):
        return (length + 1) * record + (-(-T // length) - 1) * state

    length = cpu_unroll.segment_length(T, record, state, allowed)
    fewest = min(map(rows, range(1, max(T, 1) + 1)))
    assert 1 <= length <= max(T, 1)
    assert rows(length) <= max(allowed, fewest)
    if rows(max(T, 1)) <= allowed:
        assert length == max(T, 1)  # nothing is computed twice that need not be


def test_without_gradients_the_rest_is_the_same():
    inputs = case(3, (4, 2, 5), 10.0, 130, 4)
    with_gradients = cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, wrt_gradients=True)
    without = cpu_unroll.unroll_backward(*inputs, SCALE, 10.0)
    assert without[2] is None
    assert_same(flat(without, inputs[0], 130), flat((*with_gradients[:2], None), inputs[0], 130))


def test_the_padding_of_blocks_is_coordinates_with_no_gradient():
    """Backends agree in it, and the composition of the engine's op differentiates it."""
    inputs = case(4, (3,), 10.0, 5, 3)
    d_blocks = np.ones_like(inputs[-1])
    found = cpu_unroll.unroll_backward(*inputs[:-1], d_blocks, SCALE, 10.0)
    padded = [np.concatenate([x, np.zeros((3, 59), np.float32)], axis=1) for x in inputs[2:4]]
    expected = cpu_unroll.unroll_backward(*inputs[:2], *padded, d_blocks, SCALE, 10.0)
    assert_same([*flat_weights(found[0]), found[1]], [*flat_weights(expected[0]), expected[1]])


@pytest.mark.parametrize("p", [None, 10.0])
def test_a_row_that_is_not_finite_leaves_the_others_states_and_gradients_as_they_were(p):
    weights, blocks, gradients, d_updates, d_blocks = case(5, (20, 20), p, 200, 3)
    kept = flat(
        cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates, d_blocks, SCALE, p, True), weights, 200
    )
    spoiled = gradients.copy()
    spoiled[1, [3, 70]] = np.nan, np.inf
    found = cpu_unroll.unroll_backward(weights, blocks, spoiled, d_updates, d_blocks, SCALE, p, True)
    others = np.setdiff1d(np.arange(200), [3, 70])
    found = flat(found, weights, 200)
    assert_same([x[others] for x in found[6:-1]], [x[others] for x in kept[6:-1]])
    np.testing.assert_array_equal(found[-1][:, others], kept[-1][:, others])
    assert np.isnan(found[-1][1, 3])
    assert np.isnan(found[0]).any()  # as the family's page says


@pytest.mark.parametrize("g", [0.0, -0.0, 1e-30, 1e30, -1e30, float(np.exp(-10)) * 1.001, -3e38])
def test_extreme_gradients_are_the_references(g):
    weights, blocks, gradients, d_updates, d_blocks = case(6, (20, 20), 10.0, 64, 3)
    inputs = weights, blocks, np.full_like(gradients, g), d_updates, d_blocks
    found = flat(cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, True), weights, 64)
    assert_near(found, exact(inputs, 10.0))


def test_saturated_gates_are_the_references():
    weights, *others = case(7, (20,), 10.0, 64, 3)
    loud = Weights(tuple((100 * W, 100 * b) for W, b in weights.layers), weights.W_out, weights.b_out)
    found = flat(cpu_unroll.unroll_backward(loud, *others, SCALE, 10.0, True), weights, 64)
    assert_near(
        found, exact((loud, *others), 10.0), ulps=100 * 128
    )  # z is 100 times as large, and so are its roundings


def test_two_callers_at_a_time_do_not_meet():
    problems = [case(k, (4, 2), 10.0, 300, 4) for k in range(4)]
    expected = [flat(cpu_unroll.unroll_backward(*inputs, SCALE), inputs[0], 300) for inputs in problems]
    found = [None] * len(problems)

    def call(k):
        for _ in range(5):
            found[k] = flat(cpu_unroll.unroll_backward(*problems[k], SCALE), problems[k][0], 300)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)


COUNT_THREADS = """
import sys, zlib
sys.path.insert(0, {folder!r})
from test_lstm_cpu_unroll import SCALE, case, cpu_unroll, flat
inputs = case(8, (20, 20), 10.0, 1100, 5)
for array in flat(cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, wrt_gradients=True), inputs[0], 1100):
    print(zlib.crc32(array.tobytes()))
"""


def test_the_result_does_not_depend_on_the_number_of_threads():
    folder = os.path.dirname(__file__)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", COUNT_THREADS.format(folder=folder)],
            env=os.environ | {"NUMBA_NUM_THREADS": str(threads)},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in (1, 3)
    ]  # fmt: skip
    assert outputs[0] == outputs[1]
    assert len(outputs[0].split()) == 6 + 4 + 1


def test_strides_are_free_and_inputs_stay():
    weights, blocks, gradients, d_updates, d_blocks = case(9, (3, 2), 10.0, 70, 4)
    expected = cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates, d_blocks, SCALE)
    strided = [np.asfortranarray(x) for x in (blocks, gradients, d_updates, d_blocks)]
    kept = [x.copy() for x in strided]
    turned = Weights(
        tuple((np.asfortranarray(W), b) for W, b in weights.layers), weights.W_out[::-1].copy()[::-1], weights.b_out
    )
    found = cpu_unroll.unroll_backward(turned, *strided, SCALE)
    assert_same(flat(found, weights, 70), flat(expected, weights, 70))
    assert_same(strided, kept)


def test_what_does_not_fit_is_refused():
    weights, blocks, gradients, d_updates, d_blocks = case(2, (3,), 10.0, 5, 2)
    with pytest.raises(TypeError, match="float64"):
        cpu_unroll.unroll_backward(weights, *(x.astype(float) for x in (blocks, gradients, d_updates, d_blocks)))
    with pytest.raises(TypeError, match="takes float32"):
        cpu_unroll.unroll_backward(wide(weights), *(x.astype(float) for x in (blocks, gradients, d_updates, d_blocks)))
    with pytest.raises(ValueError, match="d_updates has shape"):
        cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates[:1], d_blocks)
    with pytest.raises(ValueError, match="d_blocks has shape"):
        cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates, d_blocks[:, 1:])
    with pytest.raises(ValueError, match="gradients has shape"):
        cpu_unroll.unroll_forward(weights, blocks, gradients[0])
    with pytest.raises(TypeError, match="takes float32"):
        cpu_unroll.unroll_forward(wide(weights), blocks.astype(float), gradients.astype(float))
    with pytest.raises(ValueError, match="p is 100"):
        cpu_unroll.unroll_backward(weights, blocks, gradients, d_updates, d_blocks, p=100.0)


def test_no_coordinates_and_no_steps():
    for n, T in ((0, 3), (5, 0), (0, 0)):
        inputs = case(1, (3,), 10.0, n, T)
        d_weights, d_before, d_gradients = cpu_unroll.unroll_backward(*inputs, SCALE, 10.0, True)
        assert d_gradients.shape == (T, n)
        assert all(not x.any() for x in flat_weights(d_weights))
        np.testing.assert_array_equal(d_before, inputs[-1] if T == 0 else zero_blocks(inputs[0], n))
