"""One piece of work in several threads, whose kernels run without Python's lock.

Why not Numba's ``prange``: its OpenMP threads keep spinning after a loop, which on a machine with few cores makes the
matrix products between two calls several times slower; its other layers wake slowly or refuse two callers at a time.
Here an idle thread sleeps, and one that wakes late costs little, since the pieces are handed out as threads ask.
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from numba import config, types

from .emit import Simd, Value, vector_code


def available() -> int:
    """Threads that a kernel may use: NUMBA_NUM_THREADS, by default the processors of this process."""
    return int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set when numba reads its settings


def together(work: Callable[[int], None], threads: int) -> None:
    """work(0), ..., work(threads - 1) at once, the first in this thread, until all that have begun are done.

    They share what there is to do by a counter: one that has not begun when work(0) ends is not needed, and dropped. What
    one of them raises comes out when none writes to the caller's arrays any more.
    """
    helpers: list[Future] = []
    try:
        for k in range(1, threads):
            helpers.append(_pool().submit(work, k))  # noqa: PERF401  (it holds all that may have begun, at any moment)
        work(0)
    finally:
        failures = _ends([helper for helper in helpers if not helper.cancel()])
    for failure in filter(None, failures):
        raise failure


def _ends(helpers: list[Future]) -> list[BaseException | None]:
    """How each has ended, once all have: Ctrl-C comes out after that too."""
    interrupts: list[BaseException | None] = []
    while not all(helper.done() for helper in helpers):
        try:
            wait(helpers)
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)
    return [*interrupts, *(helper.exception() for helper in helpers)]


@vector_code(types.int64, types.int64, types.int64)
def take(simd: Simd, counter: Value, count: Value) -> Value:
    """Add count to the int64 at an address, whatever other threads do, and return what it was."""
    slot = simd.builder.inttoptr(counter, count.type.as_pointer())
    return simd.builder.atomic_rmw("add", slot, count, "monotonic")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, available() - 1), thread_name_prefix="tinymeta")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads
