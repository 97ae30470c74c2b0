"""tm.compile: one run of a function, captured, cleaned up and printed as a program that does the same without Python's cost.

capture.py writes down every op; graph.py is what it writes; cleanup.py drops what is not needed; plan.py finds buffers for the
values; numpy_code.py prints NumPy with out=; replay.py holds it all together, and verify.py compares with eager execution.
"""

from .replay import Compiled, compile

__all__ = ["Compiled", "compile"]
