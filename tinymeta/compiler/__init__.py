"""tm.compile: one run of a function, captured, cleaned up and made a program that does the same without Python's cost.

capture.py writes down every op that runs, graph.py is what it writes, cleanup.py drops what is not needed. Then either
numpy_code.py prints NumPy with out=, into the buffers of plan.py; cupy_code.py prints CuPy, with kernels of elementwise ops by
cuda_scalars.py; or machine.py runs machine code: tasks.py finds the loop over tasks, for which apart.py takes the products of all
tasks apart, loops.py and convolutions.py make loops and products of ops, arena.py gives their values places, and llvm_code.py,
nests.py, products.py and scalars.py write them down with vectors.py; python_code.py prints the same loops for the reader, cache.py
keeps the code on disk. replay.py holds it all together: signature.py and closure.py say for which calls a program is good,
verify.py compares it with f.
"""

from .replay import Compiled, compile

__all__ = ["Compiled", "compile"]
