"""What holds for NumPy's programs and for machine code alike: commented sources, refused errors, and derivatives of every kind."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from compiler.machine_code import assert_close

import tinymeta as tm
from tinymeta import ops
from tinymeta.compiler import numpy_code, replay, tasks
from tinymeta.l2l.network import lstm_cell
from tinymeta.ops import linalg, reduce

BACKENDS = ["numpy", "llvm"]


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch, tmp_path):
    """The backend that programs have; code that is wrong on purpose is kept apart."""
    if request.param == "llvm":
        pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")
        monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
        monkeypatch.setenv("TINYMETA_CACHE", str(tmp_path))
    else:
        monkeypatch.setenv("TINYMETA_BACKEND", "numpy")
    return request.param


def arrays():
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, 2)), rng.normal(size=(4, 3))


def network(w, x):
    hidden = ops.tanh(x @ w)
    scaled = hidden * 2
    total = ops.sum(scaled, axis=0)
    return ops.exp(total)


LINES = {
    "matmul": "hidden = ops.tanh(x @ w)",
    "tanh": "hidden = ops.tanh(x @ w)",
    "multiply": "scaled = hidden * 2",
    "sum": "total = ops.sum(scaled, axis=0)",
    "exp": "return ops.exp(total)",
}


def asked(source, op):
    """What stands behind the op's name and result in the source's comments."""
    comments = [line.rpartition("# ")[2] for line in source.splitlines() if "# " in line]
    return [comment.partition("  ")[2] for comment in comments if comment.startswith(f"{op} ")]


def test_each_line_of_the_source_names_the_users_line(backend):
    compiled, first = tm.compile(network), network.__code__.co_firstlineno
    compiled(*arrays())
    assert compiled.backend == backend
    body = list(dict.fromkeys(LINES.values()))
    for op, text in LINES.items():
        expected = f"test_compile_backends.py:{first + 1 + body.index(text)}: {text}"
        assert asked(compiled.source, op) == [expected], op


def test_a_backward_op_names_the_forward_line(backend):
    compiled = tm.compile(tm.grad(lambda w, x: ops.sum(network(w, x))))
    compiled(*arrays())
    forward = next(line for line in asked(compiled.source, "tanh"))
    assert asked(compiled.source, "subtract") == [forward], "1 - tanh² is of the line with tanh"


def test_source_of_a_vmap_names_lines(backend):
    compiled = tm.compile(tm.vmap(tm.grad(lambda w, x: ops.sum(network(w, x))), (None, 0)))
    w, x = arrays()
    compiled(w, x[:, None])
    for op in ("matmul", "tanh", "subtract"):
        lines = asked(compiled.source, op)
        assert lines
        assert all(line.endswith(LINES["tanh"]) for line in lines)


# ---- a program that is generated wrongly ----


def wrong_elementwise_op(patch, backend):
    if backend == "llvm":
        from tinymeta.compiler import scalars

        patch.setitem(scalars.ROWS, "sigmoid", scalars.ROWS["tanh"])
    else:
        rule = lambda code, op, given, out: [f"np.tanh({given[0]}, out={out})"]
        patch.setitem(numpy_code.OUT, ops.sigmoid.prim, rule)


def sum_for_mean(patch, backend):
    if backend == "llvm":
        original = tasks._summed
        patch.setattr(tasks, "_summed", lambda op: (original(op)[0], 1))  # the rows are tasks here
    else:
        patch.setitem(numpy_code.OUT, reduce._mean, numpy_code._reduction("sum"))


def product_without_sum(patch, backend):
    if backend == "llvm":
        from tinymeta.compiler import products

        patch.setattr(products, "intrinsic", lambda b, name, dtype, width, x, y, total: b.fmul(x, y))
    else:
        rule = lambda code, op, given, out: [f"np.multiply({given[0]}[:, -1:], {given[1]}[-1:], out={out})"]
        patch.setitem(numpy_code.OUT, linalg._matmul, rule)


WRONG = {
    "sigmoid": (wrong_elementwise_op, lambda w, x: ops.sigmoid(w) * 2, "multiply"),
    "mean": (sum_for_mean, lambda w, x: ops.mean(ops.sin(w), axis=0), "mean"),
    "matmul": (product_without_sum, lambda w, x: x @ w, "matmul"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_is_wrong_is_refused_at_the_first_call(backend, what, monkeypatch):
    breaks, f, named = WRONG[what]
    tm.compile(f)(*arrays())
    with monkeypatch.context() as patch:
        breaks(patch, backend)
        if backend == "llvm":
            from tinymeta.compiler import machine

            patch.setattr(machine, "generator", lambda: f"a wrong {what}")  # as its sources would be others
        wrong = tm.compile(f)
        for _ in range(2):
            with pytest.raises(
                ValueError, match=rf"made by {named} at .*test_compile_backends.py.* differs by .*this is a bug"
            ):
                wrong(*arrays())
    assert wrong(*arrays()).shape == f(*arrays()).shape, "it is compiled anew, and rightly"


# ---- checkpoints and kernel ops ----


@pytest.mark.parametrize("order", [1, 2])
def test_checkpoints(backend, order):
    w, x = arrays()
    plain = lambda w: ops.sum(network(w, x) ** 2)
    saved = tm.checkpoint(plain)
    of = tm.grad if order == 1 else lambda f: lambda w: tm.hvp(f, w, w)
    compiled = tm.compile(of(saved))
    for scale in (1, 0.5):
        assert_close(compiled(scale * w), of(plain)(scale * w), factor=1e3)
    assert compiled.backend == backend, compiled.why_not_compiled


@pytest.mark.parametrize("order", [0, 1, 2])
def test_kernel_ops_run_on_numpy_and_their_compositions_as_machine_code(backend, order):
    """A kernel op has no loops: the whole program says so. Inside a vmap it is its composition, which has."""
    rng = np.random.default_rng(1)
    x, h, c, w, b = (rng.normal(size=s) for s in ((4, 2), (4, 3), (4, 3), (5, 12), (12,)))

    def loss(w, x):
        new_h, new_c = tm.checkpoint(lstm_cell)(x, h, c, w, b)
        return ops.sum(ops.sin(new_h)) + ops.sum(new_c**2)

    f = [loss, tm.grad(loss), lambda w, x: tm.hvp(lambda w: loss(w, x), w, w)][order]
    compiled, each = tm.compile(f), tm.compile(tm.vmap(f, (None, 0)))
    several = np.stack([x, 2 * x, -x])
    for scale in (1, 0.5):
        assert_close(compiled(scale * w, x), f(scale * w, x), factor=1e3)
        assert_close(each(scale * w, several), np.stack([f(scale * w, own) for own in several]), factor=1e3)
    assert compiled.backend == "numpy"
    assert each.backend == backend, each.why_not_compiled
    if backend == "llvm":
        assert "there are no loops for lstm" in compiled.why_not_compiled
        assert f"at {__file__}:" in compiled.why_not_compiled


HELD = """
import numpy as np
from pathlib import Path
from tinymeta.compiler import replay

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1e3

