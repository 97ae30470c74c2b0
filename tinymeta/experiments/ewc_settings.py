"""What the configurations of the EWC experiments have in common: the settings that they refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from .settings import expect, expect_at_least


def check_settings(
    config: Any, known: Mapping[str, Collection[str]], positive: Sequence[str], grids: Sequence[str] = ()
) -> None:
    """ValueError that names a setting which is not one of the known words, not 1 or more, or an empty or negative grid."""
    for name, words in known.items():
        given = getattr(config, name)
        wrong = [word for word in ([given] if isinstance(given, str) else given) if word not in words]
        if wrong or not given:
            raise ValueError(f"{name} = {(wrong or [given])[0]!r}, expected one of {', '.join(words)}")
    expect_at_least(1, config, positive)
    for name in grids:
        expect(config, name, min(getattr(config, name), default=-1) >= 0, "at least one value, none negative")
