"""The house: floors that only lean on those below, a light import, and an engine that stays small."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    {"kernels"}, {"engine"}, {"ops"}, {"check", "compiler", "nets", "optim"}, {"l2l", "maml", "ewc", "rl"},
    {"data", "lab"}, {"experiments"}, {"cli"},
)  # fmt: skip
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
SOURCES = [p for p in (ROOT / "tinymeta").rglob("*.py") if p != ROOT / "tinymeta/__init__.py"] + list(
    (ROOT / "kernels").rglob("*.py")
)


def module_of(path: Path) -> tuple[str, ...]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts if parts[0] == "tinymeta" else ("tinymeta", *parts)


def rooms_imported(path: Path) -> set[str]:
    """First-level rooms of tinymeta that a file imports, wherever in the file."""
    package = module_of(path)[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            target = (*base, *(node.module or "").split(".")) if node.module else base
            names = [(*target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        else:
            continue
        rooms |= {name[1] for name in names if len(name) > 1 and name[0] == "tinymeta" and name[1] in LEVEL}
    return rooms


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_its_own_and_lower_floors(path: Path) -> None:
    room = module_of(path)[1]
    at = "/".join(module_of(path)[1:]) + ".py"
    above = {r for r in rooms_imported(path) if LEVEL[r] > LEVEL[room]}
    assert not above, f"{at} imports from {sorted(above)}, which lie above {room}"


def test_the_floor_check_sees_imports_of_every_form(tmp_path: Path) -> None:
    file = ROOT / "tinymeta/l2l/network.py"
    assert {"kernels", "ops"} <= rooms_imported(file)
    assert "engine" in rooms_imported(ROOT / "tinymeta/ops/reduce.py")


def test_importing_tinymeta_loads_numpy_and_nothing_heavy() -> None:
    program = (
        "import sys, tinymeta as tm; tm.grad, tm.l2l.LSTMOptimizer, tm.maml.adapt, tm.ewc.Penalty, tm.kernels.lstm.step;"
        "heavy = {'numba', 'cupy', 'matplotlib', 'hypothesis', 'rich', 'pooch', 'torch', 'jax', 'scipy', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_exists_and_is_documented() -> None:
    import tinymeta as tm

    for name in tm.__all__:
        assert getattr(tm, name).__doc__, f"tm.{name} has no docstring"
    for name in tm.ops.__all__:
        assert getattr(tm.ops, name).__doc__, f"tm.ops.{name} has no docstring"


def test_the_tables_of_the_readme_and_the_docs_are_those_of_the_committed_results() -> None:
    subprocess.run([sys.executable, "-m", "tools.readme_tables", "--check"], check=True, cwd=ROOT)


def test_every_committed_figure_is_that_of_a_committed_result() -> None:
    results = [json.loads(path.read_text()) for path in (ROOT / "bench/results").glob("*.json")]
    named = [name for r in results for e in r.get("experiments", []) for name in e.get("figures", {})]
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs/figures").iterdir())
