"""The checks that every kernel family makes on its arrays."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from tinymeta import kernels
from tinymeta.kernels import agree, one_dtype


def test_agree_returns_the_sizes_of_named_axes():
    x, W = np.zeros((3, 2)), np.zeros((7, 20))
    assert agree("op", x=(x, "n d"), h=(np.zeros((3, 5)), "n H"), W=(W, "d+H 4H")) == {"n": 3, "d": 2, "H": 5}
    assert agree("op", x=(x, "n 2"), scalar=(np.float64(1), "")) == {"n": 3}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"A": (np.zeros((2, 3)), "N I"), "D": (np.zeros((4, 3)), "N O")},
            r"D has shape .* expected \(N, O\) = \(2, 3\), where A is",
        ),
        ({"A": (np.zeros(2), "N I")}, r"A has shape \(2,\), expected \(N, I\)"),
        ({"A": (np.zeros((2, 3)), "N 2")}, r"expected \(N, 2\)"),
        ({"A": (np.zeros((2, 3)), "n n")}, r"expected \(n, n\)"),
        ({"A": (np.zeros(2), "n"), "W": (np.zeros(9), "4n")}, r"W has shape \(9,\), expected \(4n\) = \(8\)"),
    ],
)
def test_agree_refuses_a_shape_in_one_sentence(arrays, message):
    with pytest.raises(ValueError, match="op: .*" + message):
        agree("op", **arrays)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([1.0], "B is of type list, expected an array"),
        (np.zeros(2, int), "B is int64 of shape .* expected floats"),
        (np.zeros(2, complex), "B is complex128"),
        (np.zeros(2, np.float32), "B is float32 but A is float64"),
    ],
)
def test_one_dtype_refuses_what_is_not_the_same_float_dtype(array, message):
    with pytest.raises(TypeError, match="op: " + message):
        one_dtype("op", A=np.zeros(2), B=array)


def test_families_load_on_first_use_and_bring_numpy_alone():
    program = (
        "import sys, tinymeta.kernels as k; before = set(sys.modules)\n"
        "assert not any(name.startswith('tinymeta.kernels.') for name in before)\n"
        "k.lstm.step, k.fisher.linear, k.penalty.fold, k.gemm.matmul\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "assert new <= {'numpy', 'tinymeta'}, new"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no 'conv3d'"):
        _ = kernels.conv3d


@pytest.mark.parametrize("family", ["lstm", "fisher", "penalty", "gemm"])
def test_a_family_exports_what_it_names_and_describes_it(family):
    module = importlib.import_module(f"tinymeta.kernels.{family}")
    assert all(getattr(module, name).__doc__ for name in module.__all__)
    assert "Errors:" in module.__doc__
    assert "Values" in module.__doc__


def test_a_family_loads_by_name_and_one_that_there_is_not_is_refused_with_those_there_are():
    assert kernels.__getattr__("lstm") is importlib.import_module("tinymeta.kernels.lstm")
    with pytest.raises(AttributeError, match=r"kernels has no 'conv', expected one of .*lstm"):
        kernels.conv  # noqa: B018


def test_without_numba_the_cpu_kernels_say_how_to_install_it(monkeypatch):
    simd = pytest.importorskip("tinymeta.kernels.simd")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match=r"need numba, which is not installed; pip install 'tinymeta\[fast\]'"):
        simd.__spec__.loader.exec_module(importlib.util.module_from_spec(simd.__spec__))
