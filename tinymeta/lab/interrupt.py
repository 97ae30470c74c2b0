"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

NOTICE = b"\nStopping after this step; press Ctrl-C again to stop at once and keep only the last checkpoint.\n"


class Stopped(KeyboardInterrupt):
    """Ctrl-C in a run; `lost` says what of it is lost, and the text also how to go on."""

    def __init__(self, lost: str, go_on: str = ""):
        super().__init__(f"Stopped, {lost}{'; ' if go_on else ''}{go_on}")
        self.lost = lost


@contextmanager
def held_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C and give a function that says whether there was one; a second one acts at once.

    Signals reach the main thread alone: in another thread, and where Ctrl-C is ignored, nothing is changed.
    """
    previous = signal.getsignal(signal.SIGINT)
    pressed: list[int] = []

    def hold(number: int, _frame: Any) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with suppress(OSError, AttributeError, ValueError):  # there may be no stderr, and another file with its number
            os.write(sys.stderr.fileno(), NOTICE)  # print is not safe inside a signal handler

    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, previous)
