"""What the configurations of experiments refuse, each in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def expect(config: Any, name: str, holds: bool, expected: str) -> None:
    """ValueError that says what a setting is and what it should be, unless that `holds`."""
    if not holds:
        raise ValueError(f"{name} = {getattr(config, name)}, expected {expected}")


def expect_at_least(least: int, config: Any, names: Iterable[str]) -> None:
    """ValueError that names the first of these settings that is, or has among its values, one below `least`."""
    for name in names:
        given = getattr(config, name)
        values = given if isinstance(given, tuple) else (given,)
        expect(config, name, min(values, default=least) >= least, f"{least} or more")


def expect_interval(config: Any, names: Iterable[str]) -> None:
    """ValueError that names the first of these settings, counts of what is tested, from which no confidence interval follows."""
    for name in names:
        expect(config, name, getattr(config, name) >= 2, "2 or more, for a confidence interval")


def expect_once(config: Any, names: Iterable[str]) -> None:
    """ValueError that names the first of these settings, tuples, that has a value twice."""
    for name in names:
        given = getattr(config, name)
        for number, value in enumerate(given):
            if value in given[:number]:
                raise ValueError(f"{name} has {value!r} twice, expected each once")
