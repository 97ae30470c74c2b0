"""Write the tables of README.md between their markers, from committed results only; --check fails if they are out of date."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
MARKER = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def benchmark(name: str) -> str:
    """A benchmark's rows as a Markdown table, with the machine below."""
    table = json.loads((RESULTS / f"{name}.json").read_text())
    head = f"| {table['title']} | median, {table['unit']} | × tinymeta |\n|---|---|---|\n"
    rows = "".join(f"| {r['name']} | {r['median']:.3g} | {r['ratio']:.2f} |\n" for r in table["rows"])
    versions = ", ".join(f"{k} {v}" for k, v in table["versions"].items() if k != "tinymeta")
    return (
        f"{head}{rows}\n{table['machine']}; {versions}; {table['rounds']} alternated fresh processes. {table['note']}\n"
    )


def demo(name: str) -> str:
    """The demo's *published | ours* table over its experiments."""
    results = json.loads((RESULTS / f"{name}.json").read_text())
    lines = ["| experiment | quantity | published | ours ± 95 % CI |", "|---|---|---|---|"]
    for result in results["experiments"]:
        for row in result["rows"]:
            ci = f" ± {row['ci95']:.2g}" if row["ci95"] is not None else ""
            published = f"{row['published']:.3g}" if row["published"] is not None else "–"
            lines.append(
                f"| {result['experiment']} | {row['quantity']} | {published} | {row['ours']:.3g}{ci} {row['unit']} |".replace(
                    " |", " |"
                )
            )
    claims = [
        f"- {'✓' if c['held'] else '✗'} {c['sentence']}: {c['detail']}."
        for r in results["experiments"]
        for c in r["claims"]
    ]
    return "\n".join([*lines, "", *claims, "", f"{results['machine']}, seed {results['seed']}, presets `quick`.", ""])


RENDER = {"demo": demo, "overhead": benchmark, "imports": benchmark}


def rendered(text: str) -> str:
    """README's text with every table written anew."""
    return MARKER.sub(lambda m: f"{m[1]}{RENDER[m[2]](m[2])}{m[3]}", text)


def main() -> int:
    before = README.read_text()
    after = rendered(before)
    if "--check" in sys.argv:
        if before != after:
            print("README.md is out of date: run python tools/readme_tables.py", file=sys.stderr)
        return int(before != after)
    README.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
