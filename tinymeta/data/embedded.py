"""The .npz files that travel inside the package, written by tools/pack_data.py.

NumPy reads them too: `np.load(path, allow_pickle=False)`. The member `provenance.json` says what was packed and how.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.errors import Source
from tinymeta.data.readers import read_file, read_npy
from tinymeta.data.zips import zip_members

MAX_BYTES, MAX_MEMBERS, MAX_MEMBER_BYTES = 4_000_000, 8, 8_000_000
REMEDY = "install tinymeta again"


class Embedded:
    """The members of one embedded file; DataError for what is missing or damaged."""

    def __init__(self, path: Path) -> None:
        self.source = Source(str(path), REMEDY)
        raw = read_file(self.source, MAX_BYTES)
        self.members = dict(zip_members(raw, self.source, MAX_MEMBERS, MAX_MEMBER_BYTES))

    def text(self, name: str) -> str:
        """The ASCII text of a member."""
        content, source = self._content(name), self.source.member(name)
        if not content.isascii():
            raise source.refuse("other characters", "ASCII text")
        return content.decode("ascii")

    def array(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """The read-only uint8 array `name`, which must have this shape."""
        return read_npy(self._content(f"{name}.npy"), self.source.member(f"{name}.npy"), shape)

    def _content(self, name: str) -> bytes:
        if name not in self.members:
            raise self.source.refuse(f"the members {sorted(self.members)}", name)
        return self.members[name]
