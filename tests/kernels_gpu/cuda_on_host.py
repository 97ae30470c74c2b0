"""A stand-in for CuPy that runs CUDA C on this machine: NumPy arrays, and a RawModule compiled by g++ (kernels/shim).

Its ElementwiseKernel takes and makes arrays of any class that holds a NumPy array as `inner`; they must be that class's alone.

What a kernel reads and writes goes to a program of its own and back, so that the program may run under sanitizers.
"""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
ON_GPU = os.environ.get("TINYMETA_TEST_GPU") == "1"  # `make gpu`: both twins run on a GPU, and nothing stands in for it
COMPILED = pytest.mark.skipif(not ON_GPU and shutil.which("g++") is None, reason="g++ is not installed")
ON_HOST = pytest.mark.skipif(ON_GPU or shutil.which("g++") is None, reason="for this machine's compiler and sanitizers")
HERE = Path(__file__).resolve().parent
SHIM = HERE.parents[1] / "kernels" / "shim"
SANITIZED = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
GPU = {  # a small one: several tiles for each block of threads
    "MaxSharedMemoryPerBlockOptin": 227 << 10,
    "MaxSharedMemoryPerMultiprocessor": 228 << 10,
    "MaxThreadsPerMultiProcessor": 256,
    "MaxRegistersPerMultiprocessor": 65536,
    "MultiProcessorCount": 2,
}
C = {"float32": "float", "float64": "double", "int32": "int", "int64": "long long", "bool": "bool"}


class KernelError(Exception):
    """A launch that the shim or a sanitizer ended, and what it said."""


