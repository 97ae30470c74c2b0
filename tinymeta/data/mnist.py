"""MNIST (LeCun, Bottou, Bengio, Haffner 1998): a subset that travels with the package, and the full set."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.embedded import Embedded
from tinymeta.data.errors import Source
from tinymeta.data.fetch import cache_folder, fetch
from tinymeta.data.readers import read_file, read_gzip, read_idx, verify_sha256

Split = Literal["train", "test"]
EMBEDDED = Path(__file__).with_name("mnist_subset.npz")
SUBSET_SIZES = {"train": 10_000, "test": 2_000}
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)


class Images(NamedTuple):
    """Images `x`, uint8 (N, 28, 28), 0 is paper and 255 ink; labels `y`, uint8 (N,), 0 to 9. Both are read-only."""

    x: NDArray[np.uint8]
    y: NDArray[np.uint8]


class Original(NamedTuple):
    """A published file: its name, its size in bytes, its SHA-256, the shape of its content and the highest value."""

    file: str
    size: int
    sha256: str
    shape: tuple[int, ...]
    max_value: int


ORIGINALS = {
    "train": (
        Original(
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            (60_000, 28, 28),
            255,
        ),
        Original(
            "train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            (60_000,),
            9,
        ),
    ),
    "test": (
        Original(
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            (10_000, 28, 28),
            255,
        ),
        Original(
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            (10_000,),
            9,
        ),
    ),
}


def mnist(split: Split = "train") -> Images:
    """The full set, 60,000 or 10,000 images in the original order.

    The original files are taken from $TINYMETA_DATA/mnist if that variable is set, else from the user's cache, into
    which they are fetched on first use (needs pooch). Their SHA-256 is verified in every case; DataError if it is
    wrong or a file is missing or damaged.
    """
    return _load_full(_checked(split), os.environ.get("TINYMETA_DATA"))


def mnist_subset(split: Split = "train") -> Images:
    """The embedded subset: 1,000 training or 200 test images of each digit, drawn by tools/pack_data.py.

    They stand in the order of the originals. DataError if the installed file is damaged.
    """
    return _load_subset()[_checked(split)]


def read_originals(folder: Path, originals: Sequence[Original], remedy: str) -> Images:
    """The images and labels in two gzipped IDX files below `folder`; DataError ends with `remedy`."""
    return Images(*(_read_original(Source(str(folder / original.file), remedy), original) for original in originals))


@cache
def _load_full(split: str, data: str | None) -> Images:
    originals = ORIGINALS[split]
    if data:
        remedy = f"copy the original there from {MIRRORS[0]}, or unset TINYMETA_DATA to have it fetched"
        return read_originals(Path(data, "mnist"), originals, remedy)
    folder = cache_folder("mnist")
    for original in originals:
        fetch(original.file, original.sha256, MIRRORS, folder)
    return read_originals(folder, originals, "delete this file to have it fetched again")


@cache
def _load_subset() -> dict[str, Images]:
    embedded = Embedded(EMBEDDED)
    return {
        split: Images(embedded.array(f"{split}_x", (size, 28, 28)), embedded.array(f"{split}_y", (size,)))
        for split, size in SUBSET_SIZES.items()
    }


def _read_original(source: Source, original: Original) -> NDArray[np.uint8]:
    packed = read_file(source, original.size)
    raw = read_gzip(packed, source, 4 + 4 * len(original.shape) + math.prod(original.shape))
    values = read_idx(raw, source, original.shape, original.max_value)
    verify_sha256(packed, source, original.sha256)  # last, so that the readers say what is wrong and where
    return values


def _checked(split: str) -> str:
    if split not in ORIGINALS:
        raise ValueError(f"split is {split!r}, expected one of {list(ORIGINALS)}")
    return split
