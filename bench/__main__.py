"""Run benchmarks and write bench/results/: `python -m bench` all of them, `python -m bench overhead imports` those named."""

import sys
from importlib import import_module

NAMES = ("overhead", "imports", "gemm", "lstm", "fisher", "maml")

names = sys.argv[1:] or NAMES
if unknown := set(names) - set(NAMES):
    print(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}", file=sys.stderr)
    sys.exit(2)
sys.argv = sys.argv[:1]  # a benchmark that finds an argument is one of its own contenders
for name in names:
    import_module(f"bench.{name}").main()
