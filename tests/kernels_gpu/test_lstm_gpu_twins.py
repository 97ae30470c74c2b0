"""The GPU twins of tinymeta.kernels.lstm against the reference in float64, on a machine without a GPU.

"cuda" is lstm.cu compiled for this machine (kernels/shim) under the address and undefined-behaviour sanitizers, behind
cuda.py itself. "numba_cuda" runs in Numba's simulator, which must be chosen before Numba is imported: one test runs this
file again in a process that has chosen it.
"""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels_gpu.cuda_on_host import COMPILED, ON_HOST, SIMULATED, KernelError, thread_sanitizer, twins_of

from tinymeta.kernels.lstm import Weights, cuda, gpu, reference
from tinymeta.kernels.lstm.blocks import LANES, flat_weights, from_blocks, to_blocks

CASES = {  # hidden sizes, p, n, T
    "two unequal layers": ((3, 2), 10, 130, 2),
    "one layer and raw gradients": ((4,), None, 70, 2),
    "three layers, one coordinate": ((2, 1, 3), 5, 1, 2),
    "no layer": ((), 10, 65, 2),
}
on_host, twin, test_the_other_twin_in_the_simulator = twins_of(cuda)


class Problem:
    """Random inputs for a call, in float32, and what the reference makes of them in float64."""

    def __init__(self, hidden, p, n, T, seed=0):
        rng = np.random.default_rng(seed)

        def normal(*shape, scale=1.0):
            return np.array(scale * rng.normal(size=shape), np.float32)

        widths = [1 if p is None else 2, *hidden]
        layers = [(normal(d + H, 4 * H, scale=0.5), normal(4 * H)) for d, H in zip(widths, hidden, strict=False)]
        self.hidden, self.p, self.n, self.T, self.scale = hidden, p, n, T, 0.3
        self.weights = Weights(tuple(layers), normal(widths[-1]), normal())
        self.state, self.d_state = (tuple((normal(n, H), normal(n, H)) for H in hidden) for _ in range(2))
        sizes = rng.choice(np.float32([0, 1e-6, 1e-3, 0.05, 0.5, 30]), (T, n))  # none near a seam e^-p
        self.gradients = rng.choice(np.float32([-1, 1]), (T, n)) * sizes
        self.d_updates = normal(T, n)
        self.blocks, self.d_blocks = (to_blocks(s, n, np.float32) for s in (self.state, self.d_state))
        for array in (*flat_weights(self.weights), self.gradients, self.d_updates, self.blocks, self.d_blocks):
            array.flags.writeable = False

    def unroll(self, twin):
        updates, blocks = twin.unroll_forward(self.weights, self.blocks, self.gradients, self.scale, self.p)
        return [updates, *self.parts(blocks)]

    def backward(self, twin, **options):
        """d_weights, the cotangents of the state's parts, d_gradients if asked for."""
        arguments = self.weights, self.blocks, self.gradients, self.d_updates, self.d_blocks, self.scale, self.p
        d_weights, d_blocks, d_gradients = twin.unroll_backward(*arguments, **options)
        return [*flat_weights(d_weights), *self.parts(d_blocks), *([] if d_gradients is None else [d_gradients])]

    def parts(self, blocks):
        assert blocks.dtype == np.float32
        return [part for layer in from_blocks(blocks, self.hidden, self.n) for part in layer]

    def exact_unroll(self, dtype=np.float64):
        weights, state, gradients = self.cast(dtype, self.weights, self.state, self.gradients)
        updates, state = reference.unroll_forward(weights, state, gradients, self.scale, self.p)
        return [updates, *(part for layer in state for part in layer)]

    def exact_backward(self, dtype=np.float64):
        inputs = self.cast(dtype, self.weights, self.state, self.gradients, self.d_updates, self.d_state)
        d_weights, d_state, d_gradients = reference.unroll_backward(*inputs, self.scale, self.p, wrt_gradients=True)
        return [*flat_weights(d_weights), *(part for layer in d_state for part in layer), d_gradients]

    def cast(self, dtype, *trees):
        def convert(tree):
            if isinstance(tree, np.ndarray):
                return tree.astype(dtype)
            return Weights(*map(convert, tree)) if isinstance(tree, Weights) else tuple(map(convert, tree))

        return map(convert, trees)


def assert_near(found, exact, tolerance):
    """Within the tolerance, relative to the largest number of each array."""
    for k, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert a.shape == b.shape
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max(initial=0)), err_msg=f"array {k}"
        )


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- both twins ----


