"""What `import tinymeta` costs on top of `import numpy`, and what its peers' imports cost, each in fresh processes."""

from __future__ import annotations

import json
import sys
import time

from .measure import alternate, summarise, write

CONTENDERS = {"tinymeta": "tinymeta", "HIPS autograd": "autograd", "jax": "jax", "PyTorch": "torch"}


def main() -> None:
    if len(sys.argv) > 1:
        import numpy  # noqa: F401  (its own import is not counted)

        start = time.perf_counter()
        __import__(CONTENDERS[sys.argv[1]])
        print(json.dumps({"ms": 1e3 * (time.perf_counter() - start)}))
        return
    rounds = 7
    reports = alternate("bench.imports", list(CONTENDERS), rounds)
    write(
        "imports", "Import time, over that of NumPy", "ms", rounds, summarise(reports, "ms", "tinymeta"),
        ["tinymeta", "numpy", "torch", "autograd", "jax"], "Warm file cache.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
