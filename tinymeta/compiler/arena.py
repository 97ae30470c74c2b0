"""One block of memory for the values of a list of statements: two values share a place if their lives do not overlap."""

from __future__ import annotations

from .graph import Value
from .statements import Loop, Product, Statement

ALIGNMENT = 64


def reads_and_writes(statement: Statement) -> tuple[list[Value], list[Value]]:
    """The roots that a statement reads, and those that it writes."""
    if isinstance(statement, Loop):
        writes = [view.root for _, view in statement.stores] + [s.out for s in statement.sums]
        return [view.root for view in statement.loads], writes
    if isinstance(statement, Product):
        return [statement.a.root, statement.b.root], [statement.c.root]
    indices = [view.root for view in statement.indices]
    made, taken = (
        (statement.source.root, statement.to.root) if statement.add else (statement.to.root, statement.source.root)
    )
    return [*indices, taken], [made]


def arrange(
    statements: list[Statement], outside: set[Value], extra: dict[int, int]
) -> tuple[dict[Value, int], dict[int, int], int]:
    """(place in bytes of each value that is written and not `outside`, place of each statement's own room, bytes in all).

    `extra` says how many bytes statement k needs while it runs.
    """
    lives: dict[Value, list[int]] = {}
    for k, statement in enumerate(statements):
        reads, writes = reads_and_writes(statement)
        for v in (*reads, *writes):
            if v not in outside:
                lives.setdefault(v, [k, k])[1] = k
    items = [(v.size * v.dtype.itemsize, first, last, v) for v, (first, last) in lives.items()]
    items += [(size, k, k, k) for k, size in extra.items()]  # type: ignore[misc]
    placed: list[tuple[int, int, int, int]] = []  # begin, end, first, last
    places: dict = {}
    for size, first, last, what in sorted(items, key=lambda item: -item[0]):
        begin = 0
        for low, high, start, end in sorted(placed):
            if start <= last and first <= end and low < begin + size and begin < high:
                begin = -(-high // ALIGNMENT) * ALIGNMENT
        placed.append((begin, begin + size, first, last))
        places[what] = begin
    total = max((end for _, end, _, _ in placed), default=0)
    rooms = {k: p for k, p in places.items() if isinstance(k, int)}
    return {v: p for v, p in places.items() if isinstance(v, Value)}, rooms, int(-(-total // ALIGNMENT) * ALIGNMENT)
