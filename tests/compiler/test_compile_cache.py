"""Machine code on disk, between processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("llvmlite", reason="machine code needs llvmlite, which comes with numba")


PROGRAM = """
import numpy as np, tinymeta as tm
f = tm.compile(lambda x: tm.ops.sin(x) * 2)
print(f(np.arange(3.0)).tolist(), f.backend)
"""


def run_with(cache, **more):
    environment = (
        {k: v for k, v in os.environ.items() if k != "TINYMETA_BACKEND"} | {"TINYMETA_CACHE": str(cache)} | more
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


def test_machine_code_is_kept_on_disk_and_a_damaged_file_is_made_anew(tmp_path):
    first = run_with(tmp_path)
    (file,) = tmp_path.iterdir()
    content, changed = file.read_bytes(), file.stat().st_ino
    assert run_with(tmp_path) == first
    assert file.stat().st_ino == changed, "the second process has read it"
    file.write_bytes(content[:-7])
    assert run_with(tmp_path) == first
    assert file.read_bytes() == content
    assert "llvm" in first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "llvm" in run_with(blocked / "below")


def test_old_files_go(tmp_path, monkeypatch):
    from tinymeta.compiler import cache

    monkeypatch.setenv("TINYMETA_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "KEPT", 2)
    for k in range(4):
        assert cache.cached(f"text {k}", lambda k=k: bytes([k])) == bytes([k])
        os.utime(next(p for p in tmp_path.glob("*.o") if p.read_bytes()[32:] == bytes([k])), (k, k))
    assert {p.read_bytes()[32] for p in tmp_path.glob("*.o")} == {2, 3}
    assert cache.cached("text 3", lambda: b"never") == b"\x03"
