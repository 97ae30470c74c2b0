"""A stand-in for CuPy that runs CUDA C on this machine: NumPy arrays, and a RawModule compiled by g++ (kernels/shim).

Its ElementwiseKernel takes and makes arrays of any class that holds a NumPy array as `inner`; they must be that class's alone.

What a kernel reads and writes goes to a program of its own and back, so that the program may run under sanitizers.
"""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

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


def folder_of_programs(tmp_path_factory):
    """A folder for compiled kernels, one for all workers of a test run."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "on_host"
    folder.mkdir(exist_ok=True)
    return folder


def fake_cupy(folder, driver, flags=SANITIZED, threads=None, **limits):
    """`driver` is the C++ file that includes the kernels; `threads`, if given, replaces every launch's block size."""

    def module(code, options):
        return _Module(folder, driver, code, (*options, *flags), threads)

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
                memory = _memory(array)
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
    kind, sent = (b"a", _memory(argument)) if isinstance(argument, np.ndarray) else (b"s", argument)
    return kind + np.int64(sent.nbytes).tobytes() + sent.tobytes()


def _memory(array):
    """All that lies between an array's first entry and its last; the kernel is told of the strides, none negative."""
    assert all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    last = sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)) // array.itemsize
    entries = last + 1 if array.size else 0
    return np.lib.stride_tricks.as_strided(array, (entries,), (array.itemsize,), writeable=array.flags.writeable)


def _first(k, arguments):
    """The first argument that is this array."""
    return next(i for i, other in enumerate(arguments[: k + 1]) if other is arguments[k])
