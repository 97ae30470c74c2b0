"""Fair timing: every contender in fresh processes, alternated round by round; results compared before they are timed."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).with_name("results")
UNSET = (  # so that the libraries have their own defaults
    "OPENBLAS_CORETYPE",
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "PYTHONDONTWRITEBYTECODE",
    "TINYMETA_BACKEND",
)


def median_seconds(f: Callable[[], Any], calls: int) -> float:
    """Median time of one call, after a warm-up of a tenth as many calls."""
    for _ in range(max(3, calls // 10)):
        f()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def sgemm() -> dict[str, float]:
    """The machine's rate: GF/s of NumPy's product of 2048 x 2048 float32 matrices, a report for `alternate`."""
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    out = np.empty_like(a)
    return {"gflops": 2 * 2048**3 / median_seconds(lambda: np.matmul(a, a, out=out), 9) / 1e9}


def memory(field: str) -> float:
    """MB of this process, from Linux: VmRSS is what it holds, VmHWM the most that it held since `new_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def new_peak() -> None:
    """The peak of memory begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def alternate(
    module: str, contenders: list[str], rounds: int, more: Mapping[str, str] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """`python -m MODULE CONTENDER` prints one JSON object; every contender runs once per round, in turn.

    `more` are further environment variables.
    """
    environment = {key: value for key, value in os.environ.items() if key not in UNSET} | dict(more or {})
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            done = subprocess.run(
                [sys.executable, "-m", module, name], capture_output=True, text=True, env=environment, check=False
            )
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"]  # if it was killed
                raise SystemExit(f"{module} {name} failed: {said[-1]}")
            reports[name].append(json.loads(done.stdout.splitlines()[-1]))
    return reports


def summarise(reports: Mapping[str, list[dict[str, Any]]], key: str, ours: str) -> list[dict[str, Any]]:
    """Median, minimum and maximum over the rounds, and the ratio of medians contender / ours."""
    medians = {name: statistics.median(r[key] for r in rounds) for name, rounds in reports.items()}
    return [
        {
            "name": name, "median": round(medians[name], 4), "min": round(min(r[key] for r in rounds), 4),
            "max": round(max(r[key] for r in rounds), 4), "ratio": round(medians[name] / medians[ours], 3),
        }
        for name, rounds in reports.items()
    ]  # fmt: skip


def write(
    name: str,
    title: str,
    unit: str,
    rounds: int,
    rows: list[dict[str, Any]],
    packages: list[str],
    note: str,
    columns: Mapping[str, str] | None = None,
) -> None:
    """Save one table with the machine and the versions that made it, and print it.

    `columns` gives the titles of what the rows hold beside their time, such as {"gflops": "GF/s"}, and that of "ratio" where it
    is to another row than tinymeta's, or of speeds.
    """
    table = {
        "title": title, "unit": unit, "columns": dict(columns or {}), "rounds": rounds, "note": note, "rows": rows,
        "machine": machine(),
        "versions": {p: metadata.version(p) for p in packages} | {"python": platform.python_version()},
        "environment": f"{', '.join(UNSET)} unset in every process",
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(table, indent=2) + "\n")
    print(f"\n{title} ({unit}, median of {rounds} fresh processes)")
    of = (columns or {}).get("ratio", "× tinymeta")
    for row in rows:
        print(f"  {row['name']:<28}{row['median']:>10.3f}   {row['ratio']:>8.2f} {of}")


def machine() -> str:
    """CPU model and core count."""
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{os.cpu_count()} cores, {models[0] if models else platform.processor() or platform.machine()}"
