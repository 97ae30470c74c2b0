"""A reader of zip archives that trusts nothing: limits on number and size, no odd names, DataError for damage."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import PurePosixPath

from tinymeta.data.errors import Source

FIRST_HEADER, END_RECORD, END_RECORD_SIZE, END_RECORD_COUNT = b"PK\x03\x04", b"PK\x05\x06", 22, 10
# Beyond BadZipFile, zipfile lets through what its parts raise when they meet damaged bytes.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, OSError, RuntimeError, ValueError)


def zip_members(raw: bytes, source: Source, max_members: int, max_member_bytes: int) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file in the archive, in its order; folders are passed over.

    Refused beside damage: more than `max_members` entries, content of more than `max_member_bytes`, a method other than
    stored and deflated, a name that is doubled, absolute, leads upwards or is not ASCII, bytes before or after
    the archive.
    """
    _check_ends(raw, source)
    with _refusing_damage(source):
        archive = zipfile.ZipFile(BytesIO(raw))
    entries = archive.infolist()
    _check_count(raw, source, len(entries))
    if len(entries) > max_members:
        raise source.refuse(f"{len(entries)} entries", f"{max_members} at most")
    if len({entry.filename for entry in entries}) < len(entries):
        raise source.refuse("two entries of the same name", "each name once")
    for entry in entries:
        content = _read(archive, entry, source.member(entry.filename), max_member_bytes)
        if not entry.filename.endswith("/"):  # after reading: that compares the name with the one before the content
            yield entry.filename, content


def _check_ends(raw: bytes, source: Source) -> None:
    if not raw.startswith(FIRST_HEADER):
        raise source.refuse(repr(raw[:4]), f"the header {FIRST_HEADER!r} of a zip archive", 0)
    end = max(len(raw) - END_RECORD_SIZE, 0)
    if not raw[end:].startswith(END_RECORD):
        raise source.refuse(repr(raw[end : end + 4]), f"the zip end record {END_RECORD!r}, last in the file", end)


def _check_count(raw: bytes, source: Source, count: int) -> None:
    """zipfile does not compare: a damaged length in the directory can swallow the entries behind it."""
    at = len(raw) - END_RECORD_SIZE + END_RECORD_COUNT
    (recorded,) = struct.unpack_from("<H", raw, at)
    if recorded != count:
        raise source.refuse(f"{count} entries", f"the {recorded} of the end record", at)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, source: Source, max_bytes: int) -> bytes:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or not entry.filename.isascii():
        raise source.refuse(f"the name {entry.filename!r}", "an ASCII path in the archive", entry.header_offset)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise source.refuse(f"compression method {entry.compress_type}", "0 or 8", entry.header_offset)
    if entry.file_size > max_bytes:
        raise source.refuse(f"{entry.file_size} bytes of content", f"{max_bytes} at most", entry.header_offset)
    with _refusing_damage(source, entry.header_offset), archive.open(entry) as file:
        content = file.read(entry.file_size + 1)  # a size: without one zipfile would inflate a bomb first
    if len(content) != entry.file_size:
        raise source.refuse(f"{len(content)} bytes of content", f"{entry.file_size} bytes", entry.header_offset)
    return content


@contextmanager
def _refusing_damage(source: Source, offset: int | None = None) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise source.refuse(f"a damaged zip archive ({error})", "an intact one", offset) from error
