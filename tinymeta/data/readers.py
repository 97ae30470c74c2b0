"""Readers of files, gzip, IDX and NPY that trust nothing: pure functions of the bytes, and DataError for bad ones.

Each takes the `Source` of its bytes for the error and the limits or the shape that its caller expects, so that neither
memory nor time depends on what a damaged or hostile header claims.
"""

from __future__ import annotations

import hashlib
import math
import zlib

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.errors import Source

CHUNK = 4096
IDX_UINT8 = 0x08
NPY_MAGIC = b"\x93NUMPY\x01\x00"


def read_file(source: Source, max_bytes: int) -> bytes:
    """The bytes of the file, of which there may be `max_bytes` at most."""
    try:
        with open(source.file, "rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise source.refuse(error.strerror or str(error), "a readable file") from error
    if len(raw) > max_bytes:
        raise source.refuse("more bytes", f"the end of the file, which has {max_bytes} bytes at most", max_bytes)
    return raw


def verify_sha256(raw: bytes, source: Source, sha256: str) -> None:
    """Refuse bytes whose SHA-256 is not the published one."""
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sha256:
        raise source.refuse(f"{len(raw)} bytes with SHA-256 {digest}", f"the original with SHA-256 {sha256}")


def read_gzip(packed: bytes, source: Source, max_bytes: int) -> bytes:
    """The content of a gzip file of one member; it may have `max_bytes` at most, its checksum must be right.

    It is unpacked chunk by chunk: the offset of an error is that of its chunk, and a decompression bomb is refused as
    soon as it passes the limit.
    """
    inflate, parts, size = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS), [], 0
    for offset in range(0, len(packed), CHUNK):
        chunk = packed[offset : offset + CHUNK]
        try:
            parts.append(inflate.decompress(chunk, max_bytes + 1 - size))
        except zlib.error as error:
            raise source.refuse(f"bad gzip data ({error})", "an intact gzip file", offset) from error
        size += len(parts[-1])
        if size > max_bytes:
            raise source.refuse("more content", f"{max_bytes} bytes of content at most", offset)
        if inflate.eof:
            break
    if not inflate.eof:
        raise source.refuse("the end of the file", "the rest of the gzip data", len(packed))
    end = offset + len(chunk) - len(inflate.unused_data)
    if end < len(packed):
        raise source.refuse(f"{len(packed) - end} bytes after the gzip data", "the end of the file", end)
    return b"".join(parts)


def read_idx(raw: bytes, source: Source, shape: tuple[int, ...], max_value: int = 255) -> NDArray[np.uint8]:
    """The read-only uint8 array of an IDX file that must hold this `shape` and no value above `max_value`.

    Format (LeCun's MNIST page): two zero bytes, the type 8, the number of axes (so the magic is 2051 for images and
    2049 for labels), each length as a big-endian 32-bit integer, the values.
    """
    names = ["IDX magic", *(f"length of axis {axis}" for axis in range(len(shape)))]
    expected_header = [IDX_UINT8 << 8 | len(shape), *shape]
    start = 4 * len(expected_header)
    for at, name, expected in zip(range(0, start, 4), names, expected_header, strict=True):
        found = int.from_bytes(raw[at : at + 4], "big")
        if len(raw) < at + 4:
            raise source.refuse("the end of the data", f"{start} bytes of header", len(raw))
        if found != expected:
            raise source.refuse(f"{name} {found}", str(expected), at)
    _check_length(raw, source, start + math.prod(shape))
    values = np.frombuffer(raw, np.uint8, offset=start)
    if values.size and values.max() > max_value:
        at = int(np.argmax(values > max_value))
        raise source.refuse(f"the value {values[at]}", f"{max_value} at most", start + at)
    return values.reshape(shape)


def read_npy(raw: bytes, source: Source, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The read-only uint8 array of an NPY file (version 1.0, C order) that must hold this `shape`.

    Its header is compared with the only right one and never evaluated; pickles are thereby refused.
    """
    if not raw.startswith(NPY_MAGIC):
        raise source.refuse(repr(raw[: len(NPY_MAGIC)]), f"the NPY magic {NPY_MAGIC!r}", 0)
    start = len(NPY_MAGIC) + 2
    end = start + int.from_bytes(raw[start - 2 : start], "little")
    header = raw[start:end].rstrip().decode("latin-1")
    expected = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    if header != expected:
        raise source.refuse(f"the NPY header {header[:200]!r}", repr(expected), start)
    _check_length(raw, source, end + math.prod(shape))
    return np.frombuffer(raw, np.uint8, offset=end).reshape(shape)


def _check_length(raw: bytes, source: Source, length: int) -> None:
    if len(raw) < length:
        raise source.refuse("the end of the data", f"{length} bytes", len(raw))
    if len(raw) > length:
        raise source.refuse(f"{len(raw) - length} bytes more", "the end of the data", length)
