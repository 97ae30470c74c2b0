"""What the configurations of the EWC experiments have in common: the settings that they refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .settings import expect, expect_at_least, expect_once


def check_settings(
    config: Any,
    known: Mapping[str, Collection[str]],
    positive: Sequence[str],
    grids: Sequence[str] = (),
    not_negative: Sequence[str] = (),
) -> None:
    """ValueError that names a setting which is not one of the known words, not 1 or more, negative, or a grid that is empty or
    has a value that is negative or there twice. `fisher_samples` is a setting of all."""
    for name, words in known.items():
        given = getattr(config, name)
        wrong = [word for word in ([given] if isinstance(given, str) else given) if word not in words]
        if wrong or not given:
            raise ValueError(f"{name} = {(wrong or [given])[0]!r}, expected one of {', '.join(words)}")
    expect_at_least(1, config, positive)
    expect_at_least(0, config, ("fisher_samples", *not_negative))
    for name in grids:
        expect(config, name, min(getattr(config, name), default=-1) >= 0, "at least one value, none negative")
    expect_once(config, [*grids, *(name for name in known if not isinstance(getattr(config, name), str))])
