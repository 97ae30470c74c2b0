"""Write the tables of README.md and docs/ between their markers, from committed results only; --check fails if they are old."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "demo.md")
MARKER = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def benchmark(name: str) -> str:
    """A benchmark's rows as a Markdown table, with the machine below."""
    table = json.loads((RESULTS / f"{name}.json").read_text())
    head = f"| {table['title']} | median, {table['unit']} | × tinymeta |\n|---|---|---|\n"
    rows = "".join(f"| {r['name']} | {_number(r['median'])} | {_number(r['ratio'])} |\n" for r in table["rows"])
    versions = ", ".join(f"{k} {v}" for k, v in table["versions"].items() if k != "tinymeta")
    return (
        f"{head}{rows}\n{table['machine']}; {versions}; {table['rounds']} alternated fresh processes. {table['note']}\n"
    )


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def demo() -> str:
    """The demo's rows that have a published number, and what became of the papers' claims."""
    results = json.loads((RESULTS / "demo.json").read_text())
    rows = [line for e in results["experiments"] for line in _rows(e, lambda row: row["published"] is not None)]
    claims = [line for e in results["experiments"] for line in _claims(e)]
    return "\n".join([*_HEAD, *rows, "", *claims, "", _machine(results), ""])


def every_row(name: str) -> str:
    """Every row of a collection of results and what became of the papers' claims, one table per experiment."""
    results = json.loads((RESULTS / f"{name}.json").read_text())
    parts = [
        ["", f"### {e['experiment']}, preset `{e['preset']}`", "", *_HEAD, *_rows(e, lambda row: True), "", *_claims(e)]
        for e in results["experiments"]
    ]
    return "\n".join([_machine(results), *(line for part in parts for line in part), ""])


def _claims(experiment: dict[str, Any]) -> list[str]:
    return [
        f"- {'✓' if c['held'] else '✗'} `{experiment['experiment']}`: {c['sentence']} ({c['detail']})."
        for c in experiment["claims"]
    ]


_HEAD = ("| experiment | quantity | published | ours ± 95 % CI |", "|---|---|---|---|")


def _rows(experiment: dict[str, Any], wanted: Callable[[dict], bool]) -> list[str]:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        ci95 = f" ± {row['ci95']:.2g}" if row["ci95"] is not None else ""
        published = f"{row['published']:.3g}" if row["published"] is not None else "–"
        return experiment["experiment"], row["quantity"], published, f"{row['ours']:.3g}{ci95} {row['unit']}".strip()

    return [f"| {' | '.join(cells(row))} |" for row in experiment["rows"] if wanted(row)]


def _machine(results: dict[str, Any]) -> str:
    known = [
        (f"preset `{e['preset']}`, seed {e['config']['seed']}", e["versions"]["numpy"]) for e in results["experiments"]
    ]
    settings, numpy = sorted({setting for setting, _ in known}), known[0][1]
    return f"{'; '.join(settings).capitalize()}; {results['machine']}; NumPy {numpy}."


RENDER: dict[str, Callable[[], str]] = {
    "demo": demo,
    "demo_full": lambda: every_row("demo"),
    "paper": lambda: every_row("paper"),
    "l2l": lambda: every_row("l2l"),
    "lstm": lambda: benchmark("lstm"),
    "overhead": lambda: benchmark("overhead"),
    "imports": lambda: benchmark("imports"),
}


def rendered(text: str) -> str:
    """The page with every table written anew."""
    return MARKER.sub(lambda m: f"{m[1]}{RENDER[m[2]]()}{m[3]}", text)


def main() -> int:
    old = [page for page in PAGES if rendered(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        for page in old:
            print(f"{page.relative_to(ROOT)} is out of date: run python tools/readme_tables.py", file=sys.stderr)
        return int(bool(old))
    for page in old:
        page.write_text(rendered(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
