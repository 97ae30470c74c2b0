"""Explicit vectors for CPU kernels: a small emitter of LLVM code inside Numba's ``@intrinsic`` functions.

Why: a kernel that keeps sixteen accumulators in registers over a whole dot product, and applies its gates to them
there, reaches about two thirds of a tuned matrix product. The same loops left to LLVM's autovectoriser reach 60 to
85 % of that, and less after an innocent change. So the vectors are written down: ``emit`` has loads, stores, arithmetic
and loops on vectors of float32, ``functions`` the tanh, the logistic function and the logarithm made of them.

A vector has as many lanes as a register of the processor; wider ones would be right too, since LLVM splits them.

    @vector_code(types.void, types.int64, types.int64)
    def double(simd, data, vectors):                      # the address of so many vectors of floats
        data = simd.at(data)
        with simd.loop(vectors) as k:
            x = simd.load(data, simd.times(k, simd.lanes))
            simd.store(simd.add(x, x), data, simd.times(k, simd.lanes))

``double`` is then a function that compiled (njit) code may call. A function that is cached on disk refers to `sources()`, a
number made of this package's text, in its closure: so Numba compiles it anew when the package has changed.

Importing this package needs numba, which comes with ``pip install 'tinymeta[fast]'``.
"""

import zlib
from pathlib import Path

try:
    from numba import njit, types
except ImportError as error:
    raise ImportError("the CPU kernels need numba, which is not installed; pip install 'tinymeta[fast]'") from error

from .emit import FLOAT64, Simd, Value, Variable, native_lanes, vector_code
from .functions import SIGMOID, exp2, log, sigmoid_denominator, tanh_ratio
from .threads import available, take, together
from .without_jit import cfunc


def sources(*files: str) -> int:
    """A number made of the text of this package and of the files whose emitting functions a cached kernel calls."""
    own = (Path(__file__).with_name(name) for name in ("emit.py", "functions.py"))
    return zlib.crc32(b"".join(path.read_bytes() for path in (*own, *map(Path, files))))


__all__ = [
    "FLOAT64",
    "SIGMOID",
    "Simd",
    "Value",
    "Variable",
    "available",
    "cfunc",
    "exp2",
    "log",
    "native_lanes",
    "njit",
    "sigmoid_denominator",
    "sources",
    "take",
    "tanh_ratio",
    "together",
    "types",
    "vector_code",
]