def twins_of(cuda, **smaller):
    """The fixtures and the test that each family's file needs: on_host, twin, test_the_other_twin_in_the_simulator.

    `on_host(**options)` puts the family's module `cuda` on a GPU that is this machine, with the options of `fake_cupy`; or, under
    `make gpu`, gives it arrays on a GPU (`on_gpu.Twin`). `twin` is that module, then numba_cuda with these `smaller` constants,
    since the simulator takes a millisecond for each thread.
    """
    package, _, _ = cuda.__name__.rpartition(".")
    family = package.rpartition(".")[2]

    @pytest.fixture
    def on_host(monkeypatch, tmp_path_factory):
        def install(**options):
            if ON_GPU:
                from kernels_gpu.on_gpu import Twin

                assert not options, "a test of what stands in for a GPU, expected to be marked ON_HOST"
                return Twin(cuda)
            _forget(cuda)
            stand_in = fake_cupy(folder_of_programs(tmp_path_factory), HERE / f"{family}_on_host.cpp", **options)
            monkeypatch.setitem(sys.modules, "cupy", stand_in)
            return cuda

        yield install
        if not ON_GPU:
            _forget(cuda)

    @pytest.fixture(params=[pytest.param("cuda", marks=COMPILED), *(["numba_cuda"] if SIMULATED or ON_GPU else [])])
    def twin(request, on_host, monkeypatch):
        if request.param == "cuda":
            return on_host()
        pytest.importorskip("numba", reason="numba is not installed")
        numba_cuda = importlib.import_module(f"{package}.numba_cuda")
        if SIMULATED:
            _forget(numba_cuda)
            for name, value in smaller.items():
                monkeypatch.setattr(numba_cuda, name, value)
        return numba_cuda

    @pytest.mark.skipif(SIMULATED or ON_GPU, reason="its tests run in this process")
    def test_the_other_twin_in_the_simulator():
        pytest.importorskip("numba", reason="numba is not installed")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        file = HERE / f"test_{family}_gpu_twins.py"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "numba_cuda", file],
            cwd=HERE.parents[1], env=environment | {"NUMBA_ENABLE_CUDASIM": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr

    return on_host, twin, test_the_other_twin_in_the_simulator


def _forget(module):
    """Empty the caches of its functions, which hold kernels."""
    for function in vars(module).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def thread_sanitizer(folder):
    """The options of `fake_cupy` for kernels under g++'s thread sanitizer; the test is skipped where that does not run."""
    flags, program = ("-O1", "-fsanitize=thread"), folder / "empty"
    command = ["g++", *flags, "-x", "c++", "-", "-o", program]
    built = subprocess.run(command, input="int main() {}", text=True, capture_output=True, check=False)
    if built.returncode or subprocess.run([program], capture_output=True, check=False).returncode:
        pytest.skip("g++'s thread sanitizer does not run here")
    return {"flags": flags}


def folder_of_programs(tmp_path_factory):
    """A folder for compiled kernels, one for all workers of a test run."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "on_host"
    folder.mkdir(exist_ok=True)
    return folder


def fake_cupy(folder, driver, flags=SANITIZED, threads=None, **limits):
    """`driver` is the C++ file that includes the kernels; `threads`, if given, replaces every launch's block size."""

    def module(code, options):
        own = (option for option in options if option != "--fmad=false")  # -ffp-contract=off, for every kernel
        return _Module(folder, driver, code, (*own, *flags), threads)

    device = SimpleNamespace(attributes=GPU | limits)
    cuda = SimpleNamespace(Device=lambda number: device, runtime=SimpleNamespace(getDevice=lambda: 0))
    return SimpleNamespace(RawModule=module, asarray=np.asarray, ndarray=np.ndarray, cuda=cuda)


class ElementwiseKernel:
    """CuPy's, over `array`s: the operation in a loop over arrays that are broadcast, and that lie in C order."""

    def __init__(self, folder, array, in_params, out_params, operation, name="kernel", options=()):
        assert name.isidentifier()
        assert options == ("--fmad=false",)
        self.array = array
        self.inputs, self.outputs = ([p.split() for p in params.split(", ")] for params in (in_params, out_params))
        typed = [(f"const {C[t]}", n) for t, n in self.inputs] + [(C[t], n) for t, n in self.outputs]
        parameters = [f"{t} *_raw_{n}" for t, n in typed]
        entries = [f"{t} &{n} = _raw_{n}[i];" for t, n in typed]
        self.text = f"""#include <math.h>
extern "C" __global__ void kernel({", ".join(parameters)}, long long _size) {{
    for (long long i = 0; i < _size; i++) {{ {" ".join(entries)} {operation}; }}
}}
"""
        self.run = _Module(folder, HERE / "elementwise_on_host.cpp", self.text, SANITIZED, None).get_function("kernel")

    def __call__(self, *arguments):
        assert all(type(x) is self.array for x in arguments), "an array of another library"
        given = [x.inner for x in arguments]
        assert [x.dtype.name for x in given] == [t for t, _ in self.inputs]
        shape = np.broadcast_shapes(*(x.shape for x in given))
        assert 16 * (1 + len(shape)) * (len(given) + len(self.outputs) + 1) <= 4096, "too many arguments for a kernel"
        given = [np.ascontiguousarray(np.broadcast_to(x, shape)).reshape(-1) for x in given]
        made = [np.zeros(shape, t) for t, _ in self.outputs]
        for x in given:
            x.flags.writeable = False
        if made[0].size:
            self.run((1,), (1,), (*given, *(y.reshape(-1) for y in made), np.int64(made[0].size)))
        results = tuple(map(self.array, made))
        return results if len(results) > 1 else results[0]


class _Module:
    def __init__(self, folder, driver, code, flags, threads):
        key = hashlib.sha256(repr((code, flags, driver.read_text())).encode()).hexdigest()[:16]
        self.program, self.threads = Path(folder) / f"{driver.stem}-{key}", threads
        if not self.program.exists():
            with tempfile.TemporaryDirectory(dir=folder) as kernels:
                built = Path(kernels) / "program"
                (Path(kernels) / "kernels.cu").write_text(code)
                command = ["g++", *flags, *WARNINGS, "-ffp-contract=off", "-pthread", f"-I{SHIM}", f"-I{kernels}"]
                done = subprocess.run([*command, "-o", built, driver], capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
                built.replace(self.program)

    def get_function(self, name):
        return _Function(self.program, name, self.threads)


class _Function:
    max_dynamic_shared_size_bytes = 48 << 10
    num_regs = 64

    def __init__(self, program, name, threads):
        self.program, self.name, self.threads = program, name, threads

    def __call__(self, grid, block, arguments, shared_mem=0):
        assert len(grid) == len(block) == 1
        assert grid[0] > 0
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        launch = f"{self.name} {grid[0]} {self.threads or block[0]} {shared_mem} {len(arguments)}\n".encode()
        given = b"".join(_sent(k, arguments) for k in range(len(arguments)))
        done = subprocess.run([self.program], input=launch + given, capture_output=True, check=False)
        if done.returncode:
            raise KernelError(done.stderr.decode())
        start = 0
        for k, array in enumerate(arguments):
            if isinstance(array, np.ndarray) and _first(k, arguments) == k:
                memory = memory_of(array)
                found = np.frombuffer(done.stdout, array.dtype, memory.size, start)
                start += memory.nbytes
                if array.flags.writeable:
                    memory[...] = found
                else:
                    np.testing.assert_array_equal(found, memory, "a kernel wrote into its input")
        assert start == len(done.stdout)


def _sent(k, arguments):
    """The protocol of kernels/shim/serve.h."""
    argument, first = arguments[k], _first(k, arguments)
    if first < k:
        return b"=" + np.int64(first).tobytes()
    kind, sent = (b"a", memory_of(argument)) if isinstance(argument, np.ndarray) else (b"s", argument)
    return kind + np.int64(sent.nbytes).tobytes() + sent.tobytes()


def memory_of(array):
    """All that lies between an array's first entry and its last; the kernel is told of the strides, none negative."""
    assert all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    last = sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)) // array.itemsize
    entries = last + 1 if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (entries,), (array.itemsize,), writeable=array.flags.writeable)


def _first(k, arguments):
    """The first argument that is this array."""
    return next(i for i, other in enumerate(arguments[: k + 1]) if other is arguments[k])
