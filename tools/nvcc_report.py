"""Compile every kernels/**/*.cu with nvcc for sm_80 and sm_90, and record what each kernel takes of a multiprocessor.

python -m tools.nvcc_report            # writes bench/results/nvcc.json
python -m tools.nvcc_report --check    # compiles only
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.measure import RESULTS

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {"sm_80": 164 << 10, "sm_90": 228 << 10}
"""Bytes of shared memory per multiprocessor (CUDA C++ Programming Guide, table of compute capabilities)."""
REGISTERS, THREADS = 65536, 2048  # per multiprocessor, of both


def find_nvcc() -> str | None:
    """On the path, in $CUDA_HOME, or where NVIDIA's installer puts it."""
    homes = (os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    return shutil.which("nvcc") or next(filter(None, (shutil.which(f"{home}/bin/nvcc") for home in homes)), None)


def sources() -> list[Path]:
    return sorted((ROOT / "kernels").rglob("*.cu"))


def compile_for(nvcc: str, source: Path, architecture: str) -> str:
    """The assembler's report on a source compiled with the options of its cuda.py, any warning an error."""
    flags = [*launcher(source).OPTIONS, f"-arch={architecture}", "-Werror", "all-warnings", "-Xptxas", "-v"]
    done = subprocess.run(
        [nvcc, *flags, "-cubin", "-o", os.devnull, source], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{source.relative_to(ROOT)} does not compile for {architecture}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def kernels(report: str) -> dict[str, dict[str, int]]:
    """Registers per thread, spilled bytes and static shared memory of each kernel in such a report."""
    found = {}
    for section in report.split("Compiling entry function '")[1:]:
        found[section.split("'")[0]] = {
            "registers": _number(r"Used (\d+) registers", section),
            "spill_stores": _number(r"(\d+) bytes spill stores", section),
            "spill_loads": _number(r"(\d+) bytes spill loads", section),
            "static_shared": _number(r"(\d+) bytes smem", section, otherwise=0),
        }
    return found


def _number(pattern: str, text: str, otherwise: int | None = None) -> int:
    match = re.search(pattern, text)
    if match is None and otherwise is None:
        raise ValueError(f"ptxas's report has nothing like {pattern!r}: {text}")
    return int(match[1]) if match else int(otherwise or 0)


def launcher(source: Path) -> Any:
    """The cuda.py beside a source. `tuned` gives (threads of a block, bytes of dynamic shared memory) of each kernel."""
    return import_module(f"tinymeta.kernels.{source.parent.name}.cuda")


def blocks_resident(architecture: str, registers: int, threads: int, shared: int) -> int:
    """Blocks that a multiprocessor holds at once; registers go by 256 to a warp, 1 KiB of shared memory to the system."""
    registers_of_a_block = threads // 32 * (-(-32 * registers // 256) * 256)
    return min(REGISTERS // registers_of_a_block, THREADS // threads, ARCHITECTURES[architecture] // (shared + 1024))


def rows(nvcc: str) -> list[dict[str, Any]]:
    """One row for each source, architecture and kernel."""
    table = []
    for source in sources():
        launched = launcher(source).tuned()
        for architecture in ARCHITECTURES:
            for kernel, used in sorted(kernels(compile_for(nvcc, source, architecture)).items()):
                threads, dynamic = launched[kernel]
                resident = blocks_resident(architecture, used["registers"], threads, used["static_shared"] + dynamic)
                table.append(
                    {"file": str(source.relative_to(ROOT)), "kernel": kernel, "architecture": architecture}
                    | used
                    | {"dynamic_shared": dynamic, "threads": threads, "blocks_per_multiprocessor": resident}
                )
    return table


def version(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"V([\d.]+)", text)[0]


def main() -> int:
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("nvcc was not found: install the CUDA toolkit, or set CUDA_HOME to its folder")
    if "--check" in sys.argv:
        for source in sources():
            for architecture in ARCHITECTURES:
                compile_for(nvcc, source, architecture)
        return 0
    title = "What each GPU kernel takes of a multiprocessor: ptxas's report, for the sizes that it is tuned for"
    report = {"title": title, "nvcc": version(nvcc), "rows": rows(nvcc)}
    (RESULTS / "nvcc.json").write_text(json.dumps(report, indent=1) + "\n")
    for row in report["rows"]:
        print(" ".join(f"{value}" if isinstance(value, str) else f"{key}={value}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
