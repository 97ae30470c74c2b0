"""The table *quantity | published | ours ± 95 % CI | ratio | source* as cells and as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tinymeta.lab.experiment import Claim, Row

HEADINGS = ("quantity", "published", "ours ± 95 % CI", "ratio", "source")
NONE = "–"
GROUPED = 1e4  # from here on digits are written in groups of three


def cells(row: Row) -> tuple[str, ...]:
    """The texts of one line, in the order of HEADINGS."""
    return (
        row.quantity,
        NONE if row.published is None else _with_unit(_number(row.published), row.unit),
        _with_unit(_with_interval(row.ours, row.ci95), row.unit),
        NONE if row.ratio is None else _ratio(row.ratio),
        row.source or NONE,
    )


def as_text(rows: Iterable[Row]) -> str:
    """Aligned columns for a terminal."""
    lines = [HEADINGS, *map(cells, rows)]
    lines.insert(1, tuple("-" * max(map(len, column)) for column in zip(*lines, strict=True)))
    return "\n".join(aligned(lines))


def aligned(lines: Iterable[Sequence[str]]) -> list[str]:
    """Each line's texts, padded to the longest of their column."""
    table = list(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]


def claim_text(claim: Claim) -> str:
    """`✓ held: sentence (detail)`."""
    return f"{'✓ held' if claim.held else '✗ did not hold'}: {claim.sentence} ({claim.detail})"


def _number(value: float, digits: int = 4) -> str:
    return f"{value:,.0f}" if GROUPED - 0.5 <= abs(value) < 1e7 else f"{value:.{digits}g}"


def _ratio(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _with_interval(value: float, ci95: float | None) -> str:
    """The interval to two digits and the value to the same place: 94.31 ± 0.11."""
    if ci95 is None:
        return _number(value)
    if not (math.isfinite(value) and 1e-6 <= ci95 < 1e6 and abs(value) < 1e6):
        return f"{_number(value)} ± {_number(ci95, 2)}"
    places = max(0, 1 - math.floor(math.log10(ci95)))
    grouped = "," if abs(value) >= GROUPED else ""
    return f"{value:{grouped}.{places}f} ± {ci95:{grouped}.{places}f}"


def _with_unit(text: str, unit: str) -> str:
    return f"{text} {unit}" if unit else text
