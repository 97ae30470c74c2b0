"""What is said when a data file is not what it should be, and the file that it is said about."""

from __future__ import annotations

from typing import NamedTuple


class DataError(ValueError):
    """A data file is missing, truncated, oversized, mislabelled or corrupt.

    One sentence: the file, the offset in it (bytes, None if it concerns the file as a whole), what was found, what was
    expected, what to do. `file` and `offset` are attributes too.
    """

    def __init__(self, file: str, found: str, expected: str, remedy: str, offset: int | None = None) -> None:
        super().__init__(file, found, expected, remedy, offset)
        self.file, self.offset = file, offset

    def __str__(self) -> str:
        file, found, expected, remedy, offset = self.args
        where = file if offset is None else f"{file}, offset {offset}"
        return f"{where}: found {found}, expected {expected}; {remedy}"


class Source(NamedTuple):
    """The file that bytes came from, and what its user should do if they are wrong."""

    file: str
    remedy: str = "replace this file by an undamaged copy"

    def refuse(self, found: str, expected: str, offset: int | None = None) -> DataError:
        return DataError(self.file, found, expected, self.remedy, offset)

    def member(self, name: str) -> Source:
        """The source of a member of this archive."""
        return self._replace(file=f"{self.file}[{name}]")
