"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere, nothing for quick work."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from tinymeta.lab.optional import require

BAR_SECONDS, LINE_SECONDS = 0.2, 5.0  # between two updates
QUIET_SECONDS = 1.0  # work that ends sooner shows no bar

Report = Callable[[int, Mapping[str, float]], None]


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Report]:
    """Give `report(done, metrics)`, to be called after each step: it shows done / total, rate, time left and metrics.

    `done` is where a resumed run begins. UserError if stderr is a terminal and rich is not installed.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()  # None: closed by the shell
    pause = BAR_SECONDS if terminal else LINE_SECONDS
    started = time.monotonic()
    with (_bar if terminal else _lines)(label, total) as show:
        due = started + (QUIET_SECONDS if terminal else LINE_SECONDS)

        def report(now_done: int, metrics: Mapping[str, float]) -> None:
            nonlocal due
            now = time.monotonic()
            if now >= due:
                due = now + pause
                rate = (now_done - done) / max(now - started, 1e-9)
                show(now_done, describe(now_done, total, rate, metrics))

        yield report


def describe(done: int, total: int, rate: float, metrics: Mapping[str, float]) -> str:
    """`1,200/5,000  240 steps/s  ETA 0:00:15  loss 0.042`, of at most two metrics."""
    pace = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    left = timedelta(seconds=round((total - done) / rate)) if rate else "unknown"
    shown = [f"{name} {value:.4g}" for name, value in list(metrics.items())[:2]]
    return "  ".join([f"{done:,}/{total:,}", f"{pace} steps/s", f"ETA {left}", *shown])


@contextmanager
def _lines(label: str, total: int) -> Iterator[Callable[[int, str], None]]:
    yield lambda done, text: print(f"{label}  {100 * done // total:3d} %  {text}", file=sys.stderr, flush=True)


@contextmanager
def _bar(label: str, total: int) -> Iterator[Callable[[int, str], None]]:
    require("rich")
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}"))
    bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
    task = bar.add_task(label, total=total, text="")

    def show(done: int, text: str) -> None:
        bar.start()
        bar.update(task, completed=done, text=text, refresh=True)

    try:
        yield show
    finally:
        bar.stop()
