"""What a GPU's compilers make of the kernels, on a machine that has the compilers and no GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tinymeta.kernels.fisher import cuda as fisher
from tinymeta.kernels.gemm import cuda as gemm
from tinymeta.kernels.lstm import cuda, gpu
from tinymeta.kernels.penalty import cuda as penalty
from tools import nvcc_report

NVCC = nvcc_report.find_nvcc()
NEEDS_NVCC = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


@NEEDS_NVCC
def test_nvcc_compiles_every_kernel_without_spilling_as_recorded():
    rows = nvcc_report.rows(NVCC)
    assert {row["file"] for row in rows} == {str(s.relative_to(nvcc_report.ROOT)) for s in nvcc_report.sources()}
    for row in rows:
        assert (row["spill_stores"], row["spill_loads"]) == (0, 0), row
        assert row["blocks_per_multiprocessor"] >= 1, row
    recorded = json.loads((nvcc_report.RESULTS / "nvcc.json").read_text())
    if recorded["nvcc"] == nvcc_report.version(NVCC):
        assert recorded["rows"] == rows, "bench/results/nvcc.json is out of date: run python -m tools.nvcc_report"


@NEEDS_NVCC
@pytest.mark.parametrize(("hidden", "features", "in_shared"), [((), 2, 2), ((5, 40), 1, 0)])
def test_nvcc_compiles_the_text_that_a_running_program_compiles(tmp_path, hidden, features, in_shared):
    (tmp_path / "kernels.cu").write_text(cuda.source(gpu.Sizes(hidden, features, 0, 0), in_shared))
    compiles(tmp_path)


@NEEDS_NVCC
@pytest.mark.parametrize(("rows", "columns", "dtype"), [(16, 32, np.float32), (64, 64, np.float64)])
def test_nvcc_compiles_products_for_every_dtype(tmp_path, rows, columns, dtype):
    (tmp_path / "kernels.cu").write_text(gemm.source(gemm.Tile(rows, columns), np.dtype(dtype)))
    compiles(tmp_path)


@NEEDS_NVCC
@pytest.mark.parametrize("family", [fisher, penalty], ids=["fisher", "penalty"])
def test_nvcc_compiles_fisher_diagonals_and_penalties_of_float64(tmp_path, family):
    (tmp_path / "kernels.cu").write_text(family.source(np.dtype(np.float64)))
    compiles(tmp_path)


def compiles(folder):
    command = [NVCC, "-std=c++17", "-arch=sm_90", "-ptx", "-o", os.devnull, "kernels.cu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("family", [cuda, gemm, fisher, penalty], ids=["lstm", "gemm", "fisher", "penalty"])
def test_a_block_as_compiled_without_options_fits_any_gpu(family):
    for threads, dynamic in family.tuned().values():
        assert threads in range(32, 1025, 32)
        assert 0 <= dynamic <= 96 << 10


def test_a_report_of_the_assembler_is_read_with_its_spills_and_shared_memory():
    report = """
ptxas info    : Compiling entry function 'one' for 'sm_80'
    144 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 2048 bytes smem, 460 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers
"""
    one = {"registers": 79, "spill_stores": 8, "spill_loads": 12, "static_shared": 2048}
    two = {"registers": 18, "spill_stores": 0, "spill_loads": 0, "static_shared": 0}
    assert nvcc_report.kernels(report) == {"one": one, "two": two}
    with pytest.raises(ValueError, match="registers"):
        nvcc_report.kernels("Compiling entry function 'three' for 'sm_80'")


NUMBA_PROGRAM = """
from types import SimpleNamespace

import numba.cuda.dispatcher
import numpy as np
from numba import boolean, cuda, float32, int64, types

from tinymeta.kernels.fisher import numba_cuda as fisher
from tinymeta.kernels.gemm import numba_cuda as gemm
from tinymeta.kernels.lstm import numba_cuda
from tinymeta.kernels.penalty import numba_cuda as penalty

device = SimpleNamespace(compute_capability=(9, 0))
numba.cuda.dispatcher.get_current_device = lambda: device  # what device functions ask for; a kernel is told
axes = lambda *counts: [types.Array(float32, n, "C") for n in counts]
widths, p = types.Array(int64, 1, "C"), [float32] * 4
signatures = {
    numba_cuda._forward: [widths, *axes(1, 3, 3, 2, 2, 3, 3), boolean, *p],
    numba_cuda._backward: [widths, *axes(1, 3, 2, 2, 3, 2, 2, 4, 3, 3, 3), int64, *p],
    numba_cuda._reduce: axes(2, 1),
    gemm._multiply(np.dtype(np.float32)): axes(3, 3, 3),
    fisher._linear(np.dtype(np.float32)): axes(2, 3, 2),
    fisher._positions(np.dtype(np.float32)): axes(3, 3, 2),
    penalty._gradients: [*axes(1, 1, 1, 1), float32],
    penalty._sgd: [*axes(1, 1, 1, 1, 1), *p[:2]],
    penalty._proximal: [*axes(1, 1, 1, 1, 1), *p[:2]],
    penalty._adam: [*axes(1, 1, 1, 1, 1, 1, 1, 1, 1), *p[:1] * 9],
}
for kernel, signature in signatures.items():
    ptx, _ = cuda.compile_ptx(kernel.py_func, tuple(signature), cc=(9, 0))
    print(kernel.__name__, ".f64" in ptx)
"""


def toolkit():
    """The CUDA toolkit's folder, which Numba must be told of, with its libdevice; None where there is none."""
    folders = [os.environ.get("CUDA_HOME"), "/usr/local/cuda", *([Path(NVCC).resolve().parents[1]] if NVCC else [])]
    return next((str(folder) for folder in folders if folder and (Path(folder) / "nvvm").is_dir()), None)


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.skipif(toolkit() is None, reason="the CUDA toolkit, from which Numba takes libdevice, is not installed")
def test_numba_compiles_its_kernels_for_a_gpu_in_float32_alone():
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_ENABLE_CUDASIM"}
    done = subprocess.run(
        [sys.executable, "-c", NUMBA_PROGRAM],
        env=environment | {"CUDA_HOME": toolkit()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kernels = [
        "_forward",
        "_backward",
        "_reduce",
        "multiply",
        "linear",
        "positions",
        "_gradients",
        "_sgd",
        "_proximal",
        "_adam",
    ]
    assert done.stdout.split() == [word for kernel in kernels for word in (kernel, "False")]
