"""CIFAR-10 (Krizhevsky 2009): the original archive, or a copy of it in JPEG files whose pixels are not exact."""

from __future__ import annotations

import math
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.errors import Source
from tinymeta.data.fetch import cache_folder, fetch
from tinymeta.data.readers import read_file, read_npy, verify_sha256
from tinymeta.data.zips import zip_members

Split = Literal["train", "test"]
MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 50_000, "test": 10_000}
IMAGE = (3, 32, 32)
MAX_BYTES = 200_000_000  # of the decoded training images
BATCHES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}


class Cifar10(NamedTuple):
    """Images `x`, uint8 (N, 3, 32, 32), red, green, blue; labels `y`, uint8 (N,), of `CLASSES`. Both are read-only.

    `lossy` says that the pixels come from a JPEG-compressed copy: a result on them is not one on CIFAR-10 and must say so.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.uint8]
    lossy: bool

    @property
    def source(self) -> str:
        """What to write beside every result."""
        return "CIFAR-10, JPEG-compressed copy" if self.lossy else "CIFAR-10"


class Archive(NamedTuple):
    """A known archive: its name, its size in bytes and its SHA-256."""

    file: str
    size: int
    sha256: str


ORIGINAL = Archive(
    "cifar-10-binary.tar.gz", 170_052_171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
)
JPEG = Archive("cifar-10-jpeg.tar.xz", 18_521_392, "a86f9b064585bd15edf64cc062d73315fb71e58bb29b265205ea6d4136d69787")


def cifar10(split: Split = "train") -> Cifar10:
    """The 50,000 training or 10,000 test images in the original order.

    If $TINYMETA_DATA is set, its folder cifar10/ must hold the original cifar-10-binary.tar.gz or cifar-10-jpeg.tar.xz, a copy
    of it in JPEG files, which is decoded on first use (by Pillow, kept in the user's cache). Else the original is fetched into
    the cache (pooch). The archive's SHA-256 is verified in every case; DataError if it is wrong or the file is missing,
    ImportError that says what to install.
    """
    if split not in SIZES:
        raise ValueError(f"split is {split!r}, expected one of {list(SIZES)}")
    return _load(split, os.environ.get("TINYMETA_DATA"))


@cache
def _load(split: str, data: str | None) -> Cifar10:
    if not data:
        folder = cache_folder("cifar10")
        fetch(ORIGINAL.file, ORIGINAL.sha256, MIRRORS, folder)
        return read_original(folder, ORIGINAL, split, "delete this file to have it fetched again")
    folder = Path(data, "cifar10")
    remedy = f"copy {ORIGINAL.file} there from {MIRRORS[0]}, or unset TINYMETA_DATA to have it fetched"
    if (folder / JPEG.file).exists() and not (folder / ORIGINAL.file).exists():
        return read_jpeg(folder, JPEG, split, cache_folder("cifar10"), remedy)
    return read_original(folder, ORIGINAL, split, remedy)


def read_original(folder: Path, archive: Archive, split: str, remedy: str) -> Cifar10:
    """The images in records of 3,073 bytes: the label, then the pixels."""
    raw = _verified(folder, archive, remedy)
    batches = dict(_members(raw, lambda name: Path(name).name in BATCHES[split]))
    content = b"".join(batches[f"cifar-10-batches-bin/{name}"] for name in BATCHES[split])
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + math.prod(IMAGE))
    return Cifar10(_frozen(records[:, 1:].reshape(-1, *IMAGE)), _frozen(records[:, 0]), lossy=False)


def read_jpeg(folder: Path, archive: Archive, split: str, cached: Path, remedy: str) -> Cifar10:
    """The images in files like train/00000_frog.jpg; their arrays are kept in `cached` and read there from then on."""
    raw = _verified(folder, archive, remedy)
    kept = cached / f"{archive.file.partition('.')[0]}-{archive.sha256[:16]}-{split}.npz"
    if not kept.exists():
        _write(kept, *_decoded(raw, split))
    source = Source(str(kept), "delete this file to have it made again")
    members = dict(zip_members(read_file(source, MAX_BYTES), source, 2, MAX_BYTES))
    shapes = {"x.npy": (SIZES[split], *IMAGE), "y.npy": (SIZES[split],)}
    if members.keys() != shapes.keys():
        raise source.refuse(f"the members {sorted(members)}", f"{sorted(shapes)}")
    x, y = (read_npy(members[name], source.member(name), shape) for name, shape in shapes.items())
    return Cifar10(x, y, lossy=True)


def _verified(folder: Path, archive: Archive, remedy: str) -> bytes:
    source = Source(str(folder / archive.file), remedy)
    raw = read_file(source, archive.size)
    verify_sha256(raw, source, archive.sha256)
    return raw


def _members(raw: bytes, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files in a tar archive that has been verified."""
    with tarfile.open(fileobj=BytesIO(raw)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() and wanted(member.name) else None
            if file is not None:
                yield member.name, file.read()


def _decoded(raw: bytes, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The arrays x and y of the JPEG files."""
    decode = _import_pillow().open
    x, y = np.empty((SIZES[split], *IMAGE), np.uint8), np.empty(SIZES[split], np.uint8)
    for name, content in _members(raw, lambda name: name.startswith(f"{split}/")):
        index, _, label = Path(name).stem.partition("_")
        x[int(index)] = np.asarray(decode(BytesIO(content))).transpose(2, 0, 1)
        y[int(index)] = CLASSES.index(label)
    return x, y


def _write(path: Path, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> None:
    """An .npz file that is there whole or not at all, also where two processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, x=x, y=y)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()  # Windows removes no open file
            os.unlink(file.name)
            raise


def _frozen(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    x = np.ascontiguousarray(x)
    x.flags.writeable = False
    return x


def _import_pillow() -> ModuleType:
    try:
        import PIL.Image
    except ImportError as error:
        message = (
            f'decoding {JPEG.file} needs Pillow: pip install "tinymeta[images]", or put {ORIGINAL.file} in place of it, '
            "whose pixels are exact"
        )
        raise ImportError(message, name="PIL") from error
    return PIL.Image
