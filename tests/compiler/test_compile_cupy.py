"""Programs for CuPy, run without a GPU: the kernels' own text is compiled for this machine and works on Ducks, which take no other
library's arrays; it gives what eager execution gives.
"""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from duck import Duck
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels_gpu.cuda_on_host import COMPILED, ElementwiseKernel, folder_of_programs

import tinymeta as tm
from tinymeta import maml, nets, ops, optim
from tinymeta.check import strategies
from tinymeta.compiler import cuda_scalars, cupy_code
from tinymeta.compiler.statements import Loop
from tinymeta.compiler.verify import verify
from tools import nvcc_report

pytestmark = COMPILED
FLOATS = (np.float32, np.float64)
EXTREME = [0, -0.0, 1e-30, -1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.5, -0.5, 1, -1, 2, -3, 2.5, 30, -30]
ONE_GPU = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def gpu(monkeypatch, tmp_path_factory):
    """A CuPy whose arrays are Ducks; `gpu.kernels` are the kernels of the test, in the order in which they were made."""
    kernels, folder = [], folder_of_programs(tmp_path_factory)

    def make(*arguments, **options):
        kernels.append(ElementwiseKernel(folder, Duck, *arguments, **options))
        return kernels[-1]

    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(ndarray=Duck, ElementwiseKernel=make))
    cupy_code.kernel.cache_clear()
    yield SimpleNamespace(kernels=kernels)
    cupy_code.kernel.cache_clear()


def on_device(tree):
    return tm.trees.map(lambda x: Duck(x) if isinstance(x, np.ndarray) else x, tree)


def assert_close(found, expected, factor=64.0, eps=0.0):
    """Within so many units in the last place of the largest number of each array, or `eps` times it if that is more."""

    def close(a, b):
        assert type(a) is Duck
        assert (a.shape, a.dtype) == (np.shape(b), b.dtype)
        if b.dtype.kind != "f":
            np.testing.assert_array_equal(a.inner, b)
            return
        scale = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        np.testing.assert_allclose(a.inner, b, rtol=0, atol=factor * max(np.finfo(b.dtype).eps, eps) * scale)

    tm.trees.map(close, found, expected)


def check(f, *args, factor=64.0):
    """f compiled for the GPU, by the numbers of its first call and of a replay, to the precision of its arguments."""
    compiled, expected = tm.compile(f), f(*args)
    eps = max(
        (np.finfo(np.asarray(x).dtype).eps for x in tm.trees.leaves(args) if np.asarray(x).dtype.kind == "f"),
        default=0.0,
    )
    for _ in range(2):
        assert_close(compiled(*on_device(args)), expected, factor, eps)
    assert compiled.backend == "cuda"
    return compiled


def statements(compiled):
    """How many kernels the program launches, and the names of the ops that it runs on their own."""
    loops = [s for s in compiled._last().code.statements if isinstance(s, Loop)]
    return len(loops), [s.prim.name for s in compiled._last().code.statements if not isinstance(s, Loop)]


# ---- the table ----


def rows(kind, inputs):
    """The ops of the table that are computed in this kind of dtype, by name, as NumPy or tinymeta has them."""
    names = [name for name, (kinds, _) in cuda_scalars.ROWS.items() if kind in kinds]
    found = {name: getattr(np, name, None) or getattr(ops, name) for name in names}
    return {name: f for name, f in found.items() if getattr(f, "nin", 1) == inputs}


def test_the_rows_are_all_tested():
    tested = {name for kind in "fib" for inputs in (1, 2) for name in rows(kind, inputs)}
    assert tested == set(cuda_scalars.ROWS)


