import getpass
import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tinymeta.lab import doctor, optional
from tinymeta.lab import versions as versions_module
from tinymeta.lab.versions import versions


def test_what_matters_is_there_and_nothing_private():
    record = versions()
    assert record["numpy"] == sys.modules["numpy"].__version__
    assert record["python"] == platform.python_version()
    assert record["cores"] >= 1
    assert "blas" in record["blas"].lower() or "accelerate" in record["blas"].lower() or "mkl" in record["blas"].lower()
    text = json.dumps(record)
    assert platform.node() not in text
    assert str(Path.home()) + "/" not in text
    assert str(Path(__file__).parents[2]) not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_settings_that_change_the_last_digits_are_recorded(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert versions()["OMP_NUM_THREADS"] == "1"


def test_the_simulator_of_the_cheetah_is_recorded(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda distribution: f"version of {distribution}")
    for name in ("gymnasium", "mujoco"):
        assert versions()[name] == f"version of {name}"


def test_the_doctor_s_columns_are_as_wide_as_what_stands_in_them(tmp_path):
    head, packages = doctor.describe(tmp_path).split("\n\noptional packages:\n")
    starts = {re.search("installed|missing", line).start() for line in packages.splitlines()}
    assert len(starts) == 1
    assert len({re.match(r"\S+ +", line).end() for line in head.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "TINYMETA_BACKEND is not set"),
        ("numpy", "numpy"),
        ("Numba", r"TINYMETA_BACKEND: backend 'Numba' is unknown, expected one of \['cuda', 'numba', 'numpy'\]"),
    ],
)
def test_the_doctor_says_whether_the_backend_can_be_used(monkeypatch, tmp_path, value, words):
    if value is None:
        monkeypatch.delenv("TINYMETA_BACKEND", raising=False)
    else:
        monkeypatch.setenv("TINYMETA_BACKEND", value)
    assert re.search(f"^backend +{words}", doctor.describe(tmp_path), re.MULTILINE)


def test_the_doctor_names_every_package_and_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rich", None)
    text = doctor.describe(tmp_path / "runs")
    assert all(name in text for name in optional.PACKAGES)
    assert "missing: pip install 'tinymeta[lab]'" in next(line for line in text.splitlines() if "rich" in line)
    assert f"{tmp_path / 'runs'} is writable" in text
    assert not (tmp_path / "runs").exists()


def test_the_doctor_sees_folders_that_cannot_be_used(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path / "file"))
    text = doctor.describe(tmp_path / "file" / "runs")
    assert "cannot be written: choose another folder by --runs" in text
    assert "which is no folder" in text
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path))
    assert f"TINYMETA_DATA is {tmp_path} with mnist" in doctor.describe(tmp_path)
    monkeypatch.delenv("TINYMETA_DATA")
    assert "TINYMETA_DATA is not set" in doctor.describe(tmp_path)


def test_the_commit_tells_changed_code_from_other_changed_code(monkeypatch, tmp_path):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *command], cwd=tmp_path, check=True)

    monkeypatch.setattr(versions_module, "__file__", str(tmp_path / "tinymeta" / "lab" / "versions.py"))
    assert versions()["commit"] is None
    git("init", "-q")
    assert versions()["commit"] is None
    code, seen = tmp_path / "code.py", []
    code.write_text("a = 1")
    git("add", "code.py")
    git("commit", "-q", "-m", "first")
    for text in ("a = 1", "a = 2", "a = 3", "a = 2"):
        code.write_text(text)
        seen.append(versions()["commit"])
    assert re.fullmatch("[0-9a-f]{40}", seen[0])
    assert all(re.fullmatch(f"{seen[0]}-dirty-[0-9a-f]{{8}}", one) for one in seen[1:])
    assert seen[1] != seen[2]
    assert seen[1] == seen[3]


def test_the_doctor_looks_at_folders_that_it_may_not_look_into(monkeypatch, tmp_path):
    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setenv("TINYMETA_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "iterdir", refused)
    assert f"TINYMETA_DATA is {tmp_path}, which cannot be read (Permission denied)" in doctor.describe(tmp_path)
    assert "runs " in doctor.describe(tmp_path / ("x" * 300))  # a name that no folder can have
