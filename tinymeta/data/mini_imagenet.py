"""mini-ImageNet: the lists of Ravi and Larochelle, which travel with the package, and a user's own folder of images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tinymeta.data.embedded import Embedded
from tinymeta.data.errors import DataError
from tinymeta.data.sets import check_counts, labelled

EMBEDDED = Path(__file__).with_name("mini_imagenet.npz")
SPLITS = {"train": 64, "validation": 16, "test": 20}  # classes, in the order of the packed file
PER_CLASS, SIDE = 600, 84
SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
WHERE = "images are ImageNet's (https://image-net.org/), which each user brings: see docs/maml.md"

Lists = Mapping[str, Mapping[str, tuple[str, ...]]]  # split -> class -> names of its images, without suffix


@cache
def mini_imagenet_lists() -> Lists:
    """The names of the images of each class of each split: 64, 16 and 20 classes of 600 (Ravi, Larochelle, ICLR 2017)."""
    embedded, classes = Embedded(EMBEDDED), sum(SPLITS.values())
    synsets = embedded.text("synsets.txt").split()
    digits = embedded.array("numbers", (classes, PER_CLASS, 4)).astype(np.int64)
    numbers = digits @ (256 ** np.arange(4))
    names = {s: tuple(f"{s}{n:08d}" for n in row) for s, row in zip(synsets, numbers, strict=True)}
    ends = np.cumsum([0, *SPLITS.values()])
    parts = zip(SPLITS, ends[:-1], ends[1:], strict=True)
    return MappingProxyType(  # the cached one, which nobody is to change
        {split: MappingProxyType({s: names[s] for s in synsets[start:end]}) for split, start, end in parts}
    )


class ImageClasses:
    """Images of classes that are read when they are first asked for, and kept: uint8 (n, 3, side, side), red, green, blue."""

    def __init__(self, files: dict[str, list[Path]], side: int) -> None:
        self.names, self.side = tuple(files), side
        self._files, self._kept = files, dict[str, NDArray[np.uint8]]()

    def __len__(self) -> int:
        return len(self.names)

    def sizes(self) -> list[int]:
        """The number of images of each class."""
        return [len(files) for files in self._files.values()]

    def images(self, index: int) -> NDArray[np.uint8]:
        """All images of a class; DataError that names the file if one cannot be read."""
        name = self.names[index]
        if name not in self._kept:
            self._kept[name] = np.stack([read_image(path, self.side) for path in self._files[name]])
            self._kept[name].flags.writeable = False
        return self._kept[name]


class MiniImageNet(NamedTuple):
    train: ImageClasses
    validation: ImageClasses
    test: ImageClasses


def mini_imagenet(folder: str | Path | None = None, side: int = SIDE, lists: Lists | None = None) -> MiniImageNet:
    """The three splits from a user's folder of images, by default $TINYMETA_DATA/mini-imagenet/images.

    The folder holds n0153282900000005.jpg and so on, side by side or in one folder a class; images of another size are
    resized to `side` (LANCZOS). Needs Pillow. DataError, before any is decoded, if the folder or an image is missing.
    """
    _import_pillow()
    root = _folder(folder)
    wanted = mini_imagenet_lists() if lists is None else lists
    found = _images(root, {name for classes in wanted.values() for names in classes.values() for name in names})
    missing = [name for classes in wanted.values() for names in classes.values() for name in names if name not in found]
    if missing:
        count = sum(len(names) for classes in wanted.values() for names in classes.values())
        raise DataError(
            str(root), f"{count - len(missing)} of the {count} listed images ({missing[0]}.jpg is not among them)",
            "all of them, side by side or in one folder a class", WHERE,
        )  # fmt: skip
    splits = {
        split: ImageClasses({label: [found[name] for name in names] for label, names in classes.items()}, side)
        for split, classes in wanted.items()
    }
    return MiniImageNet(**splits)


def _images(root: Path, names: set[str]) -> dict[str, Path]:
    """The image of each of these names that is below a folder."""
    found: dict[str, Path] = {}
    for path in sorted(_files(root)):
        if path.suffix.lower() in SUFFIXES and path.stem in names:
            first = found.setdefault(path.stem, path)
            if first is not path and not os.path.samefile(first, path):
                raise DataError(str(path), f"an image of the same name as {first}", "each listed image once", WHERE)
    return found


def _files(root: Path) -> Iterator[Path]:
    """All below a folder, links to folders included, each folder once."""
    seen = set()
    for here, folders, names in os.walk(root, followlinks=True):
        if (place := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(here, name) for name in names)


def _folder(folder: str | Path | None) -> Path:
    if folder:
        root = Path(folder)
    elif os.environ.get("TINYMETA_DATA"):
        root = Path(os.environ["TINYMETA_DATA"], "mini-imagenet", "images")
    else:
        raise DataError("mini-ImageNet", "no folder", "a folder of its images, or TINYMETA_DATA set", WHERE)
    if not root.is_dir():
        raise DataError(str(root), "no such folder", "the folder of the mini-ImageNet images", WHERE)
    return root


def read_image(path: Path, side: int) -> NDArray[np.uint8]:
    """An image file as uint8 (3, side, side); DataError if it is none."""
    pillow = _import_pillow()
    try:
        with pillow.open(path) as image:
            if image.mode.startswith(("I", "F")):  # of which Pillow keeps what is above 255 as 255
                raise ValueError(f"mode {image.mode!r}, more than 8 bits a channel")
            rgb = image.convert("RGB")
            rgb = rgb if rgb.size == (side, side) else rgb.resize((side, side), pillow.Resampling.LANCZOS)
            return np.asarray(rgb).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, EOFError, pillow.DecompressionBombError) as error:
        raise DataError(
            str(path), str(error) or type(error).__name__, "an intact image of 8 bits a channel", "replace this file"
        ) from error


def image_tasks(
    classes: ImageClasses, rng: np.random.Generator, ways: int, shots: int, queries: int, tasks: int
) -> tuple[tuple[NDArray, NDArray], tuple[NDArray, NDArray]]:
    """Support and query sets: images float32 in [0, 1] (T, ways * shots or queries, 3, side, side), ordered by class, and labels
    int64 (T, ways * shots or queries). No image occurs twice in a task. ValueError if there are too few."""
    check_counts(ways, shots, queries, tasks)
    if ways > len(classes) or shots + queries > min(classes.sizes(), default=0):
        raise ValueError(
            f"{ways} ways of {shots} + {queries} images were asked for, but there are {len(classes)} classes of "
            f"{min(classes.sizes(), default=0)} images or more; ask for fewer"
        )
    chosen = [
        [_some(classes.images(c), rng, shots + queries) for c in rng.permutation(len(classes))[:ways]]
        for _ in range(tasks)
    ]
    shape = (tasks, ways, shots + queries, 3, classes.side, classes.side)  # of no tasks as well
    x = np.array(chosen, np.float32).reshape(shape) / np.float32(255)
    return labelled(x[:, :, :shots]), labelled(x[:, :, shots:])


def _some(images: NDArray, rng: np.random.Generator, count: int) -> NDArray:
    return images[rng.permutation(len(images))[:count]]


def _import_pillow() -> ModuleType | Any:
    try:
        import PIL.Image
    except ImportError as error:
        message = 'reading images needs Pillow: pip install "tinymeta[images]"'
        raise ImportError(message, name="PIL") from error
    return PIL.Image