@pytest.mark.parametrize("case", CASES)
def test_an_unroll_and_its_backward_are_those_of_the_reference(twin, case):
    problem = Problem(*CASES[case])
    assert_near(problem.unroll(twin), problem.exact_unroll(), 1e-6)
    assert_near(problem.backward(twin, wrt_gradients=True), problem.exact_backward(), 3e-6)


@COMPILED
def test_the_papers_optimizer_on_several_tiles_is_that_of_the_reference(on_host):
    problem, twin = Problem((20, 20), 10, 300, 2), on_host()
    assert_near(problem.unroll(twin), problem.exact_unroll(), 1e-6)
    assert_near(problem.backward(twin, wrt_gradients=True), problem.exact_backward(), 3e-6)


def test_a_step_is_an_unroll_of_one_and_leaves_its_inputs_alone(twin):
    problem = Problem((3, 2), 10, 70, 1)
    update, after = twin.step(problem.weights, problem.blocks, problem.gradients[0], problem.scale)
    assert_equal([update[None], *problem.parts(after)], problem.unroll(twin))


@pytest.mark.parametrize("add", [True, False])
def test_a_tree_of_targets_is_moved_in_one_pass_and_in_place(twin, add):
    problem = Problem((3, 2), 10, 70, 1)
    expected, after = twin.step(problem.weights, problem.blocks, problem.gradients[0], problem.scale)
    for shapes in ([(70,)], [(3, 4), (), (57,)]):
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
        gradients = [g.reshape(s) for g, s in zip(np.split(problem.gradients[0], ends[:-1]), shapes, strict=True)]
        targets, state = [np.ones(shape, np.float32) for shape in shapes], problem.blocks.copy()
        twin.advance(problem.weights, state, state, gradients, targets, problem.scale, 10, add)
        np.testing.assert_array_equal(np.concatenate([t.reshape(-1) for t in targets]), expected + np.float32(add))
        np.testing.assert_array_equal(state, after)


def test_strides_are_free(twin):
    problem = Problem((3, 2), 10, 5, 2)
    expected = problem.unroll(twin), problem.backward(twin)
    for name in ("gradients", "d_updates"):
        setattr(problem, name, np.asfortranarray(getattr(problem, name)))
    for name in ("blocks", "d_blocks"):
        setattr(problem, name, np.repeat(getattr(problem, name), 2, axis=2)[:, :, ::2])
    layers = tuple((np.asfortranarray(W), np.repeat(b, 2)[::2]) for W, b in problem.weights.layers)
    problem.weights = problem.weights._replace(layers=layers)
    assert_equal(problem.unroll(twin), expected[0])
    assert_equal(problem.backward(twin), expected[1])


@pytest.mark.parametrize(("n", "T"), [(0, 2), (70, 0)])
def test_no_coordinates_and_no_steps(twin, n, T):
    problem = Problem((3, 2), 10, n, T)
    assert_equal(problem.unroll(twin), [problem.gradients, *problem.parts(problem.blocks)])
    *d_weights, h1, c1, h2, c2, d_gradients = problem.backward(twin, wrt_gradients=True)
    assert not any(array.any() for array in d_weights)
    assert_equal([h1, c1, h2, c2, d_gradients], [*problem.parts(problem.d_blocks), problem.gradients])


@pytest.mark.parametrize("states", [6, 5])
def test_a_small_memory_gives_the_same_result_by_segments(twin, states):
    """6 states of a tile are 2 starts and segments of 4 steps; 5 are 2 starts and segments of 3, the last of 2."""
    problem = Problem((3, 2), 10, 3, 5)
    stored = problem.backward(twin, wrt_gradients=True)
    assert_near(stored, problem.exact_backward(), 3e-6)
    memory = states * problem.blocks.nbytes
    assert_equal(problem.backward(twin, wrt_gradients=True, memory=memory), stored)
    with pytest.raises(ValueError, match=r"memory is \d+ bytes, expected 12800 or more for 5 steps"):
        problem.backward(twin, memory=12799)


def test_one_block_of_threads_may_do_all_tiles(twin):
    problem = Problem((3, 2), 10, 150, 2)
    one_tile = problem.blocks.nbytes // 3
    assert_near(problem.backward(twin, memory=3 * one_tile), problem.exact_backward()[:-1], 3e-6)


def test_padding_adds_nothing_to_the_weights_gradient(twin):
    problem = Problem((3, 2), 10, 5, 2)
    clean = problem.backward(twin)
    problem.blocks = problem.blocks.copy()
    problem.blocks[:, :, 5:] = 7
    assert_equal(problem.backward(twin), clean)