def check_rows(kind, values):
    x = np.array(values)
    for inputs, xs in ((1, (x,)), (2, (x[:, None], x[None]))):
        table = rows(kind, inputs)
        with np.errstate(all="ignore"):
            every = lambda *xs, table=table: {name: f(*xs) for name, f in table.items()}
            compiled, expected = tm.compile(every), every(*xs)
            found = [compiled(*on_device(xs)) for _ in range(2)][-1]
        assert statements(compiled) == (1, [])
        for name in table:
            a, b = found[name].inner, expected[name]
            assert a.dtype == b.dtype, name
            rounding = 8 * np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0
            np.testing.assert_allclose(a, b, rtol=rounding, err_msg=name)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_row_of_floats_at_extreme_values(gpu, dtype):
    check_rows("f", np.array(EXTREME, dtype))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_every_row_of_integers_overflows_as_numpys_does(gpu, dtype):
    bounds = np.iinfo(dtype)
    check_rows("i", np.array([bounds.min, bounds.min + 1, -7, -1, 0, 1, 7, bounds.max // 2, bounds.max], dtype))


def test_every_row_of_masks(gpu):
    check_rows("b", [False, True])


@pytest.mark.parametrize("dtype", FLOATS)
def test_dtypes_meet_as_in_numpy(gpu, dtype):
    rng = np.random.default_rng(0)
    x, i = rng.normal(size=(3, 4)).astype(dtype), rng.integers(-3, 3, size=4)

    def f(x, i):
        i = i + ops.astype(0 * x, np.float32).astype(bool)
        mask = (x > 0) & (i < 1) | (i == 2)
        narrow, wide = ops.astype(x, np.float32), ops.astype(ops.astype(x, np.float64) + i, dtype)
        chosen = ops.where(mask, x, i) + ops.where(x, mask, 2 * mask), ops.where(i, -1, x)
        integers = i * i - 5, i / 2, i > 0.5, ops.astype(i, np.int32) + mask
        return mask, x * mask, x + i, narrow * 3, wide, chosen, integers

    assert statements(check(f, x, i)) == (1, [])


@pytest.mark.parametrize("dtype", FLOATS)
def test_numbers_are_written_to_the_last_bit(gpu, dtype):
    x = np.linspace(-2, 2, 9).astype(dtype)
    with np.errstate(over="ignore"):
        check(lambda x: (x * 0.1 + 1e-30, x - np.float64(1) / 3, ops.where(x > 0, -np.inf, x), x > -np.inf, -0.0 * x,
                         ops.where(x < 1, x, np.nan), ops.maximum(-7, x) * 1e10, x * 16777217, 3 - x), x, factor=0)  # fmt: skip


UNARY = [ops.tanh, ops.sin, ops.sigmoid, ops.softplus, ops.relu, ops.abs, lambda x: -x, lambda x: 0.5 * x]
BINARY = [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, ops.maximum, ops.minimum, ops.logaddexp,
          lambda x, y: ops.where(x > y, ops.cos(x), y), lambda x, y: x / (1 + y * y)]  # fmt: skip
TOWERS = st.recursive(
    st.sampled_from([("leaf", k) for k in range(4)] + [("leaf", 0.3)]),
    lambda below: st.one_of(
        st.tuples(st.just("unary"), st.sampled_from(UNARY), below),
        st.tuples(st.just("binary"), st.sampled_from(BINARY), below, below),
    ),
    max_leaves=12,
)


def evaluate(tower, leaves):
    kind, what, *below = tower
    if kind == "leaf":
        return leaves[what] if isinstance(what, int) else what
    given = [evaluate(t, leaves) for t in below]
    number = all(isinstance(x, float) for x in given)  # what is made of numbers alone is no array of any library
    return float(what(*given)) if number else what(*given)


@ONE_GPU
@given(TOWERS, st.sampled_from(FLOATS), st.tuples(st.integers(0, 4), st.integers(1, 5)), st.integers(0, 99))
def test_towers_of_ops_that_broadcast(gpu, tower, dtype, sizes, seed):
    (m, n), rng = sizes, np.random.default_rng(seed)
    leaves = [rng.normal(size=shape).astype(dtype) for shape in ((m, n), (m, 1), (n,), (2, 1, n))]
    compiled = check(lambda *xs: ops.tanh(evaluate(tower, xs) * xs[3]) + xs[0], *leaves, factor=2000)
    assert statements(compiled)[0] > 0


@settings(ONE_GPU, max_examples=10)
@given(program=strategies.compositions(), seed=st.integers(0, 2**32 - 1), order=st.integers(0, 2))
def test_random_programs_and_their_derivatives(gpu, program, seed, order):
    x, v = np.random.default_rng(seed).normal(size=(2, 3, 3))
    f = [lambda x, v: program(x), lambda x, v: tm.value_and_grad(program)(x), lambda x, v: tm.hvp(program, x, v)][order]
    check(f, x, v, factor=1e5)


# ---- whole programs ----


def mse(params, data):
    x, y = data
    return ops.mean(ops.square(nets.mlp(params, x, ops.tanh) - y), axis=(-2, -1))


def problem(dtype, tasks=3):
    rng = np.random.default_rng(1)
    params = nets.init_mlp(rng, (1, 9, 5, 1), dtype=dtype)
    x, y, u, v = rng.normal(size=(4, tasks, 6, 1)).astype(dtype)
    return params, (x, y), (u, v)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_networks_gradient_and_hessian_vector_product(gpu, dtype):
    params, (x, y), _ = problem(dtype, 1)
    loss = lambda p, x, y: ops.mean(mse(p, (x, y)))
    compiled = check(tm.grad(loss), params, x, y, factor=1e3)
    launched, alone = statements(compiled)
    assert launched
    assert not set(alone) & set(cuda_scalars.ROWS) - {"add", "multiply"}, "lone ufuncs have CuPy's own kernels"
    check(lambda p, x, y: tm.hvp(lambda p: loss(p, x, y), p, p), params, x, y, factor=1e4)


def test_a_conv_nets_convolutions_and_indices_are_left_to_the_library(gpu):
    rng = np.random.default_rng(3)
    loss = lambda p, x, labels: ops.mean(ops.softmax_cross_entropy(nets.conv4(p, x), labels))
    params, x = nets.init_conv4(rng, 3, filters=3, dtype=np.float64), rng.normal(size=(6, 1, 8, 8))
    launched, alone = statements(check(tm.grad(loss), params, x, np.tile(np.arange(3), 2), factor=1e4))
    assert launched > 10
    assert {"correlate", "spread", "match", "getitem", "put"} <= set(alone)


@pytest.mark.parametrize("on_host", [False, True], ids=["on the device", "on the host"])
def test_a_meta_step_with_adam_whose_count_lies(gpu, on_host):
    params, support, query = problem(np.float32)
    adam = optim.adam(1e-2)

    def step(params, state, support, query):
        value, gradient = tm.value_and_grad(lambda p: maml.meta_loss(mse, p, support, query, 0.1, 2))(params)
        updates, state = adam.update(gradient, state)
        return optim.apply_updates(params, updates), state, value

    compiled = tm.compile(step)
    state = adam.init(params)._replace(step=np.asarray(0))
    given, there = (params, state), on_device((params, state))
    if on_host:
        there = (there[0], there[1]._replace(step=np.int64(0)))
    for _ in range(3):
        *given, value = step(*given, support, query)
        *there, found = compiled(*there, *on_device((support, query)))
        assert_close((there[0], found), (given[0], value), 2000)
        assert there[1].step == given[1].step
        assert isinstance(there[1].step, np.generic if on_host else Duck)
    assert len(compiled._programs) == 1


def test_equal_clusters_share_a_kernel_in_a_program_and_in_the_process(gpu):
    params, support, query = problem(np.float32)
    f = lambda steps: tm.compile(lambda p, s, q: tm.grad(lambda p: maml.meta_loss(mse, p, s, q, 0.1, steps))(p))
    five, six = f(5), f(6)
    five(*on_device((params, support, query)))
    known = len(gpu.kernels)
    assert statements(five)[0] > 2 * known
    assert five.source.count(" = kernel(") == known
    six(*on_device((params, support, query)))
    assert statements(six)[0] > statements(five)[0]
    assert len(gpu.kernels) <= known + 2


def test_the_source_names_ops_and_lines_and_deletes_what_is_read_no_more(gpu):
    compiled = check(lambda x, y: ops.sum(ops.tanh(x @ y) * 2, axis=0), np.ones((2, 3)), np.ones((3, 4)))
    lines = compiled.source.splitlines()
    assert lines[0] == "fused0 = kernel('tm_tanh_multiply', 'float64 v0', 'float64 y0',"
    assert lines[1].startswith("    'const double v1 = tanh(v0);'")
    assert "# tanh float64[2,4]  test_compile_cupy.py:" in lines[1]
    assert [line.partition("  #")[0].strip() for line in lines[-7:]] == [
        "def replay(a0, a1):", "t0 = np.matmul(a0, a1)", "t2 = fused0(t0)", "del t0",
        "t3 = np.sum(t2, axis=0, keepdims=False)", "del t2", "return (t3, )",
    ]  # fmt: skip


def test_results_are_fresh(gpu):
    x = Duck(np.arange(6.0).reshape(2, 3))
    compiled = tm.compile(lambda x: (x, x.T, ops.sin(x) * 2, (ops.sin(x) * 2).T))
    for _ in range(2):
        for k, result in enumerate(compiled(x)):
            for other in (x, *compiled(x)[:k]):
                assert not np.shares_memory(result.inner, other.inner)
    first = compiled(x)
    assert not np.shares_memory(first[2].inner, first[3].inner)


# ---- what is not fused, and what is refused ----


def test_an_op_without_an_expression_runs_on_its_own(gpu):
    x, i = np.linspace(-2, 2, 5), np.arange(5)
    for alone, f, xs in (
        ("floor_divide", lambda x, y: np.floor_divide(x, y + 1) * 2, (x, x * x)),
        ("astype", lambda x, i: ops.astype(x * 2, np.int64) + i, (x, i)),
        ("multiply", lambda x, i: ops.sin(x) * (2 * i), (x, i.astype(np.uint8))),
        ("absolute", lambda x, i: np.abs(i) + 2 * i, (x, i)),
        ("add", lambda x, i: i + np.iinfo(np.int64).min, (x, i)),
    ):
        compiled = check(f, *xs)
        assert alone in statements(compiled)[1], alone
    compiled = check(lambda x: ops.tanh(x * 2) + 1, x.astype(np.float16))
    assert statements(compiled) == (0, ["multiply", "tanh", "add"])


def test_a_kernel_takes_no_more_arrays_than_every_gpu_allows(gpu):
    xs = np.random.default_rng(2).normal(size=(70, 1, 2, 1, 2, 1, 2))

    def f(*xs):
        total = xs[0]
        for x in xs[1:]:
            total = ops.tanh(total) * x
        return total

    launched, alone = statements(check(f, *xs))
    assert launched > 2, "the stand-in asserts the limit"
    assert alone == []


def test_the_backend_numpy_fuses_nothing(gpu):
    with tm.backend("numpy"):
        compiled = check(lambda x: ops.tanh(x) * 2, np.ones(3))
    assert compiled.source.startswith("def build(buffer):")
    assert not gpu.kernels


def test_empty_arrays(gpu):
    check(lambda x: (ops.tanh(x) * 2, ops.sum(ops.tanh(x) * 2, axis=0)), np.zeros((0, 3)))


def test_a_wrong_kernel_is_found_at_the_first_call(gpu, monkeypatch):
    monkeypatch.setitem(cuda_scalars.ROWS, "tanh", ("f", "sin({0})"))
    with pytest.raises(ValueError, match=r"made by multiply at .* between the compiled program and eager execution"):
        tm.compile(lambda x: ops.tanh(x) * 2)(Duck(np.ones(3)))


def test_rounding_is_told_from_errors_on_the_device_too(gpu):
    """A result that last bits of the arguments move as far is no error."""
    f = lambda x: ops.where(x > 1, 1.0, 2.0)
    x = Duck(np.ones(64))
    assert verify(f, lambda args, kwargs: f(args[0] + 3e-16), x, f(x), (x,), {})[1] == 0.5
    with pytest.raises(ValueError, match="differs by"):
        verify(f, lambda args, kwargs: f(args[0]) - 20, x, f(x), (x,), {})


@pytest.mark.skipif(nvcc_report.find_nvcc() is None, reason="nvcc is not installed")
def test_nvcc_compiles_every_row(gpu, tmp_path):
    for dtype in (*FLOATS, np.int32, np.int64, bool):
        check_rows(np.dtype(dtype).kind, np.ones(2, dtype))
    for k, made in enumerate(gpu.kernels):
        (tmp_path / f"{k}.cu").write_text(made.text)
    command = [nvcc_report.find_nvcc(), "-std=c++17", "-arch=sm_90", "-ptx", *sorted(tmp_path.glob("*.cu"))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
