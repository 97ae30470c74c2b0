"""Count the engine's lines of code (no blanks, comments or docstrings) and fail above the budget."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

BUDGET = 2500
ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("tinymeta/engine", "tinymeta/ops")
BESIDE = "tinymeta/compiler"  # counted, without a budget
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> int:
    """Lines on which a token of code stands, docstrings left out."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {n for t in tokens if t.type not in _SILENT for n in range(t.start[0], t.end[0] + 1)}
    return len(lines - docstrings)


def lines_in(room: str) -> list[int]:
    return [code_lines(path.read_text()) for path in sorted((ROOT / room).glob("*.py"))]


def main() -> int:
    counts = [n for room in ROOMS for n in lines_in(room)]
    total = sum(counts)
    print(f"engine and ops: {total} of {BUDGET} lines of code in {len(counts)} files")
    print(f"compiler: {sum(lines_in(BESIDE))} lines of code in {len(lines_in(BESIDE))} files")
    return int(total > BUDGET)


if __name__ == "__main__":
    sys.exit(main())