@pytest.mark.filterwarnings("ignore:(invalid|overflow):RuntimeWarning")
def test_extreme_gradients_behave_as_documented(twin):
    extreme = [0, -0.0, 1e-45, 1e-30, -1e30, np.inf, -np.inf, np.nan]
    problem = Problem((3, 2), 10, 20, 1)
    clean = problem.unroll(twin), problem.backward(twin, wrt_gradients=True)
    problem.gradients = np.array(problem.gradients)
    problem.gradients[0, : len(extreme)] = extreme
    with np.errstate(invalid="ignore"):
        exact = problem.exact_unroll(np.float32), problem.exact_backward(np.float32)
    found = problem.unroll(twin), problem.backward(twin, wrt_gradients=True)
    for a, b in zip([*found[0], *found[1]], [*exact[0], *exact[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=3e-6)
    rest = len(extreme)
    np.testing.assert_array_equal(found[0][0][:, rest:], clean[0][0][:, rest:])
    assert_equal([a[rest:] for a in found[0][1:]], [a[rest:] for a in clean[0][1:]])
    assert np.isfinite(found[0][0][0, : rest - 1]).all()
    assert np.isnan(found[0][0][0, rest - 1])
    assert np.isnan(found[1][0]).any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gradients": lambda g: g.astype(np.float64)}, TypeError, "b is float32 but gradients is float64"),
        ({"gradients": lambda g: g[0]}, ValueError, r"gradients has shape \(4,\), expected \(T, n\)"),
        ({"blocks": lambda b: b[:, :3]}, ValueError, r"blocks has shape \(1, 3, 64\), expected \(1, 10, 64\)"),
        ({"p": lambda p: None}, ValueError, r"W has shape \(5, 12\), expected \(d\+H, 4H\) = \(4, 12\)"),
        ({"p": lambda p: 90}, ValueError, "p is 90, expected 0 < p < 88.7"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(twin, change, error, message):
    problem = Problem((3, 2), 10, 4, 2)
    for name, new in change.items():
        setattr(problem, name, new(getattr(problem, name)))
    with pytest.raises(error, match=message):
        problem.unroll(twin)
    with pytest.raises(error, match=message):
        problem.backward(twin)


def test_float64_is_refused_with_what_to_use_instead(twin):
    problem = Problem((3, 2), 10, 4, 2)
    weights, blocks, gradients = problem.cast(np.float64, problem.weights, problem.blocks, problem.gradients)
    with pytest.raises(TypeError, match=r"float64, expected float32.*use .astype\(numpy.float32\)"):
        twin.unroll_forward(weights, blocks, gradients)


def test_what_cannot_be_written_is_refused(twin):
    problem = Problem((3, 2), 10, 4, 1)
    gradient, target, after = problem.gradients[0], np.zeros(4, np.float32), problem.blocks.copy()

    def advance(after, target):
        twin.advance(problem.weights, problem.blocks, after, [gradient], [target], 1.0, 10, False)

    with pytest.raises(ValueError, match="has strides, expected a C-contiguous array to write into"):
        advance(np.repeat(after, 2, axis=2)[:, :, ::2], target)
    with pytest.raises(ValueError, match=r"after has shape \(2, 10, 64\), expected"):
        advance(np.repeat(after, 2, axis=0), target)
    with pytest.raises(ValueError, match=r"target has shape \(3,\), expected \(4\)"):
        advance(after, target[1:])
    with pytest.raises(TypeError, match="target is float64"):
        advance(after, target.astype(np.float64))
    problem.d_blocks = problem.d_blocks[:, 1:]
    with pytest.raises(ValueError, match=r"d_blocks has shape \(1, 9, 64\), expected"):
        problem.backward(twin)


# ---- CUDA C only ----


@ON_HOST
@pytest.mark.parametrize("in_shared", [1, 0])
def test_networks_too_large_for_shared_memory_work_from_global_memory(on_host, in_shared):
    problem, sizes = Problem((3, 2), 10, 150, 2), gpu.Sizes((3, 2), 2, 2, 150)
    expected = problem.unroll(on_host()), problem.backward(on_host(), wrt_gradients=True)
    twin = on_host(MaxSharedMemoryPerBlockOptin=cuda.shared_bytes("backward", sizes, in_shared))
    assert_equal(problem.unroll(twin), expected[0])
    assert_equal(problem.backward(twin, wrt_gradients=True), expected[1])
    on_host(MaxSharedMemoryPerBlockOptin=cuda.shared_bytes("backward", sizes, 0) - 1)
    with pytest.raises(ValueError, match=r"layers of \(3, 2\) units need \d+ bytes of shared memory"):
        problem.backward(cuda)


@ON_HOST
def test_arrays_of_another_library_are_refused(on_host):
    twin = on_host()
    sys.modules["cupy"].ndarray = type("ndarray", (), {})
    problem = Problem((3, 2), 10, 4, 1)
    with pytest.raises(TypeError, match=r"W_out is a numpy.ndarray, expected a cupy.ndarray; use cupy.asarray"):
        problem.unroll(twin)


@ON_HOST
def test_no_thread_races_with_another_and_a_missing_barrier_is_seen(on_host, monkeypatch, tmp_path):
    sanitized = thread_sanitizer(tmp_path)
    problem = Problem((3, 2), 10, 150, 3)
    twin = on_host(**sanitized)
    assert_near(problem.unroll(twin), problem.exact_unroll(), 1e-6)
    assert_near(problem.backward(twin, wrt_gradients=True), problem.exact_backward(), 3e-6)

    before, after = cuda.source(gpu.Sizes((3, 2), 2, 0, 0), 2).split("        __syncthreads();\n        cells<L + 1>")
    monkeypatch.setattr(cuda, "source", lambda sizes, in_shared: f"{before}        cells<L + 1>{after}")
    with pytest.raises(KernelError, match="data race"):
        problem.unroll(on_host(**sanitized))


@ON_HOST
def test_gates_keep_their_bounds_in_units_in_the_last_place(on_host):
    module = on_host(flags=("-O1",))._module(gpu.Sizes((), 2, 0, 0), 2, 0)

    def gates(x):
        found = np.empty_like(x), np.empty_like(x)
        module.get_function("activations")((1,), (1,), (x, *found, np.int64(x.size)))
        return found

    assert_gates_keep_their_bounds(gates)


def assert_gates_keep_their_bounds(gates, smallest=0.0):
    """2.5 for the logistic function and 1.5 for tanh, over one in 3001 of all floats; exact at the ends."""
    positive = np.arange(0, 0x7F800000, 3001, dtype=np.uint32).view(np.float32)
    positive = positive[(positive == 0) | (positive >= smallest)]
    x = np.concatenate([positive, -positive, np.float32([np.inf, -np.inf, 0.625, -0.625, 9.0])])
    sigmoids, tangents = gates(x)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
    tiny = wide < -87.3
    assert sigmoids[tiny].max() == 0
    assert sigmoid[tiny].max() < 1.3e-38
    assert ulps(sigmoids[~tiny], sigmoid[~tiny]) <= 2.5
    assert ulps(tangents, np.tanh(wide)) <= 1.5
    assert [*sigmoids[-5:-3], *tangents[-5:-3]] == [1, 0, 1, -1]


def ulps(found, exact):
    return np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64))


# ---- the plan of a backward pass ----


@given(
    T=st.integers(1, 200),
    n=st.integers(1, 10_000),
    resident=st.integers(1, 500),
    memory=st.integers(0, 10**8) | st.none(),
)
def test_a_plan_fits_its_memory_and_stores_all_that_fits(T, n, resident, memory):
    sizes = gpu.Sizes((20, 20), 2, T, n)
    least = min(-(-T // segment) + segment for segment in range(1, T + 1)) * sizes.state_bytes
    if memory is not None and memory < least:
        with pytest.raises(ValueError, match=f"memory is {memory} bytes, expected {least} or more"):
            gpu.plan(sizes, resident, memory)
        return
    blocks, segment, states = gpu.plan(sizes, resident, memory)
    assert 1 <= blocks <= min(resident, -(-n // LANES))
    assert states == -(-T // segment) + segment
    everything = min(resident, -(-n // LANES)) * (1 + T) * sizes.state_bytes
    if memory is None or everything <= memory:
        assert (blocks, segment) == (min(resident, -(-n // LANES)), T)
    else:
        assert segment < T or T == 1
        assert blocks * states * sizes.state_bytes <= memory


# ---- Numba ----


@pytest.mark.skipif(not SIMULATED, reason="numba.cuda runs in the simulator")
def test_numba_cuda_refuses_weights_that_shared_memory_cannot_hold():
    from tinymeta.kernels.lstm import numba_cuda

    with pytest.raises(ValueError, match=r"layers of \(200,\) units have 162601 weights, expected 12288 or less"):
        Problem((200,), 10, 1, 1).unroll(numba_cuda)
