"""What the configurations of the EWC experiments have in common: the settings that they refuse."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def check_settings(
    config: Any, known: Mapping[str, Collection[str]], positive: Sequence[str], grids: Sequence[str] = ()
) -> None:
    """ValueError that names a setting which is not one of the known words, not 1 or more, or an empty or negative grid."""
    for name, words in known.items():
        given = getattr(config, name)
        wrong = [word for word in ([given] if isinstance(given, str) else given) if word not in words]
        if wrong or not given:
            raise ValueError(f"{name} = {(wrong or [given])[0]!r}, expected one of {', '.join(words)}")
    for name in positive:
        given = getattr(config, name)
        if min(given if isinstance(given, tuple) else (given,), default=1) < 1:
            raise ValueError(f"{name} = {given}, expected 1 or more")
    for name in grids:
        if not getattr(config, name) or min(getattr(config, name)) < 0:
            raise ValueError(f"{name} = {getattr(config, name)}, expected at least one value, none negative")
