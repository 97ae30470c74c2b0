"""The one error a user of the lab sees."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What was given, what was expected and what to do, in one sentence; the command prints it and exits with 2."""


def one_line(error: Exception) -> str:
    """What an error says, on one line: the text of a damaged file may be part of it."""
    return " ".join(str(error).split())


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown `word`: the close matches, or all that is known."""
    names = list(known)
    close = difflib.get_close_matches(word, names)
    return f"did you mean {' or '.join(close)}?" if close else f"choose one of {', '.join(names)}"