blocks = [np.ones(12_000) for _ in range(600)]  # each too small for memory of its own
last, before = blocks[-1], held()
del blocks
freed = held()
replay._trim()
print(before - freed, freed - held())
"""


def test_a_first_call_gives_memory_back_to_the_system(backend, monkeypatch):
    trimmed = []
    monkeypatch.setattr(replay, "_trim", lambda: trimmed.append(1))
    f = tm.compile(network)
    for _ in range(3):
        f(*arrays())
    assert len(trimmed) == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps what was freed")
def test_what_was_freed_below_a_block_in_use_is_given_back():
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", HELD], check=True, capture_output=True, text=True, env=environment)
    kept_by_python, given_back = map(float, done.stdout.split())
    assert kept_by_python < 10
    assert given_back > 40


def test_an_argument_without_axes_comes_back_as_it_is(backend):
    compiled = tm.compile(lambda x, s: (x * s, s))
    for s in (np.float64(2.0), np.asarray(3.0), np.float64(4.0)):
        product, same = compiled(np.ones(3), s)
        np.testing.assert_array_equal(product, np.full(3, s))
        assert (same, np.shape(same)) == (s, ())
    assert compiled.backend == backend


@pytest.mark.parametrize("kind", [np.float64, np.float32, int])
def test_a_closed_over_array_without_axes_is_read_in_each_call(backend, kind):
    factor, x = np.array(2, kind), np.arange(3.0)
    compiled = tm.compile(lambda x: (x * factor, np.stack([x[0], factor]), factor, np.sum(x) * factor))
    for number in (2, 5, 1, 0):
        factor[...] = number
        for found, expected in zip(compiled(x), (x * number, [0, number], number, 3 * number), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert compiled.backend == backend
    (constant,) = compiled.constants
    assert constant.array is factor


def test_numbers_that_f_makes_are_no_constants(backend):
    compiled = tm.compile(lambda x: x[:, None] * np.asarray(0.5) + np.ones(()) * x[None] * np.asarray(np.nan))
    compiled(np.arange(3.0))
    assert compiled.backend == backend
    assert compiled.constants == []


def test_a_closed_over_index_of_each_task_is_read_in_each_call(backend):
    x, labels = np.random.default_rng(0).normal(size=(4, 4)), np.array([3, 0, 1, 1])
    index = np.arange(4)
    compiled = tm.compile(lambda x, labels: ops.tanh(x)[index, labels])
    for _ in range(2):
        np.testing.assert_allclose(compiled(x, labels), np.tanh(x)[index, labels])
        index[:] = index[::-1].copy()
    assert compiled.backend == backend
    own = tm.compile(lambda x, labels: ops.tanh(x)[np.arange(4), labels])
    np.testing.assert_allclose(own(x, labels), np.tanh(x)[np.arange(4), labels])
