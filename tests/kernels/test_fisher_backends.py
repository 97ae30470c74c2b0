"""kernels.fisher.chunked and .cpu against the reference in float64: every function, shape, kind and split into chunks."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from tinymeta.kernels.fisher import chunked, cpu, cpu_tile, reference

BACKENDS = [chunked, cpu]
seeds = st.integers(0, 2**32 - 1)
few = st.sampled_from([0, 1, 2, 5])
sizes = st.sampled_from([0, 1, 3, 8, 9, 17, 48, 50, 100])  # around a panel of 9, a vector of 16 and a strip of 48
samples = st.sampled_from([0, 1, 8, 35, 36, 37, 80])  # around a block of 36
networks = st.lists(st.sampled_from([1, 2, 9, 16, 21, 49]), min_size=2, max_size=5)
classes = st.sampled_from([1, 2, 3, 4, 5, 10, 12])
backends = pytest.mark.parametrize("backend", BACKENDS, ids=["chunked", "cpu"])


def frozen(array):
    array.flags.writeable = False
    return array


def normals(rng, *shape, scale=1.0, dtype=np.float32):
    return frozen(np.asarray(scale * rng.normal(size=shape), dtype))


def assert_near(found, exact, tolerance=2e-6, sizes=None):
    """Within the tolerance relative to the largest number of each array, or of `sizes`, where terms cancel; float32."""
    for k, (a, b, size) in enumerate(zip(found, exact, sizes or exact, strict=True)):
        assert a.shape == b.shape
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(size).max(initial=0), err_msg=f"array {k}")


def wide(*arrays):
    return [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]


def make(seed, shape, N, dtype=np.float32):
    """(params, x, labels, uniforms)"""
    rng = np.random.default_rng(seed)
    layers = pairwise(shape)
    params = [(normals(rng, i, o, scale=(2 / i) ** 0.5, dtype=dtype), normals(rng, o, dtype=dtype)) for i, o in layers]
    return params, normals(rng, N, shape[0], dtype=dtype), rng.integers(shape[-1], size=N), rng.random(N)


def flat(layers):
    return [array for layer in layers for array in layer]


def exact_network(params, x, *rest):
    return flat(reference.mlp_fisher([tuple(wide(*layer)) for layer in params], *wide(x), *rest))


# ---- layers ----


@backends
@settings(max_examples=30, deadline=None)
@given(seed=seeds, V=few, N=samples, I=sizes, O=sizes)
def test_linear_kinds(backend, seed, V, N, I, O):
    rng = np.random.default_rng(seed)
    A, S = normals(rng, N, I), normals(rng, V, N, O)
    assert_near(backend.linear_exact(A, S), reference.linear_exact(*wide(A, S)))
    if V:
        assert_near(backend.linear(A, S[0]), reference.linear(*wide(A, S[0])))


@backends
@settings(max_examples=20, deadline=None)
@given(seed=seeds, N=few, L=st.sampled_from([0, 1, 3, 20]), I=few, O=st.sampled_from([0, 1, 7, 40]))
def test_time_positions_and_batch_norm(backend, seed, N, L, I, O):
    rng = np.random.default_rng(seed)
    A, D, x_hat = normals(rng, N, L, I), normals(rng, N, L, O), normals(rng, N, O, L)
    U, E = A.swapaxes(1, 2), D.swapaxes(1, 2)
    for name, arrays in (("linear_time", (A, D)), ("conv", (U, E)), ("batch_norm", (x_hat, E))):
        exact = getattr(reference, name)
        sizes = exact(*(np.abs(array) for array in wide(*arrays)))
        assert_near(getattr(backend, name)(*arrays), exact(*wide(*arrays)), sizes=sizes)
    assert_near([backend.bias(E)], [reference.bias(*wide(E))], sizes=[reference.bias(np.abs(E))])


@backends
def test_strides_are_free(backend):
    rng = np.random.default_rng(0)
    A, S = normals(rng, 100, 70), normals(rng, 5, 50, 60)
    A, S = A[::2, ::-1].T[::2].T, S[::2, :, ::3]
    assert_near(backend.linear_exact(A, S), reference.linear_exact(*wide(A, S)))
    params, x, labels, uniforms = make(1, [20, 30, 10], 40)
    params = [(np.asfortranarray(W), np.repeat(b, 2)[::2]) for W, b in params]
    x, labels, uniforms = np.repeat(x, 2, axis=1)[:, ::2], np.repeat(labels, 2)[::2], np.repeat(uniforms, 2)[::2]
    for kind in reference._OUTPUT_SCORES:
        given = params, x, labels.astype(np.int32), "relu", kind, uniforms, 7
        assert_near(flat(backend.mlp_fisher(*given)), exact_network(*given), 1e-5)


@pytest.mark.filterwarnings("ignore:(invalid|overflow):RuntimeWarning")
@backends
def test_squares_obey_float32_at_extremes(backend):
    A, D = np.float32([[1e-30, 1, 1e30]]), np.float32([[0.5, 0]])
    F_W, F_b = backend.linear(A, D)
    np.testing.assert_array_equal(F_W, np.float32([[0, 0], [0.25, 0], [np.inf, np.nan]]))
    np.testing.assert_array_equal(F_b, np.float32([0.25, 0]))
    A = np.float32([[np.nan, 1, np.inf], [0, 0, 0]])
    np.testing.assert_array_equal(
        backend.linear(A, np.float32([[2, 0], [1, 1]]))[0], np.float32([[np.nan] * 2, [4, 0], [np.inf, np.nan]])
    )


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@backends
@settings(max_examples=20, deadline=None)
@given(seed=seeds, large=st.dictionaries(st.integers(0, 3000), st.sampled_from([3e18, 1e19, 1e20, np.inf]), max_size=3))
def test_a_sum_that_overflows_is_inf_however_many_samples_follow(backend, seed, large):
    """3001 samples are three chunks, from one to the next of which sums are compensated."""
    A, D = (np.abs(np.random.default_rng(seed).normal(size=(3001, 2))).astype(np.float32) for _ in range(2))
    for sample, x in large.items():
        A[sample, 0] = x
    found, expected = (kernels.linear(A, np.maximum(D, 1e-3)) for kernels in (backend, reference))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


# ---- the output ----


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=20, deadline=None)
@given(seed=seeds, N=few, C=classes, scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_scores_and_drawn_labels_are_the_references(backend, dtype, seed, N, C, scale):
    rng = np.random.default_rng(seed)
    logits, labels = normals(rng, N, C, scale=scale, dtype=dtype), rng.integers(C, size=N)
    uniforms = rng.random(N)
    np.testing.assert_allclose(
        backend.label_scores(logits, labels), reference.label_scores(logits, labels), rtol=10 * np.finfo(dtype).eps
    )
    np.testing.assert_array_equal(backend.sample_labels(logits, uniforms), reference.sample_labels(logits, uniforms))


@backends
def test_a_confident_softmax_keeps_its_small_scores(backend):
    logits = np.float32([[60, 0], [0, 80], [1e30, 0], [0, -np.inf]])
    D = backend.label_scores(logits, np.array([0, 1, 0, 0]))
    np.testing.assert_allclose(D[:2, 0], [np.exp(-60), -np.exp(-80)], rtol=1e-5)
    np.testing.assert_array_equal(D[2:], 0)


# ---- a whole network ----


@backends
@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    hidden=networks,
    C=classes,
    N=samples,
    activation=st.sampled_from(["relu", "tanh"]),
    kind=st.sampled_from(["exact", "sampled", "empirical", "batched"]),
)
def test_a_network_of_any_shape_and_kind(backend, seed, hidden, C, N, activation, kind):
    params, x, labels, uniforms = make(seed, [*hidden, C], N)
    given = params, x, labels, activation, kind, uniforms, 4
    exact, narrow = exact_network(*given), flat(reference.mlp_fisher(*given))
    worse = 40 if activation == "tanh" else 10  # whose slope is 1 - tanh^2, and the compiled tanh within 10 ulp
    for a, b, c in zip(flat(backend.mlp_fisher(*given)), exact, narrow, strict=True):
        assert (a.shape, a.dtype) == (b.shape, np.float32)
        error = worse * np.abs(c - b).max(initial=0)  # the error of the reference in float32, where terms cancel
        np.testing.assert_allclose(a, b, rtol=0, atol=error + 1e-5 * np.abs(b).max(initial=0))


@backends
@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical", "batched"])
def test_many_chunks_are_as_exact_as_one(backend, kind, monkeypatch):
    params, x, labels, uniforms = make(2, [12, 20, 9, 10], 500)
    given = params, x, labels, "tanh", kind, uniforms, 3
    for name, value in (("CHUNK", 50), ("MEMORY", 1 << 13), ("CACHE", 1 << 10), ("TILE", 7)):
        if hasattr(backend, name):
            monkeypatch.setattr(backend, name, value)
    assert_near(flat(backend.mlp_fisher(*given)), exact_network(*given), 2e-6)
    A, S = x, normals(np.random.default_rng(3), 4, 500, 11)
    assert_near(backend.linear_exact(A, S), reference.linear_exact(*wide(A, S)), 1e-6)
    U, D = x.reshape(50, 10, 12), S[0].reshape(50, 10, 11)
    assert_near(backend.linear_time(U, D), reference.linear_time(*wide(U, D)), 1e-6)


def test_the_compiled_sums_over_chunks_are_compensated(monkeypatch):
    """Of 4096 equal terms a plain sum of float32, chunk by chunk, would lose 1e-5."""
    monkeypatch.setattr(cpu, "CHUNK", 1)
    A = np.full((4096, 3), 0.1, np.float32)
    F_W, F_b = cpu.linear(A, A)
    square = float(np.float32(0.1) * np.float32(0.1))
    np.testing.assert_allclose(F_b, 4096 * square, rtol=1.2e-7)
    np.testing.assert_allclose(F_W, 4096 * square**2, rtol=2.4e-7)


def test_compiled_results_do_not_depend_on_the_threads(monkeypatch):
    params, x, labels, uniforms = make(4, [30, 70, 40, 10], 300)
    monkeypatch.setattr(cpu, "WORK_PER_THREAD", 1)
    for kind in ("exact", "sampled", "empirical"):
        found = []
        for threads in (1, 3):
            monkeypatch.setattr(cpu, "available", lambda threads=threads: threads)
            found.append(flat(cpu.mlp_fisher(params, x, labels, "relu", kind, uniforms)))
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["exact", "empirical"])
def test_a_sample_that_is_nan_makes_all_nan_and_leaves_the_next_call_alone(kind):
    params, x, labels, _ = make(5, [9, 12, 12, 6], 40)
    clean = flat(cpu.mlp_fisher(params, x, labels, "relu", kind))
    poisoned = np.array(x)
    poisoned[3, 2] = np.nan
    F_W, F_b = cpu.mlp_fisher(params, poisoned, labels, "relu", kind)[-1]
    assert np.isnan(F_W).all()
    assert np.isnan(F_b).all()
    for a, b in zip(flat(cpu.mlp_fisher(params, x, labels, "relu", kind)), clean, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dead_units_and_a_class_of_probability_zero():
    params, x, _, _ = make(6, [9, 30, 20, 6], 40)
    (W0, b0), (W1, b1), (W2, b2) = params
    b0, b1, b2 = np.array(b0), np.array(b1), np.array(b2)
    b0[::2], b1[3], b2[4] = -1e3, -1e3, -np.inf
    given = [(W0, b0), (W1, b1), (W2, b2)], x
    found = flat(cpu.mlp_fisher(*given))
    assert_near(found, exact_network(*given), 2e-6)
    assert not found[0][:, ::2].any()
    assert not found[4][:, 4].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z: cpu.linear(z, z[:1]), ValueError, r"linear: D has shape \(1, 3\), expected \(N, O\) = \(2, 3\)"),
        (lambda z: cpu.linear(z.astype(float), z.astype(float)), TypeError, "A is float64, but the compiled"),
        (lambda z: cpu.mlp_fisher([(z.T, z[0, :2])], z, kind="empirical"), TypeError, "labels is NoneType"),
        (
            lambda z: cpu.mlp_fisher([(z.T, z[0])], z),
            ValueError,
            r"layer 0: b has shape \(3,\), expected \(O\) = \(2\)",
        ),
        (lambda z: cpu.mlp_fisher([], z), ValueError, "params is empty"),
        (lambda z: chunked.conv(z[None], z[None, :, :1]), ValueError, r"expected \(N, O, L\) = \(1, 2, 3\)"),
        (lambda z: chunked.batch_norm(z[None], z[None, :1]), ValueError, r"D has shape \(1, 1, 3\)"),
        (lambda z: chunked.label_scores(z, np.array([0, 3])), ValueError, r"expected \(2,\) values in 0\.\.2"),
        (lambda z: chunked.sample_labels(z, np.array([0, 1.0])), ValueError, r"values in \[0, 1\)"),
        (lambda z: chunked.sample_labels(z[:, :0], z[:, 0]), ValueError, "expected at least one class"),
    ],
)
def test_wrong_arguments_give_one_sentence(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3), np.float32))


@pytest.mark.parametrize("inputs", range(1, 40))
def test_a_row_holds_all_that_is_read_of_its_last_panel(inputs):
    last = inputs // cpu_tile.ROWS * cpu_tile.ROWS
    assert cpu_tile.row_stride(inputs) >= last + cpu_tile.PAD
    assert cpu_tile.row_stride(inputs) >= cpu_tile.padded(inputs)
