"""Run every benchmark."""

from . import imports, overhead

for benchmark in (overhead, imports):
    benchmark.main()
