"""Machine code on disk: between processes, and never where the program, the compiler or the processor is another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiler.machine_code import numbers
from hypothesis import given
from hypothesis import strategies as st

import tinymeta as tm
from tinymeta import ops
from tinymeta.check import strategies

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")
pytestmark = pytest.mark.usefixtures("machine_code")

PROGRAM = """
import sys, numpy as np, tinymeta as tm
from tinymeta.compiler import machine
written, Machine = [], machine.Machine
machine.Machine = lambda *given: written.append(given) or Machine(*given)
f = tm.compile(lambda x: tm.ops.sin(x) * 2)
print(f(np.arange(3.0)).tolist(), f.backend, len(written))
assert "numba" not in sys.modules, "it takes a while to load, and a small program needs no threads"
print(f.source)
"""


def run_with(cache, **more):
    """(the numbers and the backend, how often code was written, the source)."""
    environment = (
        {k: v for k, v in os.environ.items() if k != "TINYMETA_BACKEND"} | {"TINYMETA_CACHE": str(cache)} | more
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True
    )
    first, _, source = done.stdout.partition("\n")
    found, _, written = first.rpartition(" ")
    return found, int(written), source


def test_a_second_process_writes_no_code_and_a_damaged_file_is_made_anew(tmp_path):
    found, written, source = run_with(tmp_path)
    assert found.endswith("llvm")
    assert written == 1
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    assert run_with(tmp_path) == (found, 0, source)
    for damaged in (content[:-7], b"", content[:40] + bytes([content[40] ^ 1]) + content[41:]):
        file.write_bytes(damaged)
        assert run_with(tmp_path) == (found, 1, source)
        assert file.read_bytes() == content


@pytest.fixture
def written(monkeypatch, tmp_path):
    """The programs that code was written for, of an empty folder."""
    from tinymeta.compiler import machine

    programs, original = [], machine.Machine
    monkeypatch.setenv("TINYMETA_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "Machine", lambda *given: programs.append(given[0]) or original(*given))
    return programs


def compiled(f, *args):
    """The first call of f, whose numbers are those of eager execution."""
    program = tm.compile(f)
    tm.trees.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), program(*args), f(*args))
    assert program.backend == "llvm"
    return program


def test_another_program_is_another_file(written):
    x, y = numbers(np.random.default_rng(0), 2, 6, 4)
    half, n = x[:3], np.float64(0.5)
    programs = [
        (lambda x, y: ops.sum(ops.sin(x) * y, axis=1), x, y), (lambda x, y: ops.sum(ops.cos(x) * y, axis=1), x, y),
        (lambda x, y: ops.sum(ops.sin(x) * y, axis=0), x, y), (lambda x, y: ops.max(ops.sin(x) * y, axis=1), x, y),
        (lambda x, y: ops.sum(ops.sin(y) * x, axis=1), x, y), (lambda x, y: ops.sum(ops.sin(x) * x, axis=1), x, y),
        (lambda x, y: ops.sum(ops.sin(x) * y, axis=1), half, y[:3]), (lambda x, y: ops.sum(ops.sin(x) * y, axis=1), x, y[:1]),
        (lambda x, y: ops.sum(ops.sin(x) * y, axis=1), np.float32(x), y),
        (lambda x, y: x * 0.5, x, y), (lambda x, y: x * 0.25, x, y),
        (lambda x, y: x * n, np.float32(x), y), (lambda x, y: x * 0.5, np.float32(x), y),
        (lambda x, y: (x + y, x - y), x, y), (lambda x, y: (x - y, x + y), x, y), (lambda x, y: (x + y, x), x, y),
        (lambda x, y: x[:, 1:] + 1, x, y), (lambda x, y: x[:, :-1] + 1, x, y), (lambda x, y: ops.where(x > 0, x, 1.0), x, y),
        (lambda x, y: ops.where(x > 0, x, -1.0), x, y), (lambda x, y: ops.where(x > 0, x, 1.0), np.float32(x), y),
    ]  # fmt: skip
    for count, (f, *args) in enumerate(programs, 1):
        compiled(f, *args)
        assert len(written) == count
    for f, *args in programs:
        compiled(f, *args)
    assert len(written) == len(programs), "each is found again"


@given(programs=st.tuples(strategies.compositions(), strategies.compositions()), order=st.integers(0, 1))
def test_random_programs_of_one_text_have_one_code(programs, order):
    from tinymeta.compiler import capture, cleanup, identity, llvm_code, statements

    def of(f):
        f = tm.value_and_grad(f) if order else f
        program = cleanup.clean(capture.capture(f, (np.linspace(-1, 1, 9).reshape(3, 3),), {})[0])
        try:
            code = str(llvm_code.Machine(program, 32).module)
        except statements.Unsupported as op:
            code = str(op)
        return identity.text_of(program), code

    (p, code), (q, other) = map(of, programs)
    assert of(programs[0]) == (p, code)
    assert p != q or code == other


def test_no_two_primitives_are_written_alike():
    from tinymeta.compiler import graph, identity, loops, tasks
    from tinymeta.engine.batched import RULES
    from tinymeta.engine.tensor import Prim
    from tinymeta.ops.table import UFUNCS

    known = {*RULES, *loops.STATEMENTS, *tasks.RULES, *(f.prim for f in UFUNCS.values() if hasattr(f, "prim"))}
    prims = [p for p in known if type(p) is Prim]
    assert len(prims) > 60
    assert len({identity._prim(graph.Op(p, (), {})) for p in prims}) == len(prims)


def test_arrays_by_closure_are_read_and_the_functions_own_indices_are_part_of_the_program(written):
    rng = np.random.default_rng(1)
    x = numbers(rng, 4, 5)
    for w in numbers(rng, 3, 5, 2):
        compiled(lambda x: ops.tanh(x @ w), x)  # noqa: B023
    assert len(written) == 1
    columns = np.array([4, 0, 2, 2])
    for rows in (np.arange(4), np.array([1, 0, 3, 2])):
        compiled(lambda x: ops.sin(x[rows, columns]), x)  # noqa: B023
        assert len(written) == 2
    for count, rows in enumerate(([0, 1, 2, 3], [1, 0, 3, 2]), 3):
        compiled(lambda x: ops.sin(x[np.array(rows), columns]), x)  # noqa: B023
        assert len(written) == count


def test_an_index_out_of_range_is_named_with_the_line_of_this_function(written):
    x, good = numbers(np.random.default_rng(2), 3, 4), np.array([[0], [3], [-4]])
    first = compiled(lambda x, i: ops.take_along_axis(ops.sin(x), i, 1), x, good)
    second = compiled(lambda x, i: ops.take_along_axis(ops.sin(x), i, 1), x, good)
    assert len(written) == 1
    for program in (first, second):
        here = program.__wrapped__.__code__.co_firstlineno
        with pytest.raises(IndexError, match=rf"getitem at .*:{here}: an index is out of range for float64\[4\]"):
            program(x, good + 7)


def _read(x, i):
    return ops.take_along_axis(ops.sin(x), i, 1)


def test_an_index_out_of_range_is_named_with_its_own_line_in_code_of_another_function(written):
    x, good = numbers(np.random.default_rng(2), 3, 4), np.array([[0], [3], [-4]])

    def on_two_lines(x, i, j):
        first = ops.take_along_axis(ops.sin(x), i, 1)
        return first + ops.take_along_axis(ops.sin(x), j, 1)

    compiled(lambda x, i, j: _read(x, i) + _read(x, j), x, good, good)
    program = compiled(on_two_lines, x, good, good)
    assert len(written) == 1
    for line, indices in enumerate(((good + 7, good), (good, good + 7)), on_two_lines.__code__.co_firstlineno + 1):
        with pytest.raises(IndexError, match=rf"getitem at .*:{line}: an index is out of range"):
            program(x, *indices)


def test_another_compiler_or_processor_is_another_file(written, monkeypatch):
    from tinymeta.compiler import machine

    f, x = lambda x: ops.sin(x) * 3, np.arange(5.0)
    compiled(f, x)
    compiled(f, x)
    assert len(written) == 1
    for count, (of, name, other) in enumerate(
        [
            (machine, "generator", "other"),
            (machine, "vector_bytes", 16),
            (machine.llvm, "get_host_cpu_name", "generic"),
        ],
        2,
    ):
        monkeypatch.setattr(of, name, lambda other=other: other)
        compiled(f, x)
        assert len(written) == count


def test_every_source_that_makes_code_counts(monkeypatch, tmp_path):
    from tinymeta.compiler import identity

    ours = identity.generator.__wrapped__
    before, package = ours(), Path(tm.__file__).parent
    for room in ("compiler", "ops", "engine"):
        shutil.copytree(package / room, tmp_path / room)
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "compiler/identity.py"))
    assert ours() == before
    for file in ("compiler/nests.py", "ops/conv.py", "engine/structural.py"):
        with (tmp_path / file).open("a") as text:
            text.write("#")
        before, changed = ours(), before
        assert before != changed


def test_a_program_that_has_no_text_is_compiled_in_each_process(written, monkeypatch, tmp_path):
    from tinymeta.compiler import capture, identity, machine

    program = capture.capture(lambda x: ops.sum(x, axis=0), (np.ones((2, 3)),), {})[0]
    assert identity.text_of(program) is not None
    program.ops[0].params["axis"] = object()
    assert identity.text_of(program) is None
    monkeypatch.setattr(machine, "text_of", lambda program: None)
    for count in (1, 2):
        compiled(ops.sin, np.arange(3.0))
        assert len(written) == count
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run_with(blocked / "below")[0].endswith("llvm")


def test_old_files_go(tmp_path, monkeypatch):
    from tinymeta.compiler import cache

    monkeypatch.setenv("TINYMETA_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "KEPT", 2)
    for k in range(4):
        assert cache.cached(f"text {k}", lambda k=k: bytes([k])) == bytes([k])
        os.utime(next(p for p in tmp_path.glob("*.o") if p.read_bytes()[32:] == bytes([k])), (k, k))
    assert {p.read_bytes()[32] for p in tmp_path.glob("*.o")} == {2, 3}
    assert cache.cached("text 3", lambda: b"never") == b"\x03"


def test_a_write_that_fails_leaves_nothing_behind(written, monkeypatch):
    from tinymeta.compiler import cache

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(cache.os, "replace", full)
    for _ in range(2):
        compiled(ops.sin, np.arange(3.0))
    assert len(written) == 2
    assert list(cache.folder().iterdir()) == []


def test_a_user_without_a_home_has_no_cache(written, monkeypatch):
    from tinymeta.compiler import cache

    def none():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TINYMETA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", none)
    for _ in range(2):
        compiled(ops.sin, np.arange(3.0))
    assert len(written) == 2
